"""P-values hold what p-values promise, and a sequence of tests stops at the first that fails."""

import math
from itertools import accumulate

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from offramp.errors import ConfigError, InputError
from offramp.evaluation.risk import (
    _p_values,
    betting,
    binomial,
    hoeffding_bentkus,
    learn_then_test,
    texts_needed,
)

SHARES = st.floats(0.01, 0.99)
LEVELS = (0.01, 0.05, 0.1, 0.3)
DRAWS = 2000

# Losses whose mean is b, from the most spread to the least.
SHAPES = {
    "coins": lambda u, b: (u[0] < b).double(),
    "coins of 0 and 1/2": lambda u, b: (u[0] < 2 * b).double() / 2,
    "even": lambda u, b: 2 * b * u[0],
    "rarely large": lambda u, b: torch.where(u[0] < b / 2, 1.0, b / 2 / (1 - b / 2)),
    "means of ten coins": lambda u, b: (u < b).double().mean(0),
    "always the same": lambda u, b: torch.full_like(u[0], b),
}


def losses_at_the_bound(shape, bound, num_texts, *, draws=DRAWS, seed=0):
    uniform = torch.rand(
        10, draws, num_texts, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return SHAPES[shape](uniform, bound)


def tails(count, bound):
    """P(at most k ones) for k = 0, 1, ..., summed without logs."""
    terms = [
        math.comb(count, each) * bound**each * (1 - bound) ** (count - each)
        for each in range(count + 1)
    ]
    return list(accumulate(terms))


@given(bound=SHARES, count=st.integers(1, 60), share=st.floats(0, 1))
def test_p_values_are_the_formulas(bound, count, share):
    assume(
        abs(count * share - round(count * share)) > 1e-6 or round(count * share) == count * share
    )
    below = min(share, bound)
    divergence = below * math.log(below / bound) if below else 0.0
    divergence += (1 - below) * math.log((1 - below) / (1 - bound))
    exact = tails(count, bound)[math.ceil(count * share)]

    mean = torch.tensor(share, dtype=torch.float64)

    assert binomial(mean, num_losses=count, bound=bound).item() == pytest.approx(exact, rel=1e-6)
    assert hoeffding_bentkus(mean, num_losses=count, bound=bound).item() == pytest.approx(
        min(1, math.exp(-count * divergence), math.e * exact), rel=1e-6
    )


@given(bound=SHARES, count=st.integers(1, 200))
def test_for_coins_at_the_bound_p_is_small_no_more_often_than_it_says(bound, count):
    means = torch.arange(count + 1, dtype=torch.float64) / count

    exact = binomial(means, num_losses=count, bound=bound)
    for_all = hoeffding_bentkus(means, num_losses=count, bound=bound)

    # P(p <= p_k) = P(at most k ones), since both rise with k
    how_often = torch.tensor(tails(count, bound), dtype=torch.float64)
    assert (how_often <= exact * (1 + 1e-9)).all()
    assert (exact <= for_all * (1 + 1e-9)).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bound", [0.05, 0.3])
def test_at_the_bound_p_is_small_no_more_often_than_it_says(shape, bound):
    losses = losses_at_the_bound(shape, bound, 60)

    found = {
        "hoeffding-bentkus": hoeffding_bentkus(losses.mean(-1), num_losses=60, bound=bound),
        "betting": betting(losses, bound=bound, confidence=0.95),
    }

    for name, p in found.items():
        for level in LEVELS:
            slack = 3 * math.sqrt(level * (1 - level) / DRAWS)
            assert (p <= level).double().mean() <= level + slack, (name, level)


def test_betting_is_not_misled_by_texts_sorted_from_easy_to_hard():
    losses = losses_at_the_bound("even", 0.3, 60).sort().values

    p = betting(losses, bound=0.3, confidence=0.95)

    assert (p <= 0.05).double().mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / DRAWS)


def test_the_exact_test_does_not_hold_for_fractions():
    # losses of 1/2, and of 1 with probability 0.1: the risk is 0.55
    both_are_a_half = 0.9**2

    p = binomial(torch.tensor(0.5), num_losses=2, bound=0.55).item()

    assert p < both_are_a_half
    assert hoeffding_bentkus(torch.tensor(0.5), num_losses=2, bound=0.55) > both_are_a_half


