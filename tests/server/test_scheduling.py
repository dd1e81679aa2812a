"""Who gets a slot, and whose prompt is read."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from offramp.errors import ConfigError
from offramp.server.scheduling import Room, admitted, shared

sizes = st.lists(st.integers(1, 1000), max_size=12)
rooms = st.builds(Room, slots=st.integers(1, 8), tokens=st.integers(1400, 5000))


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
        assert sum(long_ones) <= room.longest


@given(waiting=sizes, running=sizes, room=rooms)
def test_texts_alike_begin_in_the_order_in_which_they_came(waiting, running, room):
    chosen = admitted(waiting, running, room)

    for is_long in (False, True):
        alike = [place for place, size in enumerate(waiting) if (size > room.short) == is_long]
        begun = [place for place in chosen if place in alike]
        assert begun == alike[: len(begun)]


@given(waiting=sizes, short=st.integers(1, 256), slots=st.integers(4, 8))
def test_a_short_text_begins_however_many_long_ones_run(waiting, short, slots):
    room = Room(slots=slots, tokens=2000)
    waiting = [size + room.short for size in waiting]
    running = [waiting[place] for place in admitted(waiting, [], room)]

    assert admitted([*waiting, short], running, room)[-1:] == [len(waiting)]


@given(waiting=sizes.filter(bool), room=rooms)
def test_an_idle_server_begins_the_first_in_line(waiting, room):
    assert admitted(waiting, [], room)[0] == 0


@given(left=st.lists(st.integers(1, 500), min_size=1, max_size=12), budget=st.integers(1, 300))
@example(left=[4, 3], budget=4)
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
