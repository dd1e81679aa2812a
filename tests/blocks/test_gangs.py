"""Texts that attend together hold what they would hold alone."""

import gc
from weakref import ref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
from offramp.blocks.anatomy import anatomy_of
from offramp.blocks.engines import engine_for, gangs

MODEL = tiny.model_of("llama")
DEPTH = tiny.DEPTH


@pytest.fixture(autouse=True)
def _no_gradients(monkeypatch):
    monkeypatch.setattr(gangs, "LONGEST", 40)
    monkeypatch.setattr(gangs, "ROOM", 4)
    with torch.no_grad():
        yield


def tokens_of(seed, count):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, tiny.VOCAB, (count,), generator=generator)


def run(engine, rows, parts, stop=DEPTH):
    pieces = [(row, len(part)) for row, part in zip(rows, parts, strict=True)]
    states = engine.run(engine.embed(torch.cat(parts), pieces), 0, stop, pieces)
    return states.split([len(part) for part in parts])


steps = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "write", "join", "leave", "cut", "several"]),
        st.integers(0, 7),
    ),
    min_size=5,
    max_size=30,
)


@given(steps=steps, seed=st.integers(0, 9))
def test_rows_that_come_and_go_are_the_model_own_forward_of_each(steps, seed):
    engine = engine_for(anatomy_of(MODEL), "plain")
    texts = {}
    states = {}

    def add(names, counts):
        parts = [
            tokens_of(seed + 7 * name + len(texts[name][1]), n)
            for name, n in zip(names, counts, strict=True)
        ]
        found = run(engine, [texts[name][0] for name in names], parts)
        for name, part, state in zip(names, parts, found, strict=True):
            texts[name][1].extend(part.tolist())
            states[name] = state[-1]

    for number, (what, which) in enumerate(steps):
        names = sorted(texts)
        if what == "join" or not names:
            texts[number] = engine.row(), []
            add([number], [1 + which])
        elif what == "leave":
            del texts[names[which % len(names)]]
        elif what == "cut":
            row, written = texts[names[which % len(names)]]
            kept = max(1, len(written) - 1 - which)
            row.cut(kept)
            del written[kept:]
        else:
            counts = [1] * len(names)
            if what == "several":
                counts[which % len(names)] = 2
            add(names, counts)
    names = sorted(texts)
    if names:
        add(names, [1] * len(names))

    for name in names:
        ids = torch.tensor([texts[name][1]])
        expected = MODEL.model(ids).last_hidden_state[0, -1]
        got = engine.anatomy.finish(states[name])
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


def test_blocks_that_were_filled_later_take_part_again():
    engine = engine_for(anatomy_of(MODEL), "plain")
    rows = [engine.row(), engine.row()]
    parts = [tokens_of(1, 6), tokens_of(2, 7)]

    run(engine, rows, [part[:2] for part in parts], stop=2)
    low = run(engine, rows, [part[2:3] for part in parts], stop=2)
    waiting = [engine.row(), engine.row()]
    both = [
        torch.cat(run(engine, [fresh], [part[:3]], stop=2))
        for fresh, part in zip(waiting, parts, strict=True)
    ]
    engine.run(torch.cat(both), 2, DEPTH, [(row, 3) for row in rows])
    last = None
    for at in range(3, 6):
        last = run(engine, rows, [part[at : at + 1] for part in parts])

    torch.testing.assert_close(low[0][0], both[0][2], rtol=1e-4, atol=1e-4)
    for part, state in zip(parts, last, strict=True):
        expected = MODEL.model(part[None, :6]).last_hidden_state[0, -1]
        torch.testing.assert_close(engine.anatomy.finish(state[0]), expected, rtol=1e-3, atol=1e-4)


def test_a_place_is_given_to_the_next_and_a_gang_goes_with_its_last_row():
    engine = engine_for(anatomy_of(MODEL), "plain")
    rows = [engine.row() for _ in range(4)]
    run(engine, rows, [tokens_of(n, 3) for n in range(4)])
    run(engine, rows, [tokens_of(n, 1) for n in range(4)])
    gang, place = rows[0].gang, rows[1].place

    del rows[1]
    rows.append(engine.row())
    run(engine, rows[-1:], [tokens_of(9, 3)])
    run(engine, rows, [tokens_of(n, 1) for n in range(4)])

    assert rows[-1].gang is gang
    assert rows[-1].place == place
    assert len(gang.rows) == 4
    gone = ref(gang)
    del gang, rows
    gc.collect()
    assert gone() is None
