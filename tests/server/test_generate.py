"""Several texts in one request: ELMER models in one pass, batched, and models that go on."""

import asyncio

import pytest
import torch

from offramp import OneShot

pytestmark = pytest.mark.anyio

SOURCES = ["abc", "a much longer source", "ferry", "x"]


@pytest.fixture
def generate(client):
    async def ask(status=200, model="tiny-elmer", **fields):
        answer = await client.post("/v1/generate", json={"model": model, **fields})
        assert answer.status_code == status, answer.text
        return answer.json()

    return ask


def alone(elmer, source, **options):
    ids = torch.tensor([elmer.vocabulary.encode(source)])
    made = elmer.model.generate(ids, return_dict_in_generate=True, **options)
    count = int((made.exits[0] >= 0).sum())
    return made.sequences[0, :count].tolist(), made.exits[0, :count].tolist()


@pytest.mark.parametrize("fields", [{}, {"exit_rule": "entropy", "threshold": 0.4}])
async def test_elmer_writes_for_each_source_what_it_writes_for_it_alone(elmer, generate, fields):
    answer = await generate(texts=SOURCES, one_shot=fields or None, tokens=True)

    for place, source in enumerate(SOURCES):
        ids, exits = alone(elmer, source, decoding=OneShot(**fields))
        told = answer["offramp"]["tokens"][place]
        assert [each["id"] for each in told] == ids
        assert answer["exits"][place] == exits
        assert answer["texts"][place] == elmer.vocabulary.decode(ids)
        assert "".join(each["text"] for each in told) == answer["texts"][place]


async def test_clients_at_the_same_time_get_the_text_of_their_own_source(elmer, generate):
    answers = await asyncio.gather(*(generate(text=source) for source in SOURCES * 3))

    expected = [elmer.vocabulary.decode(alone(elmer, source)[0]) for source in SOURCES * 3]
    assert [answer["texts"] for answer in answers] == [[text] for text in expected]


async def test_those_who_wait_with_the_same_wish_are_written_together(elmer, generate, monkeypatch):
    sizes = []
    whole = elmer.model.generate
    monkeypatch.setattr(
        elmer.model,
        "generate",
        lambda **given: sizes.append(len(given["input_ids"])) or whole(**given),
    )

    await asyncio.gather(*(generate(text=source) for source in SOURCES * 3))

    assert sum(sizes) == 12
    assert len(sizes) < 12


async def test_a_seed_repeats_what_is_drawn(generate):
    drawn = {"texts": SOURCES, "temperature": 2.0}

    same = [(await generate(seed=3, **drawn))["texts"] for _ in range(2)]

    assert same[0] == same[1] != (await generate(seed=4, **drawn))["texts"]


async def test_models_that_go_on_write_for_several_texts_too(host, generate, write):
    answer = await generate(model="tiny", texts=["a", "ferry"], max_new_tokens=5, exit=2)

    single = [
        (await write(each, max_tokens=5, exit=2))["choices"][0]["text"] for each in ("a", "ferry")
    ]
    assert answer["texts"] == single
    assert answer["exits"] == [[2] * 5] * 2


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "send text or texts"),
        ({"text": "a", "texts": ["b"]}, "send text or texts"),
        ({"text": ""}, "no tokens"),
        ({"text": "a" * 300}, "has 300 tokens, the model's context 256"),
        ({"texts": ["a"] * 33}, "at most 32 texts"),
        ({"text": "a", "stop": "b"}, "stop would change nothing"),
        ({"text": "a", "one_shot": {"exit_rule": "gut"}}, "no exit_rule 'gut'"),
        ({"text": "a", "one_shot": {"refine_steps": 99}}, "refine_steps"),
        ({"text": "a", "max_tokens": 2, "max_new_tokens": 3}, "said twice"),
        ({"text": "a", "model": "tiny", "one_shot": {}}, "one_shot is for ELMER models"),
    ],
)
async def test_what_cannot_be_written_is_refused(generate, fields, said):
    answer = await generate(status=400, **fields)

    assert said in answer["error"]["message"]
