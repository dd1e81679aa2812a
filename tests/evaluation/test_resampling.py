"""Intervals and differences come from drawn rows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offramp.errors import ConfigError
from offramp.evaluation.resampling import (
    Draws,
    Measure,
    Whole,
    differences_of,
    scores_of,
)

SCORE = {"name": "score", "flavour": "mean", "unit": "share", "better": "higher"}


def mean_of(values, **more):
    rows = torch.tensor([(float(each), 1.0) for each in values], dtype=torch.float64)
    return Measure(**{**SCORE, **more}, rows=rows, combine=lambda sums: sums[:, 0] / sums[:, 1])


@given(values=st.lists(st.integers(0, 9), min_size=1, max_size=30), seed=st.integers(0, 99))
def test_sums_are_those_of_as_many_rows(values, seed):
    rows = torch.tensor([[float(each), 1.0] for each in values], dtype=torch.float64)

    sums = Draws(samples=100, seed=seed).sums(rows)

    assert sums.shape == (100, 2)
    assert (sums[:, 1] == len(values)).all()
    assert sums[:, 0].min() >= len(values) * min(values)
    assert sums[:, 0].max() <= len(values) * max(values)


def test_blocks_change_no_draw_of_one_that_fits(monkeypatch):
    rows = torch.rand(7, 3, dtype=torch.float64)
    whole = Draws(samples=100).sums(rows)

    monkeypatch.setattr("offramp.evaluation.resampling.BLOCK", 70)
    cut = Draws(samples=100).sums(rows)

    assert torch.equal(whole, cut)


def test_the_interval_of_a_mean_is_that_of_its_standard_error():
    values = torch.randn(2000, generator=torch.Generator().manual_seed(1)).tolist()
    (found,) = scores_of([mean_of(values)], Draws())

    assert found.value == pytest.approx(sum(values) / 2000)
    assert found.low == pytest.approx(found.value - 1.96 / 2000**0.5, abs=0.01)
    assert found.high == pytest.approx(found.value + 1.96 / 2000**0.5, abs=0.01)


def test_a_system_does_not_differ_from_itself():
    measure = mean_of([1, 0, 0, 1, 1])

    (found,) = differences_of([measure], [measure], Draws())

    assert (found.value, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_pairs_show_a_difference_that_intervals_alone_hide():
    base = torch.randn(200, generator=torch.Generator().manual_seed(2))
    first, other = mean_of(base.tolist()), mean_of((base + 0.01).tolist())

    (found,) = differences_of([other], [first], Draws())

    one, two = scores_of([first], Draws())[0], scores_of([other], Draws())[0]
    assert one.high > two.low
    assert found.value == pytest.approx(0.01, abs=1e-6)
    assert found.low > 0
    assert found.p_value < 0.05


def test_a_difference_by_chance_is_not_sure():
    draw = torch.Generator().manual_seed(3)
    one, two = (torch.randn(200, generator=draw).tolist() for _ in range(2))

    (found,) = differences_of([mean_of(one)], [mean_of(two)], Draws())

    assert found.low < 0 < found.high
    assert found.p_value > 0.05


def test_a_score_of_all_rows_together_has_no_interval():
    whole, more = Whole(**SCORE, value=0.5), Whole(**SCORE, value=0.75)

    (score,) = scores_of([whole], Draws())
    (difference,) = differences_of([more], [whole], Draws())

    assert (score.value, score.low, score.high) == (0.5, None, None)
    assert (difference.value, difference.low, difference.p_value) == (0.25, None, None)


def test_no_draws_no_intervals():
    (score,) = scores_of([mean_of([1, 2])], Draws(samples=0))

    assert (score.value, score.low, score.high) == (1.5, None, None)


def test_scores_measured_otherwise_are_not_compared():
    with pytest.raises(ConfigError, match="measure both with the same settings"):
        differences_of([mean_of([1], flavour="median")], [mean_of([1])], Draws())
    with pytest.raises(ConfigError, match="cannot compare 2 rows with 1"):
        differences_of([mean_of([1, 2])], [mean_of([1])], Draws())
    with pytest.raises(ConfigError, match="at least 100, got 5"):
        Draws(samples=5)
