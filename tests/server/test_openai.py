"""OpenAI's requests: what is written, in which shape, and what is refused."""

import asyncio
import json

import pytest
import torch

from offramp.server.drawing import SEED_STEP
from small_server import CONTEXT, VOCABULARY, causal_host, client_of

pytestmark = pytest.mark.anyio

PROMPT = "a ferry"
OWN = {"tokens": True}


def events(text):
    """The objects of a stream."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def greedy(host, ids, count, **options):
    """What ``generate`` writes."""
    made = host.model.generate(
        torch.tensor([ids]), max_new_tokens=count, do_sample=False, pad_token_id=0, **options
    )
    return made[0, len(ids) :].tolist()


async def test_a_completion_is_what_generate_writes(host, write):
    answer = await write(PROMPT, max_tokens=8, offramp=OWN)

    ids = host.vocabulary.encode(PROMPT)
    expected = greedy(host, ids, 8)
    choice = answer["choices"][0]
    assert choice["text"] == host.vocabulary.decode(expected)
    assert [each["id"] for each in choice["offramp"]["tokens"]] == expected
    assert choice["finish_reason"] == "length"
    assert answer["usage"] == {
        "prompt_tokens": len(ids),
        "completion_tokens": 8,
        "total_tokens": len(ids) + 8,
    }


async def test_a_chat_is_what_generate_writes_after_the_template(host, chat):
    answer = await chat(PROMPT, max_completion_tokens=8)

    expected = greedy(host, host.vocabulary.encode(f"user: {PROMPT}\nassistant: "), 8)
    message = answer["choices"][0]["message"]
    assert message == {
        "role": "assistant",
        "content": host.vocabulary.decode(expected),
        "refusal": None,
    }


def names(told):
    """The tokens of log-probabilities, the best ones included."""
    return [[each["token"], *(best["token"] for best in each["top_logprobs"])] for each in told]


def numbers(told):
    """The log-probabilities themselves: last digits depend on what runs beside."""
    each_with_best = ([each, *each["top_logprobs"]] for each in told)
    return [one["logprob"] for some in each_with_best for one in some]


@pytest.mark.parametrize("fields", [{"n": 3, "seed": 1, "temperature": 1.5}, {"stop": "E"}, {}])
async def test_a_stream_says_what_the_answer_at_once_says(client, fields):
    body = {
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 12,
        "logprobs": True,
        "top_logprobs": 2,
        "offramp": OWN,
        **fields,
    }

    whole = (await client.post("/v1/chat/completions", json=body)).json()
    stream = {**body, "stream": True, "stream_options": {"include_usage": True}}
    answer = await client.post("/v1/chat/completions", json=stream)

    assert answer.headers["content-type"].startswith("text/event-stream")
    *parts, last = events(answer.text)
    assert last["usage"] == whole["usage"]
    assert last["choices"] == []
    for choice in whole["choices"]:
        mine = [each["choices"][0] for each in parts]
        mine = [each for each in mine if each["index"] == choice["index"]]
        assert mine[0]["delta"]["role"] == "assistant"
        text = "".join(each["delta"].get("content", "") for each in mine)
        assert text == choice["message"]["content"]
        told = [
            token for each in mine for token in (each["logprobs"] or {"content": []})["content"]
        ]
        whole_told = choice["logprobs"]["content"]
        assert names(told) == names(whole_told)
        assert numbers(told) == pytest.approx(numbers(whole_told), abs=1e-4)
        tokens = [token for each in mine for token in each["offramp"]["tokens"]]
        assert tokens == choice["offramp"]["tokens"]
        reasons = [each["finish_reason"] for each in mine]
        assert reasons == [*[None] * (len(mine) - 1), choice["finish_reason"]]


async def test_prompts_may_be_several_and_in_tokens(host, write):
    ids = host.vocabulary.encode(PROMPT)

    texts = [
        [choice["text"] for choice in (await write(prompt, max_tokens=4))["choices"]]
        for prompt in (PROMPT, ids, [PROMPT, "b"], [ids, host.vocabulary.encode("b")])
    ]

    assert texts[0] == texts[1]
    assert texts[2] == texts[3]
    assert texts[2][0] == texts[0][0]
    assert len(texts[2]) == 2


async def test_a_seed_repeats_a_text_and_each_choice_has_its_own(write):
    drawn = {"temperature": 1.5, "max_tokens": 12}

    both = [choice["text"] for choice in (await write(n=2, seed=5, **drawn))["choices"]]

    assert both[0] == (await write(seed=5, **drawn))["choices"][0]["text"]
    assert both[1] == (await write(seed=5 + SEED_STEP, **drawn))["choices"][0]["text"]
    assert both[0] != both[1]


async def test_without_a_temperature_the_models_own_configuration_decides():
    host = causal_host()
    async with client_of(host) as (client, _):

        async def text(**fields):
            body = {"prompt": PROMPT, "max_tokens": 12, **fields}
            return (await client.post("/v1/completions", json=body)).json()["choices"][0]["text"]

        plain = await text()
        host.model.generation_config.do_sample = True
        host.model.generation_config.temperature = 1.5

        assert plain == await text(temperature=0)
        assert await text(seed=3) == await text(seed=3, temperature=1.5)
        assert await text(seed=3) != plain


async def test_a_stop_string_ends_the_text_and_frees_the_slot(host, write):
    whole = (await write(PROMPT, max_tokens=30))["choices"][0]["text"]
    stop = whole[4:6]

    answer = await write(PROMPT, max_tokens=200, stop=[stop, "never there"])

    assert answer["choices"][0]["text"] == whole[: whole.index(stop)]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] < 30


async def test_an_end_token_is_counted_and_not_shown():
    host = causal_host()
    ids = host.vocabulary.encode(PROMPT)
    expected = greedy(host, ids, 8)
    end = expected[3]
    host.model.generation_config.eos_token_id = end
    shown = expected[: expected.index(end)]
    async with client_of(host) as (client, _):
        body = {"prompt": PROMPT, "max_tokens": 8, "offramp": OWN}
        answer = (await client.post("/v1/completions", json=body)).json()
        other = (await client.post("/v1/completions", json={**body, "ignore_eos": True})).json()

    choice = answer["choices"][0]
    assert [each["id"] for each in choice["offramp"]["tokens"]] == shown
    assert choice["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == len(shown) + 1
    assert other["usage"]["completion_tokens"] == 8


async def test_log_probabilities_are_those_of_the_model(host, write, chat):
    ids = host.vocabulary.encode(PROMPT)
    with torch.no_grad():
        expected = host.model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
    best, second = expected.topk(2).indices.tolist()

    told = (await write(PROMPT, max_tokens=1, logprobs=2))["choices"][0]["logprobs"]

    assert told["tokens"] == [host.vocabulary.text(best)]
    assert told["token_logprobs"] == pytest.approx([float(expected[best])], abs=1e-4)
    assert told["text_offset"] == [0]
    assert len(told["top_logprobs"][0]) <= 2

    ids = host.vocabulary.encode(f"user: {PROMPT}\nassistant: ")
    with torch.no_grad():
        expected = host.model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
    best, second = expected.topk(2).indices.tolist()

    token = (await chat(PROMPT, max_tokens=1, logprobs=True, top_logprobs=2))["choices"][0]

    token = token["logprobs"]["content"][0]
    assert token["bytes"] == list(host.vocabulary.raw(best))
    assert [each["bytes"] for each in token["top_logprobs"]] == [
        list(host.vocabulary.raw(each)) for each in (best, second)
    ]
    assert token["logprob"] == pytest.approx(float(expected[best]), abs=1e-4)


async def test_an_echo_gives_the_prompt_first(host, write):
    plain = (await write(PROMPT, max_tokens=3))["choices"][0]["text"]

    answer = await write(PROMPT, max_tokens=3, echo=True, logprobs=0, offramp=OWN)

    choice = answer["choices"][0]
    assert choice["text"] == PROMPT + plain
    assert choice["logprobs"]["text_offset"][len(PROMPT)] == len(PROMPT)
    places = [each["prompt_position"] for each in choice["offramp"]["tokens"]]
    assert places == [*range(len(PROMPT)), None, None, None]


@pytest.mark.parametrize("decoding", ["contrast", "dola", "exit", "early_exit", "speculation"])
async def test_every_decoding_writes_what_generate_writes(host, write, decoding):
    from offramp import Contrast, DoLa, EarlyExit, FixedExit  # noqa: PLC0415

    own = {"decoding": decoding, "tokens": True}
    rules = {
        "contrast": Contrast(lower=2),
        "dola": DoLa(),
        "exit": FixedExit(exit=2),
        "early_exit": EarlyExit(rule="top_gap", threshold=0.05),
        "speculation": None,
    }
    own |= {"exit": {"exit": 2}, "early_exit": {"threshold": 0.05}}.get(decoding, {})

    answer = await write(PROMPT, max_tokens=8, offramp=own)

    tokens = answer["choices"][0]["offramp"]["tokens"]
    expected = greedy(host, host.vocabulary.encode(PROMPT), 8, decoding=rules[decoding])
    assert [each["id"] for each in tokens] == expected
    if decoding == "exit":
        assert {each["exit"] for each in tokens} == {2}
    if decoding == "early_exit":
        assert min(each["exit"] for each in tokens) < host.model.depth


async def test_transformers_generation_config_is_followed(host, write):
    plain = await write(PROMPT, max_tokens=5)
    config = {"max_new_tokens": 5, "do_sample": False, "temperature": 0.7, "num_beams": 1}

    assert (await write(PROMPT, generation_config=json.dumps(config)))["choices"] == plain[
        "choices"
    ]
    assert (await write(PROMPT, generation_config={**config, "max_new_tokens": 9_999}))["usage"][
        "completion_tokens"
    ] == CONTEXT - len(host.vocabulary.encode(PROMPT))


CALLS = {
    "no prompt": ({"prompt": None}, "prompt"),
    "empty prompt": ({"prompt": ""}, "no tokens"),
    "no such model": (
        {"model": "other"},
        "no model 'other' is served; use one of tiny, tiny-elmer",
    ),
    "elmer": ({"model": "tiny-elmer"}, "ask /v1/generate"),
    "unknown field": ({"tempreature": 1}, "tempreature: is not known here"),
    "unknown own field": ({"offramp": {"exits": 1}}, "offramp.exits: is not known here"),
    "hot": ({"temperature": 3}, "temperature"),
    "no number": ({"temperature": "warm"}, "temperature"),
    "too long": ({"max_tokens": CONTEXT}, f"ask for at most {CONTEXT - 7}"),
    "long prompt": ({"prompt": "a" * CONTEXT}, f"at most {CONTEXT - 1} are read"),
    "strange token": ({"prompt": [VOCABULARY]}, f"no token {VOCABULARY}"),
    "many texts": ({"n": 100}, "at most 32 texts"),
    "many stops": ({"stop": ["a"] * 17}, "at most 16"),
    "empty stop": ({"stop": [""]}, "stop"),
    "many logprobs": ({"logprobs": 21}, "at most 20"),
    "penalty": ({"presence_penalty": 0.5}, "presence_penalty is not offered"),
    "beams": ({"generation_config": '{"num_beams": 4}'}, "num_beams 4 is not followed"),
    "broken config": ({"generation_config": "{"}, "generation_config"),
    "no exit": ({"offramp": {"exit": 9}}, "exit 9 does not exist"),
    "no stream": ({"stream_options": {}}, "stream_options needs stream"),
    "no half": ({"prompt": "\ud800"}, "prompt"),
}


@pytest.mark.parametrize("name", CALLS)
async def test_what_cannot_be_done_is_refused_in_openais_form(client, name):
    fields, said = CALLS[name]

    content = json.dumps({"prompt": PROMPT, "max_tokens": 4, **fields})
    headers = {"Content-Type": "application/json"}
    answer = await client.post("/v1/completions", content=content, headers=headers)

    assert answer.status_code == (404 if name == "no such model" else 400), answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert said in error["message"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "pirate", "content": "a"}]}, "unknown role pirate"),
        ({"messages": [{"role": "user", "content": "a", "tool_calls": [1]}]}, "tool_calls"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url"),
        ({"messages": [{"role": "user"}]}, "has no content"),
        ({"tools": [{"type": "function"}]}, "tools is not offered"),
        ({"response_format": {"type": "json_object"}}, "response_format 'json_object'"),
        ({"top_logprobs": 2}, "needs logprobs"),
    ],
)
async def test_what_cannot_be_said_is_refused(client, fields, said):
    body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 4, **fields}

    answer = await client.post("/v1/chat/completions", json=body)

    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


async def test_parts_of_a_message_are_its_text(client, chat):
    parts = [{"type": "text", "text": "a fe"}, {"type": "text", "text": "rry"}]
    body = {"messages": [{"role": "user", "content": parts}], "max_tokens": 4}

    answer = (await client.post("/v1/chat/completions", json=body)).json()

    assert answer["choices"] == (await chat(PROMPT, max_tokens=4))["choices"]


async def test_a_full_queue_is_429_with_a_time_to_wait_and_nothing_is_begun():
    from offramp.server.scheduling import Room  # noqa: PLC0415

    host = causal_host(room=Room(slots=1, waiting=1))
    async with client_of(host) as (client, _):
        body = {"prompt": PROMPT, "max_tokens": 200, "n": 32}
        answer = await client.post("/v1/completions", json=body)
        await asyncio.sleep(int(answer.headers["retry-after"]))
        after = await client.post("/v1/completions", json={**body, "n": 1, "max_tokens": 2})

    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["type"] == "rate_limit_error"
    assert after.status_code == 200
