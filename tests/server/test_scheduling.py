"""Who gets a slot, and whose prompt is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.errors import ConfigError
from offramp.server.scheduling import Room, admitted, shared

sizes = st.lists(st.integers(1, 1000), max_size=12)
rooms = st.builds(Room, slots=st.integers(1, 8), tokens=st.integers(1000, 4000))


@given(waiting=sizes, running=sizes, room=rooms)
def test_slots_and_tokens_are_never_exceeded_and_short_texts_keep_theirs(waiting, running, room):
    chosen = admitted(waiting, running, room)

    begun = [waiting[place] for place in chosen]
    assert chosen == sorted(set(chosen))
    if begun:
        assert len(running) + len(begun) <= room.slots
        assert sum(running) + sum(begun) <= room.tokens
    long_ones = [size for size in running + begun if size > room.short]
    if any(size > room.short for size in begun):
        assert len(long_ones) <= room.for_long


@given(waiting=sizes.filter(bool), room=rooms)
def test_an_idle_server_begins_the_first_in_line(waiting, room):
    assert admitted(waiting, [], room)[0] == 0


@given(left=st.lists(st.integers(1, 500), min_size=1, max_size=12), budget=st.integers(1, 300))
def test_a_budget_is_used_up_and_the_first_and_the_shortest_go_on(left, budget):
    counts = shared(left, budget)

    assert sum(counts) == min(budget, sum(left))
    assert all(0 <= count <= rest for count, rest in zip(counts, left, strict=True))
    assert counts[0] > 0
    shortest = min(range(len(left)), key=left.__getitem__)
    assert budget == 1 or counts[shortest] > 0


def test_a_room_without_slots_is_refused():
    with pytest.raises(ConfigError, match="slots must be at least 1, got 0"):
        Room(slots=0)
