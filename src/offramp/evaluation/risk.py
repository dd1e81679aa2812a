"""Decide from a sample of losses whether a risk is under a bound, and say it with a confidence.

In:  losses from 0 to 1, one for each text. Out: p-values, and the boldest threshold that passes.
     Pure: no model.
Law: if the true risk is at or above the bound, a p-value is at most u with probability at most u;
     a threshold whose risk is above the bound is chosen with probability at most 1 - confidence
     (tests/evaluation/test_risk.py).
Not here: where losses come from (offramp.evaluation.replay, offramp.evaluation.calibration).
Sources: Angelopoulos et al. 2021, "Learn then Test", arXiv:2110.01052, proposition 1
     (Hoeffding-Bentkus) and section 2.3 (fixed sequence); Waudby-Smith and Ramdas 2020,
     arXiv:2010.09686 (betting).
"""

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from offramp.errors import ConfigError, InputError

Test: TypeAlias = Literal["hoeffding-bentkus", "betting", "binomial"]
"""How losses are turned into a p-value; to be chosen before they are seen."""

SLACK = 1e-9
"""What rounding in float64 may do to a sum of losses, or to a p-value at its level."""


def hoeffding_bentkus(
    risk: Float[Tensor, "*rows"], *, num_losses: int, bound: float
) -> Float[Tensor, "*rows"]:
    """Give p-values for "the true risk is at or above the bound", for any losses from 0 to 1.

    The smaller of Hoeffding's exp(-n h(min(risk, bound), bound)), h the divergence of two coins,
    and Bentkus's e P(Binomial(n, bound) <= ceil(n risk)) (arXiv:2110.01052, proposition 1).

    Args:
        risk: Means of independent losses, each loss from 0 to 1.
        num_losses: How many losses each mean is of, n.
        bound: Risk not to be reached, strictly between 0 and 1.

    Returns:
        Float64, 0 to 1.

    Raises:
        ConfigError: ``bound`` is not between 0 and 1.
        InputError: There are no losses, or a mean is outside 0 to 1.

    Example:
        >>> hoeffding_bentkus(torch.tensor([0.0, 0.02, 0.2]), num_losses=100, bound=0.1)
        tensor([2.6561e-05, 5.2867e-03, 1.0000e+00], dtype=torch.float64)
    """
    check_share("bound", bound)
    _check_losses(risk, num_losses)
    mean = risk.double().clamp(0, 1)
    below = mean.clamp(max=bound)
    divergence = torch.special.xlogy(below, below / bound)
    divergence += torch.special.xlogy(1 - below, (1 - below) / (1 - bound))
    log_bentkus = 1 + _log_binomial_tail(mean, num_losses, bound)
    return torch.minimum(-num_losses * divergence, log_bentkus).exp().clamp(max=1)


def binomial(
    risk: Float[Tensor, "*rows"], *, num_losses: int, bound: float
) -> Float[Tensor, "*rows"]:
    """Give the exact p-values for losses that are only ever 0 or 1.

    P(Binomial(n, bound) <= n risk): never above Hoeffding-Bentkus, below it by up to e. It does not
    hold for fractions; nor may it be taken because the losses at hand happen to be 0 and 1.

    Args:
        risk: Means of independent losses, each 0 or 1.
        num_losses: How many losses each mean is of, n.
        bound: Risk not to be reached, strictly between 0 and 1.

    Returns:
        Float64, 0 to 1.

    Raises:
        ConfigError: ``bound`` is not between 0 and 1.
        InputError: There are no losses, or a mean is outside 0 to 1.

    Example:
        >>> round(binomial(torch.tensor(0.5), num_losses=2, bound=0.5).item(), 12)
        0.75
    """
    check_share("bound", bound)
    _check_losses(risk, num_losses)
    return _log_binomial_tail(risk.double().clamp(0, 1), num_losses, bound).exp().clamp(max=1)


