import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.evaluation.metrics import diversity, repetition


def test_text_without_repeats_has_no_repetition():
    words = ["one", "two", "three", "four", "five", "six"]

    assert repetition(words, n=1) == 0
    assert diversity(words) == 1


def test_repetition_counts_every_occurrence_after_the_first():
    assert repetition([1, 1, 1, 1], n=1) == pytest.approx(0.75)
    assert repetition([1, 2, 1, 2, 1, 2], n=2) == pytest.approx(3 / 5)


@given(words=st.lists(st.integers(0, 3), max_size=40))
def test_both_stay_between_nought_and_one_and_text_twice_repeats_more(words):
    assert 0 <= repetition(words, n=2) <= 1
    assert 0 <= diversity(words) <= 1
    if len(words) >= 2:
        assert repetition(words * 3, n=2) >= repetition(words, n=2)
