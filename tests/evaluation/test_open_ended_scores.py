"""Scores of hand-made texts are those that can be counted by hand, and the test has its size."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offramp.errors import InputError
from offramp.evaluation.open_ended_scores import Vectors, open_ended_measures
from offramp.evaluation.resampling import Draws, differences_of, value_of

LOOP, STRAIGHT = "a b a b a b", "one two three four five six"
WORDS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=9).map(" ".join)


def scores(*texts, vectors=None):
    (own,), _ = open_ended_measures([list(texts)], ["x"] * len(texts), vectors)
    return {each.name: value_of(each) for each in own}


def test_repetition_of_a_loop_is_what_can_be_counted():
    found = scores(LOOP)

    assert found["seq_rep_2"] == pytest.approx(3 / 5)  # ab ba ab ba ab: two of five are new
    assert found["seq_rep_3"] == pytest.approx(2 / 4)  # aba bab aba bab
    assert found["seq_rep_4"] == pytest.approx(1 / 3)  # abab baba abab
    assert found["diversity"] == pytest.approx(2 / 5 * 2 / 4 * 2 / 3)
    assert found["words"] == 6


def test_n_grams_of_all_texts_are_counted_together():
    found = scores(LOOP, STRAIGHT, "one two")

    assert found["seq_rep_2"] == pytest.approx(3 / (5 + 5 + 1))
    assert found["seq_rep_4"] == pytest.approx(1 / (3 + 3))


@pytest.mark.parametrize("texts", [(STRAIGHT,), ("",), ("one", ""), ("one two three",)])
def test_a_text_without_a_repeated_n_gram_has_diversity_one(texts):
    found = scores(*texts)

    assert found["diversity"] == 1
    assert found["seq_rep_2"] == found["seq_rep_4"] == 0


@given(rows=st.lists(st.tuples(WORDS, st.integers(0, 9)), min_size=1, max_size=25))
def test_the_order_of_rows_makes_no_difference(rows):
    def measured(some):
        turned = torch.tensor([[float(number), 1.0, 2.0] for _, number in some]).double()
        vectors = Vectors(model="m", prompts=turned.flip(-1), people=turned, ways=(turned.sin(),))
        return scores(*(text for text, _ in some), vectors=vectors)

    assert measured(rows) == pytest.approx(measured(rows[::-1]))
    assert measured(rows) == pytest.approx(measured(sorted(rows)))


def test_coherence_is_the_mean_cosine_and_an_empty_text_counts_nothing():
    prompts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]).double()
    own = torch.tensor([[0.6, 0.8], [0.0, 1.0], [0.0, 1.0]]).double()
    vectors = Vectors(model="m", prompts=prompts, people=own, ways=(own,))

    found = scores("a", "b", " ", vectors=vectors)

    assert found["coherence"] == pytest.approx((0.6 + 1 + 0) / 3)
    assert "mauve" not in found  # three texts are too few for two buckets


def test_a_missing_text_is_refused():
    with pytest.raises(InputError, match="got 2, 1 texts for 2 beginnings"):
        open_ended_measures([["a", "b"], ["a"]], ["x", "y"])
    with pytest.raises(InputError, match="at least one"):
        open_ended_measures([], [])


def test_the_paired_test_rejects_equal_systems_as_often_as_it_says():
    """Of two systems whose rows are exchanged at random, 5 % of the tests may say they differ."""
    draw = torch.Generator().manual_seed(0)
    trials, rows = 80, 40
    rejected = {"seq_rep_2": 0, "diversity": 0, "coherence": 0, "mauve": 0}
    for _ in range(trials):
        texts = [
            [
                " ".join(map(str, row))
                for row in torch.randint(9, (rows, 12), generator=draw).tolist()
            ]
            for _ in range(2)
        ]
        prompts, people, one, other = torch.randn(4, rows, 3, generator=draw).double()
        vectors = Vectors(model="m", prompts=prompts, people=people, ways=(one, other))
        (first, second), _ = open_ended_measures(texts, ["x"] * rows, vectors)
        for each in differences_of(second, first, Draws(samples=100)):
            if each.name in rejected:
                rejected[each.name] += each.p_value < 0.05

    shares = {name: count / trials for name, count in rejected.items()}

    assert all(share <= 0.12 for share in shares.values()), shares
    assert sum(rejected.values()) > 0  # it can reject


def test_the_paired_test_sees_a_system_that_loops():
    loops, straight = [LOOP] * 20, [f"{STRAIGHT} {number}" for number in range(20)]

    (first, second), _ = open_ended_measures([loops, straight], ["x"] * 20)

    found = {each.name: each for each in differences_of(second, first, Draws(samples=100))}
    assert found["diversity"].value > 0.8
    assert found["diversity"].p_value < 0.05
    assert found["diversity"].low > 0
