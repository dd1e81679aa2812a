"""Edits are those of the textbook's table."""

from hypothesis import given
from hypothesis import strategies as st

from offramp.evaluation.edits import edit_distance, nearest

sequences = st.lists(st.integers(0, 3), max_size=12)


def table(first, second):
    row = list(range(len(second) + 1))
    for one, token in enumerate(first, start=1):
        before, row = row, [one]
        for two, other in enumerate(second, start=1):
            row.append(min(before[two] + 1, row[-1] + 1, before[two - 1] + (token != other)))
    return row[-1]


@given(first=sequences, second=sequences)
def test_the_distance_is_that_of_the_table(first, second):
    assert edit_distance(first, second) == table(first, second)
    assert edit_distance(first, second) == edit_distance(second, first)


def test_sequences_longer_than_a_machine_word_are_counted_too():
    assert edit_distance("ab" * 100, "ba" * 100) == table("ab" * 100, "ba" * 100)
    assert edit_distance(range(300), range(5, 300)) == 5


def test_the_nearest_reference_gives_the_length():
    assert nearest("abc", ["abcdef", "abd", "xbc"]) == (1, 3)
    assert nearest("", ["ab", "a"]) == (1, 1)
