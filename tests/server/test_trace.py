"""A trace over HTTP is the library's own."""

import asyncio
import json

import pytest

pytestmark = pytest.mark.anyio


@pytest.fixture
def trace(client):
    async def ask(status=200, **fields):
        answer = await client.post("/v1/trace", json=fields)
        assert answer.status_code == status, answer.text
        return answer.json()

    return ask


async def test_a_trace_is_the_librarys_own(host, trace):
    ids = host.vocabulary.encode("a ferry")

    answer = await trace(prompt="a ferry", top=2, exits=[1, 3], window=[2, 5])

    expected = host.model.trace(
        ids, tokenizer=host.tokenizer, exits=[1, 3], top=2, positions=slice(2, 5)
    )
    assert answer == json.loads(expected.to_json()) | {"model": "tiny"}


async def test_what_was_written_follows_the_conversation(host, trace, chat):
    said = await chat("a ferry", max_tokens=4, tokens=True)
    tokens = [each["id"] for each in said["choices"][0]["offramp"]["tokens"]]

    messages = [{"role": "user", "content": "a ferry"}]
    answer = await trace(messages=messages, written=tokens[:3], window=[-1, None])

    place = answer["positions"][0]
    assert place["token"]["id"] == tokens[2]
    assert place["said"][-1]["top"][0]["token"]["id"] == tokens[3]


async def test_a_contrast_shows_what_it_changed(trace):
    answer = await trace(prompt="abc", decoding="contrast", window=[0, 1])

    assert answer["decoding"]
    assert answer["positions"][0]["changed"] is not None


async def test_texts_are_written_while_a_trace_is_made(host, write, trace):
    """A trace hooks into modules; those of the writer must not notice."""
    plain = (await write("a ferry", max_tokens=100))["choices"][0]["text"]
    answers = await asyncio.gather(
        write("a ferry", max_tokens=100), *(trace(prompt="a ferry" * 20) for _ in range(6))
    )

    assert answers[0]["choices"][0]["text"] == plain


async def test_an_elmer_canvas_can_be_looked_at(elmer, trace):
    answer = await trace(model="tiny-elmer", text="abc", top=1, window=[0, 2])

    expected = elmer.model.trace("abc", tokenizer=elmer.tokenizer, top=1, positions=slice(0, 2))
    assert answer == json.loads(expected.to_json()) | {"model": "tiny-elmer"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "got none"),
        ({"prompt": "a", "text": "b"}, "got prompt, text"),
        ({"prompt": ""}, "no tokens"),
        ({"prompt": "a" * 300}, "300 tokens"),
        ({"prompt": "a", "exits": [9]}, "exit 9 does not exist"),
        ({"prompt": "a", "window": [5, 9]}, "no position"),
        ({"prompt": "a", "decoding": "speculation"}, "contrast, dola and exit"),
        ({"model": "tiny-elmer", "messages": [{"role": "user"}]}, "reads one source"),
    ],
)
async def test_what_cannot_be_traced_is_refused(trace, fields, said):
    answer = await trace(status=400, **fields)

    assert said in answer["error"]["message"]
