"""Sums over chunks are the plain formulas over all tokens."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offramp.evaluation.tally import (
    BINS,
    CalibrationError,
    Last,
    RowMeans,
    judge,
    log_probabilities,
    oracle_places,
)

V, N = 9, 40


def scores(seed: int) -> torch.Tensor:
    return torch.randn(N, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_an_exit_is_judged_by_the_formulas():
    log_p, last = log_probabilities(scores(0)), Last.of(scores(1))
    targets = torch.randint(V, (N,), generator=torch.Generator().manual_seed(2))

    judged = judge(log_p, last, targets)

    five = [set(row.topk(5).indices.tolist()) for row in log_p]
    final = scores(1).argmax(-1).tolist()
    expected = torch.nn.functional.kl_div(log_p, last.log_p, log_target=True, reduction="none")
    torch.testing.assert_close(judged.divergence, expected.sum(-1), rtol=0, atol=1e-12)
    loss = torch.nn.functional.cross_entropy(scores(0), targets, reduction="none")
    torch.testing.assert_close(judged.loss, loss, rtol=0, atol=1e-12)
    agreed = [best in row for best, row in zip(final, five, strict=True)]
    assert judged.agrees_top.tolist() == agreed
    assert judged.agrees.tolist() == (log_p.argmax(-1) == scores(1).argmax(-1)).tolist()
    assert judged.correct.tolist() == (log_p.argmax(-1) == targets).tolist()
    assert torch.equal(judged.confidence, log_p.exp().amax(-1))


def test_a_token_that_the_last_layer_finds_impossible_adds_no_divergence():
    last = Last.of(torch.tensor([[0.0, 0.0, -math.inf], [0.0, 0.0, -math.inf]]))
    exit = log_probabilities(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, -math.inf]]))

    found = judge(exit, last, torch.tensor([0, 0])).divergence

    assert found.tolist() == pytest.approx([math.log(3 / 2), 0], abs=1e-6)


def test_a_token_that_only_the_exit_finds_impossible_diverges_without_bound():
    last = Last.of(torch.tensor([[0.0, 0.0]]))
    exit = log_probabilities(torch.tensor([[0.0, -math.inf]]))

    assert judge(exit, last, torch.tensor([0])).divergence.item() == math.inf


@given(cuts=st.lists(st.integers(0, N), max_size=4), seed=st.integers(0, 9))
def test_calibration_does_not_depend_on_chunks(cuts, seed):
    confidence = scores(seed).softmax(-1)[:, :2]
    correct = (scores(seed + 1)[:, :2] > 0).double()
    bounds = [0, *sorted(cuts), N]
    calibration = CalibrationError(2)

    for first, last in pairwise(bounds):
        calibration.add(confidence[first:last], correct[first:last])

    for place in range(2):
        gaps = 0.0
        for low in range(BINS):
            within = confidence[:, place] > low / BINS
            within &= confidence[:, place] <= (low + 1) / BINS
            if within.any():
                gap = confidence[within, place].mean() - correct[within, place].mean()
                gaps += float(within.double().mean() * gap.abs())
        assert float(calibration.error[place]) == pytest.approx(gaps, abs=1e-10)


def test_a_forecast_that_says_what_it_achieves_is_calibrated():
    calibration = CalibrationError(1)

    calibration.add(torch.full((4, 1), 0.75), torch.tensor([[1.0], [1.0], [1.0], [0.0]]))

    assert calibration.error.tolist() == [0.0]


def test_the_interval_covers_the_true_mean_of_texts_that_hang_together():
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(400):
        share = torch.rand(60, generator=generator, dtype=torch.float64)  # of each text, mean 0.5
        tokens = torch.randint(5, 30, (60,), generator=generator)
        hits = torch.stack(
            [
                (torch.rand(count, generator=generator) < p).sum()
                for p, count in zip(share.tolist(), tokens.tolist(), strict=True)
            ]
        )
        means = RowMeans()
        means.add(hits.reshape(-1, 1, 1).double(), tokens)
        covered += abs(means.mean.item() - 0.5) <= means.half_width.item()

    assert 0.92 <= covered / 400 <= 0.98


def test_the_interval_is_the_formula_and_needs_two_rows():
    sums = torch.tensor([[3.0], [1.0], [7.0]], dtype=torch.float64)[..., None]
    tokens = torch.tensor([4, 2, 7])
    whole, parts, single = RowMeans(), RowMeans(), RowMeans()

    whole.add(sums, tokens)
    parts.add(sums[:1], tokens[:1])
    parts.add(torch.cat((sums[1:], torch.zeros(1, 1, 1))), torch.tensor([2, 7, 0]))
    single.add(sums[:1], tokens[:1])

    p = 11 / 13
    residuals = sum((a - p * n) ** 2 for a, n in ((3, 4), (1, 2), (7, 7)))
    assert whole.mean.item() == pytest.approx(p)
    assert whole.half_width.item() == pytest.approx(1.959964 * math.sqrt(1.5 * residuals) / 13)
    assert (parts.rows, parts.tokens) == (3, 13)
    torch.testing.assert_close(parts.half_width, whole.half_width)
    assert single.half_width.isnan().all()


@given(table=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=9))
def test_oracle_depth_is_the_first_exit_from_which_on_all_agree(table):
    agrees = torch.tensor([[*row, True] for row in table])

    places = oracle_places(agrees).tolist()

    for row, place in zip(agrees.tolist(), places, strict=True):
        assert all(row[place:])
        assert place == 0 or not row[place - 1]