@given(
    bound=SHARES,
    count=st.integers(1, 300),
    first=st.floats(0, 1),
    second=st.floats(0, 1),
)
def test_p_rises_with_the_risk_and_falls_with_the_bound(bound, count, first, second):
    low, high = sorted((first, second))
    means = torch.tensor([low, high], dtype=torch.float64)

    for test in (binomial, hoeffding_bentkus):
        rising = test(means, num_losses=count, bound=bound)
        falling = test(means[0], num_losses=count, bound=(1 + bound) / 2)

        assert rising[0] <= rising[1]
        assert falling <= rising[0] * (1 + 1e-9)


def test_p_values_of_a_million_losses_are_numbers():
    means = torch.tensor([0.0, 0.049, 0.05, 0.5, 1.0])

    p = hoeffding_bentkus(means, num_losses=1_000_000, bound=0.05)

    assert p[0] == 0
    assert 0 < p[1] < 1e-4
    assert p[2] > 0.3
    assert p[3:].tolist() == [1, 1]


def test_betting_notices_that_losses_vary_little():
    losses = torch.full((100,), 0.05)

    assert betting(losses, bound=0.1, confidence=0.95) < 0.05
    assert hoeffding_bentkus(losses.mean(), num_losses=100, bound=0.1) > 0.05


def test_tests_stop_at_the_first_that_fails():
    losses = torch.zeros(4, 100)
    losses[2] = 1  # and the fourth row would pass

    found = [
        learn_then_test(losses, bound=0.1, confidence=0.95, test=test)
        for test in ("betting", "hoeffding-bentkus", "binomial")
    ]

    assert found == [1, 1, 1]
    assert learn_then_test(losses[2:], bound=0.1, confidence=0.95) is None
    assert learn_then_test(losses[:2], bound=0.1, confidence=0.95) == 1


@given(
    bound=st.floats(0.01, 0.9),
    confidence=st.floats(0.3, 0.999),
    test=st.sampled_from(["betting", "hoeffding-bentkus", "binomial"]),
)
def test_texts_needed_are_the_fewest_that_pass(bound, confidence, test):
    needed = texts_needed(bound, confidence, test=test)

    def row(count):
        return learn_then_test(torch.zeros(1, count), bound=bound, confidence=confidence, test=test)

    assert row(needed) == 0
    assert needed == 1 or row(needed - 1) is None
    assert needed >= math.log(1 - confidence) / math.log(1 - bound) - 1e-6


@pytest.mark.parametrize("wrong", [0.0, 1.0, -0.1, math.nan])
def test_a_bound_or_confidence_that_is_no_share_is_refused(wrong):
    losses = torch.zeros(1, 10)

    with pytest.raises(ConfigError, match="bound must be more than 0 and less than 1"):
        learn_then_test(losses, bound=wrong, confidence=0.9)
    with pytest.raises(ConfigError, match="confidence must be more than 0 and less than 1"):
        learn_then_test(losses, bound=0.1, confidence=wrong)


@pytest.mark.parametrize("test", ["betting", "hoeffding-bentkus", "binomial"])
@pytest.mark.parametrize("wrong", [1.5, -0.5, math.nan])
def test_a_loss_outside_0_to_1_is_refused(test, wrong):
    with pytest.raises(InputError, match="got"):
        learn_then_test(torch.tensor([[0.0, wrong]]), bound=0.1, confidence=0.9, test=test)


def test_what_cannot_be_tested_is_refused():
    with pytest.raises(ConfigError, match="unknown test 'guess'; use one of hoeffding-bentkus"):
        _p_values("guess")
    with pytest.raises(InputError, match="no losses"):
        learn_then_test(torch.zeros(2, 0), bound=0.1, confidence=0.9)
    with pytest.raises(InputError, match=r"'binomial' is for losses of 0 or 1, got 0\.5"):
        learn_then_test(torch.tensor([[0.5]]), bound=0.1, confidence=0.9, test="binomial")