def betting(
    losses: Float[Tensor, "*rows texts"], *, bound: float, confidence: float
) -> Float[Tensor, "*rows"]:
    """Give p-values that are small sooner where losses vary little, for any losses from 0 to 1.

    A gambler bets, text after text, that losses stay below the bound; if the true risk is at or
    above it, his wealth exceeds 1/p at any time with probability at most p (Ville). How much he
    bets on a text depends on earlier ones only (arXiv:2010.09686, section 4). Means over texts vary
    less than coins with the same risk, and this test notices.

    Differs from the paper: the first guess of mean and variance is that of a coin at the bound, and
    not at 1/2; a stake may go up to 1, where a loss of 1 leaves the bound's share of the wealth.

    Args:
        losses: In any order: they are shuffled first, the same way each time, since the gambler
            could be misled by texts sorted from easy to hard.
        bound: Risk not to be reached, strictly between 0 and 1.
        confidence: The bets are laid to reach 1 - confidence early; the p-values hold at any level.

    Returns:
        Float64, 0 to 1.

    Raises:
        ConfigError: ``bound`` or ``confidence`` is not between 0 and 1.
        InputError: There are no losses, or one is outside 0 to 1.

    Example:
        >>> betting(torch.full((100,), 0.05), bound=0.1, confidence=0.95) < 0.02
        tensor(True)
        >>> hoeffding_bentkus(torch.tensor(0.05), num_losses=100, bound=0.1) < 0.1
        tensor(False)
    """
    check_share("bound", bound)
    check_share("confidence", confidence)
    num_losses = losses.shape[-1]
    _check_losses(losses, num_losses)
    order = torch.randperm(num_losses, generator=torch.Generator().manual_seed(0))
    losses = losses.double().clamp(0, 1)[..., order.to(losses.device)]
    seen = torch.arange(2, num_losses + 2, dtype=torch.float64, device=losses.device)
    mean = (bound + losses.cumsum(-1)) / seen
    variance = (bound * (1 - bound) + (losses - mean).square().cumsum(-1)) / seen
    before = torch.full_like(losses[..., :1], bound * (1 - bound))
    variance = torch.cat((before, variance[..., :-1]), -1)
    stakes = (-2 * math.log1p(-confidence) / (num_losses * variance)).sqrt()
    stakes = stakes.clamp(max=1)
    log_wealth = torch.log1p(-stakes * (losses - bound)).cumsum(-1)
    return (-log_wealth.amax(-1)).exp().clamp(max=1)


def learn_then_test(
    losses: Float[Tensor, "thresholds texts"],
    *,
    bound: float,
    confidence: float,
    test: Test = "betting",
) -> int | None:
    """Find the boldest threshold whose risk is under the bound.

    Thresholds are tested in their order, each at level 1 - confidence, until one fails (fixed
    sequence testing, arXiv:2110.01052, section 2.3). All that pass, and so the boldest, are right
    at once with the promised confidence; more steps cost none of it.

    The unit is the text: a column is one loss of one text, drawn independently of the others.
    Tokens of one text hang together, so a column for each token promises what it cannot keep.
    Thresholds, their order and the test must be fixed without these texts.

    Args:
        losses: From 0 to 1; rows from the safest threshold to the boldest.
        bound: Risk (mean loss over all texts there could be) to stay below, between 0 and 1.
        confidence: Probability with which it does, over the draw of texts, between 0 and 1.
        test: ``betting``; ``hoeffding-bentkus``, the paper's, which passes less but not another
            threshold for another order of the texts; or ``binomial`` for losses of only 0 and 1.

    Returns:
        The row, or None if not even the safest passes.

    Raises:
        ConfigError: ``bound`` or ``confidence`` is not between 0 and 1, or there is no such test.
        InputError: There are no losses, or one is outside 0 to 1, or a fraction for ``binomial``.

    Example:
        >>> losses = torch.zeros(3, 100)
        >>> losses[2, :30] = 1
        >>> learn_then_test(losses, bound=0.1, confidence=0.95)
        1
    """
    check_share("confidence", confidence)
    last = None
    for row, p in enumerate(_p_values(test)(losses, bound, confidence).tolist()):
        if not _passes(p, confidence):
            break
        last = row
    return last


