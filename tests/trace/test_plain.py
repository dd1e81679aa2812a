"""A trace goes through JSON and comes back equal; what is no trace is refused by name."""

import copy
import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.errors import InputError
from offramp.trace.record import Trace
from offramp.trace.values import (
    Candidate,
    Position,
    Said,
    Token,
    TracedExit,
)

EXITS = (TracedExit(exit=1, projection="lens"), TracedExit(exit="original", projection=None))
share = st.floats(0, 1)
nats = st.floats(0, 1e30)
records = st.fixed_dictionaries
tokens = records({"id": st.integers(0, 99), "text": st.none() | st.text(max_size=5)})
candidates = records({"token": tokens, "probability": share})
gates = records({"confidence": share, "threshold": share, "leaves": st.booleans()})
changes = records(
    {
        "before": candidates,
        "after": candidates,
        "changed": st.booleans(),
        "divergence": st.none() | nats,
        "target": st.none() | share,
        "plausible": st.none()
        | st.lists(records({"token": tokens, "before": share, "after": share}), max_size=2),
        "num_plausible": st.none() | st.integers(0, 9),
    }
)


def said_by(exit):
    return records(
        {
            "exit": st.just(exit),
            "top": st.lists(candidates, max_size=2),
            "entropy": nats,
            "divergence": st.none() | nats,
            "agrees": st.booleans(),
            "target": st.none() | share,
            "gate": st.none() | gates,
        }
    )


def positions_at(indices):
    return st.tuples(
        *(
            records(
                {
                    "index": st.just(index),
                    "token": tokens,
                    "target": st.none() | tokens,
                    "said": st.tuples(said_by(1), said_by("original")).map(list),
                    "changed": st.none() | changes,
                    "left": st.none() | st.integers(1, 4),
                }
            )
            for index in sorted(indices)
        )
    ).map(list)


contents = records(
    {
        "format": st.just("offramp-trace"),
        "version": st.just(1),
        "kind": st.sampled_from(["text", "canvas"]),
        "model": st.none() | st.text(max_size=5),
        "depth": st.just(4),
        "exits": st.just([asdict(each) for each in EXITS]),
        "decoding": st.none() | st.text(max_size=5),
        "length": st.just(10),
        "positions": st.sets(st.integers(0, 9), max_size=3).flatmap(positions_at),
        "source": st.lists(tokens, max_size=2),
        "text": st.none() | st.text(max_size=5),
    }
)


@given(contents)
def test_a_trace_goes_through_json_and_comes_back_equal(content):
    trace = Trace.from_dict(content)

    assert json.loads(trace.to_json()) == content
    assert Trace.from_json(trace.to_json()) == trace
    assert Trace.from_dict(trace.to_dict()) == trace


TRACE = Trace(
    kind="text",
    model="tiny",
    depth=4,
    exits=EXITS,
    decoding=None,
    length=2,
    positions=(
        Position(
            index=1,
            token=Token(id=3, text="a"),
            target=None,
            said=tuple(
                Said(
                    exit=each.exit,
                    top=(Candidate(token=Token(id=3, text="a"), probability=0.5),),
                    entropy=1.0,
                    divergence=0.0,
                    agrees=True,
                    target=None,
                    gate=None,
                )
                for each in EXITS
            ),
            changed=None,
            left=None,
        ),
    ),
    source=(),
    text=None,
)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("version", 2, "version 1"),
        ("format", None, "offramp-trace"),
        ("depth", "4", "the trace.depth must be int, got '4'"),
        ("depth", True, "the trace.depth must be int, got True"),
        ("kind", "video", "the trace.kind must be one of"),
        ("more", 1, "has ['more'] that nobody knows"),
        ("positions", {}, "the trace.positions must be a list"),
        ("positions.0.index", 2, "position 2 of 2"),
        ("positions.0.said.1.exit", 1, "exactly the exits [1, 'original']"),
        ("positions.0.said.0.exit", "last", "said[0].exit must be"),
        ("positions.0.said.0.top.0.probability", 1.5, "not from 0 to 1"),
        ("positions.0.said.0.top.0.token.id", 0.5, "token.id must be int, got 0.5"),
        ("positions.0.said.0.gate", [], "gate lacks"),
    ],
)
def test_what_is_no_trace_is_refused_and_the_place_named(path, value, words):
    content = copy.deepcopy(TRACE.to_dict())
    content = json.loads(json.dumps(content))
    *way, name = path.split(".")
    inner = content
    for step in way:
        inner = inner[int(step) if step.isdecimal() else step]
    inner[name] = value

    with pytest.raises(InputError) as refused:
        Trace.from_dict(content)

    assert words in str(refused.value)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"depth": NaN}', "[" * 100_000, "null", b"\xff"])
def test_what_is_no_json_of_a_trace_is_refused(text):
    with pytest.raises(InputError, match="this is no trace of offramp"):
        Trace.from_json(text)
