"""What every picture shares: brightness, where answers settle, who left."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.trace.sight import MEASURES, brightness, largest, left_at, settled
from trace_made import position, said, trace_of


def of(*agreeing, **options):
    made = position(0, **options)
    parts = tuple(
        said(each.exit, "a", agrees=yes)
        for each, yes in zip(made.said, (*agreeing, True), strict=True)
    )
    return type(made)(**{**vars(made), "said": parts})


@given(st.lists(st.booleans(), min_size=2, max_size=2))
def test_an_answer_settled_where_all_agree_from_there_on(agreeing):
    place = settled(of(*agreeing))

    assert all([*agreeing, True][place:])
    assert place == 0 or not [*agreeing, True][place - 1]


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"left": 1}, 0),
        ({"left": 2}, 1),
        ({"left": 3}, 1),
        ({"left": 4}, None),
        ({"leaves": True}, 0),
        ({"leaves": False}, None),
        ({}, None),
    ],
)
def test_where_a_place_left_or_gates_would_let_it(options, place):
    assert left_at(position(0, **options)) == place


@given(st.floats(0, 1), st.none() | st.floats(0, 9), st.sampled_from(MEASURES))
def test_brightness_is_a_share_and_the_last_layer_is_nearest_to_itself(share, apart, measure):
    trace = trace_of(position(0, probability=share, divergence=apart))
    most = largest(trace, measure)

    values = [brightness(each, measure, most) for each in trace.positions[0].said]

    assert all(0 <= value <= 1 for value in values)
    if measure in ("divergence", "agreement"):
        assert values[-1] == 1