def texts_needed(bound: float, confidence: float, *, test: Test = "betting") -> int:
    """Give the number of texts below which not even losses of 0 pass.

    A coin that comes up 1 with the bound as its probability gives n zeros with probability
    (1 - bound)^n, so that no test does with less than log(1 - confidence) / log(1 - bound) texts;
    by ``betting``, n zeros make p = (1 + bound)^-n, which needs a few more.

    Raises:
        ConfigError: ``bound`` or ``confidence`` is not between 0 and 1, or there is no such test.

    Example:
        >>> texts_needed(0.05, 0.95, test="hoeffding-bentkus"), texts_needed(0.05, 0.95)
        (59, 62)
    """
    check_share("bound", bound)
    check_share("confidence", confidence)
    _p_values(test)
    each = math.log1p(bound) if test == "betting" else -math.log1p(-bound)
    return max(1, math.ceil(-math.log1p(-confidence) / each - SLACK))


def check_share(name: str, value: float) -> None:
    """Refuse a share that is not strictly between 0 and 1.

    Raises:
        ConfigError: It is not.
    """
    if not 0 < value < 1:
        raise ConfigError(f"{name} must be more than 0 and less than 1, got {value}; try 0.05")


def _passes(p: float, confidence: float) -> bool:
    return p <= (1 - confidence) * (1 + SLACK)


_PValues: TypeAlias = Callable[[Tensor, float, float], Tensor]


def _p_values(test: str) -> _PValues:
    tests: dict[str, _PValues] = {
        "hoeffding-bentkus": lambda losses, bound, _: hoeffding_bentkus(
            _means(losses), num_losses=losses.shape[-1], bound=bound
        ),
        "betting": lambda losses, bound, confidence: betting(
            losses, bound=bound, confidence=confidence
        ),
        "binomial": lambda losses, bound, _: binomial(
            _means(_zeros_and_ones(losses)), num_losses=losses.shape[-1], bound=bound
        ),
    }
    if test not in tests:
        raise ConfigError(f"unknown test {test!r}; use one of {', '.join(tests)}")
    return tests[test]


def _means(losses: Tensor) -> Tensor:
    _check_losses(losses, losses.shape[-1])
    return losses.double().mean(-1)


def _zeros_and_ones(losses: Tensor) -> Tensor:
    odd = losses[(losses != 0) & (losses != 1)]
    if len(odd):
        raise InputError(
            f"the test 'binomial' is for losses of 0 or 1, got {odd[0].item():g}; use "
            "'hoeffding-bentkus' for fractions"
        )
    return losses


def _check_losses(losses: Tensor, num_losses: int) -> None:
    if num_losses < 1 or not losses.numel():
        raise InputError("there are no losses to test; give those of at least one text")
    wrong = losses[~((losses >= -SLACK) & (losses <= 1 + SLACK))]
    if len(wrong):
        raise InputError(
            f"a loss must be from 0 to 1, got {wrong[0].item():g}; divide it by its largest "
            "possible value"
        )


def _log_binomial_tail(mean: Tensor, num_losses: int, bound: float) -> Tensor:
    """Give log P(Binomial(n, bound) <= ceil(n mean)), summed in logs, which never underflow."""
    count = torch.arange(num_losses + 1, dtype=torch.float64, device=mean.device)
    terms = math.lgamma(num_losses + 1) - (count + 1).lgamma() - (num_losses - count + 1).lgamma()
    terms += count * math.log(bound) + (num_losses - count) * math.log1p(-bound)
    ones = (num_losses * (mean - SLACK)).ceil().clamp(0, num_losses).long()
    return terms.logcumsumexp(0)[ones].clamp(max=0)
