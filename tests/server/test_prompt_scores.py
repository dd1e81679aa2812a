"""A prompt's log-probabilities are those of the model, by whatever answers."""

import json

import pytest
import torch

from offramp import Contrast, DoLa, FixedExit
from offramp.evaluation.harness.requests import asked as asked_about
from offramp.evaluation.harness.requests import batches
from offramp.evaluation.harness.scoring import Scorer

pytestmark = pytest.mark.anyio

PROMPT = "the ferry waits for the tide, and nobody minds. " * 4
"""192 tokens: more than are scored at a time."""

RULES = {
    "plain": None,
    "contrast": Contrast(lower=2),
    "dola": DoLa(),
    "exit": FixedExit(exit=2),
    "speculation": None,
}


def scored(host, ids, rule):
    """Score all tokens but the first as the harness does."""
    scorer = Scorer(host.model, rule)
    (batch,) = batches([asked_about(ids[:1], ids[1:], longest=len(ids))], 1)
    return scorer.score(batch.ids, batch.places, tokens=batch.tokens).log_p


@pytest.mark.parametrize("decoding", RULES)
async def test_they_are_those_of_the_harness(host, write, decoding):
    own = {"decoding": decoding} | ({"exit": 2} if decoding == "exit" else {})
    ids = host.vocabulary.encode(PROMPT)

    answer = await write(PROMPT, max_tokens=1, echo=True, logprobs=2, offramp=own)

    told = answer["choices"][0]["logprobs"]
    assert told["token_logprobs"][0] is told["top_logprobs"][0] is None
    expected = scored(host, ids, RULES[decoding]).clamp(min=-9999.0)
    found = torch.tensor(told["token_logprobs"][1 : len(ids)], dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    assert len(told["tokens"]) == len(ids) + 1
    assert told["tokens"][: len(ids)] == [host.vocabulary.text(each) for each in ids]
    assert told["text_offset"][: len(ids)] == list(range(len(PROMPT)))


async def test_a_prompt_is_as_likely_as_when_it_was_written(host, write):
    begun = "the ferry"
    written = (await write(begun, max_tokens=20, logprobs=1))["choices"][0]
    ids = host.vocabulary.encode(begun)

    tokens = (await write(begun, max_tokens=20, offramp={"tokens": True}))["choices"][0]
    tokens = [each["id"] for each in tokens["offramp"]["tokens"]]
    again = await write([*ids, *tokens], max_tokens=1, echo=True, logprobs=1)

    told = again["choices"][0]["logprobs"]["token_logprobs"][len(ids) : -1]
    assert told == pytest.approx(written["logprobs"]["token_logprobs"], abs=1e-4)


async def test_several_prompts_and_choices_have_their_own(write):
    answer = await write(["abc", "d"], n=2, max_tokens=1, echo=True, logprobs=0, temperature=1)

    told = [each["logprobs"]["tokens"] for each in answer["choices"]]
    assert [each[:-1] for each in told] == [["a", "b", "c"]] * 2 + [["d"]] * 2


async def test_a_stream_says_the_same(client, write):
    fields = {"max_tokens": 4, "echo": True, "logprobs": 2}
    whole = (await write(PROMPT, **fields))["choices"][0]["logprobs"]

    answer = await client.post("/v1/completions", json={"prompt": PROMPT, "stream": True, **fields})

    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    parts = [json.loads(each)["choices"][0]["logprobs"] for each in events if each != "[DONE]"]
    for name, values in whole.items():
        told = [each for part in parts if part for each in part[name]]
        if name == "token_logprobs":
            assert told[1:] == pytest.approx(values[1:], abs=1e-4)
        elif name != "top_logprobs":
            assert told == values


async def test_what_chooses_while_it_writes_is_refused(write):
    own = {"decoding": "early_exit"}

    error = await write(PROMPT, status=400, echo=True, logprobs=1, offramp=own)

    assert "chooses exits while it writes" in error["error"]["message"]


async def test_an_exit_that_is_not_there_is_refused(write):
    error = await write(PROMPT, status=400, echo=True, logprobs=1, offramp={"exit": 99})

    assert "99" in error["error"]["message"]


async def test_a_prompt_that_is_too_long_is_refused_before_it_is_read(write):
    error = await write("a" * 400, status=400, echo=True, logprobs=1)

    assert error["error"]["code"] == "context_length_exceeded"
