"""Say how sure a score of some rows is, and whether another system's differs, by drawing rows.

In:  for each score, numbers of each row that add up, and how the score follows from their sums.
Out: the score, its interval, and the difference between two systems over the same rows.
Law: a score of drawn rows is the one of a file with just these rows; two systems are always given
     the same rows; a system does not differ from itself (tests/evaluation/test_resampling.py).
Not here: the scores (offramp.evaluation.text_metrics).
Source: Koehn 2004, "Statistical significance tests for machine translation evaluation".
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from offramp.errors import ConfigError

SAMPLES, SURE = 1000, 0.95
BLOCK = 1_000_000
"""Drawn rows that are held at a time."""

Better = Literal["higher", "lower", "neither"]
Sums = Float64[Tensor, "samples columns"]
Unit = Literal["points", "share", "ratio"]
"""``points`` are from 0 to 100, as papers print them; a ``share`` is a part of one."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a number is.

    Attributes:
        name: Of the score, such as ``"rouge1"``.
        flavour: All that must be known to get the same number again.
        unit: How it is counted.
        better: Which of two is the better one; neither where a score only describes.
    """

    name: str
    flavour: str
    unit: Unit
    better: Better


@dataclass(frozen=True, kw_only=True)
class Measure(Described):
    """A score that follows from sums over rows.

    Attributes:
        rows: The numbers of each row.
        combine: Gives the score of each line of sums.
    """

    rows: Float64[Tensor, "rows columns"]
    combine: Callable[[Sums], Float64[Tensor, " samples"]]


@dataclass(frozen=True, kw_only=True)
class Whole(Described):
    """A score of all rows together, which drawn rows would distort; it has no interval.

    Attributes:
        value: The score.
    """

    value: float


@dataclass(frozen=True, kw_only=True)
class Score(Described):
    """A score with its interval.

    Attributes:
        value: Of the rows as they are.
        low: Lower end of the 95 % interval; None if it was not asked for or makes no sense.
        high: Upper end of it.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Difference(Described):
    """How another system's score differs from the first one's over the same rows.

    Attributes:
        value: The other one's less the first one's.
        low: Lower end of the 95 % interval.
        high: Upper end of it.
        p_value: Twice the share of draws at which the sign is not that of the difference; below
            0.05 the interval does not hold 0.
    """

    value: float
    low: float | None
    high: float | None
    p_value: float | None


@dataclass(frozen=True, kw_only=True)
class Draws:
    """How often rows are drawn, and from which seed.

    Attributes:
        samples: Files of drawn rows; 0 gives no intervals, else at least 100.
        seed: Decides the draws; two systems need the same one to be paired.

    Raises:
        ConfigError: ``samples`` is neither 0 nor 100 or more.
    """

    samples: int = SAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples and self.samples < 100:
            raise ConfigError(
                f"samples must be 0 or at least 100, got {self.samples}; try {SAMPLES}"
            )

    def sums(self, rows: Float64[Tensor, "rows columns"]) -> Sums:
        """Add up the numbers of each file of drawn rows.

        Args:
            rows: The numbers of each row, at least one row.
        """
        count = rows.shape[0]
        generator = torch.Generator().manual_seed(self.seed)
        block = max(1, BLOCK // count)
        parts = []
        for first in range(0, self.samples, block):
            size = min(block, self.samples - first)
            drawn = torch.randint(count, (size, count), generator=generator)
            drawn += count * torch.arange(size)[:, None]
            times = torch.bincount(drawn.flatten(), minlength=size * count)
            parts.append(times.view(size, count).double() @ rows)
        return torch.cat(parts) if parts else rows.new_zeros(0, rows.shape[1])


def scores_of(measures: Sequence[Measure | Whole], draws: Draws) -> tuple[Score, ...]:
    """Give scores with their intervals.

    Args:
        measures: Scores of the same rows.
        draws: How sure they shall be known.

    Example:
        >>> marks = Measure(name="exact", flavour="", unit="share", better="higher",
        ...     rows=torch.tensor([[1.0], [0.0]], dtype=torch.float64),
        ...     combine=lambda sums: sums[:, 0] / 2)
        >>> found, = scores_of([marks], Draws())
        >>> found.value, found.low, found.high
        (0.5, 0.0, 1.0)
    """
    found = []
    for measure, drawn in zip(measures, _drawn(measures, draws), strict=True):
        low, high = (None, None) if drawn is None else _interval(drawn)
        found.append(Score(**described(measure), value=value_of(measure), low=low, high=high))
    return tuple(found)


def differences_of(
    others: Sequence[Measure | Whole], firsts: Sequence[Measure | Whole], draws: Draws
) -> tuple[Difference, ...]:
    """Compare a system with the first one over the same rows.

    Args:
        others: Scores of the other system.
        firsts: The same scores of the first one.
        draws: How sure the differences shall be known.

    Raises:
        ConfigError: They are not the same scores of equally many rows.
    """
    for other, first in zip(others, firsts, strict=True):
        _check_comparable(other, first)
    found = []
    both = zip(_drawn(others, draws), _drawn(firsts, draws), strict=True)
    for other, first, (mine, theirs) in zip(others, firsts, both, strict=True):
        low = high = p_value = None
        if mine is not None and theirs is not None:
            (low, high), p_value = _interval(mine - theirs), _p_value(mine - theirs)
        value = value_of(other) - value_of(first)
        found.append(
            Difference(**described(first), value=value, low=low, high=high, p_value=p_value)
        )
    return tuple(found)


def described(measure: Described) -> dict[str, Any]:
    """Give what a number is, as the arguments of ``Described``."""
    return {name: getattr(measure, name) for name in Described.__dataclass_fields__}


def value_of(measure: Measure | Whole) -> float:
    """Give the score of the rows as they are."""
    if isinstance(measure, Whole):
        return measure.value
    return float(measure.combine(measure.rows.sum(0, keepdim=True))[0])


def _check_comparable(other: Measure | Whole, first: Measure | Whole) -> None:
    if described(other) != described(first):
        raise ConfigError(
            f"cannot compare {other.name} ({other.flavour}) with {first.name} ({first.flavour}); "
            "measure both with the same settings"
        )
    if not isinstance(other, Measure) or not isinstance(first, Measure):
        return
    if len(other.rows) != len(first.rows):
        raise ConfigError(
            f"cannot compare {len(other.rows)} rows with {len(first.rows)}; give both systems the "
            "same rows"
        )


def _drawn(
    measures: Sequence[Measure | Whole], draws: Draws
) -> list[Float64[Tensor, " samples"] | None]:
    """Give each score of each file of drawn rows, all from the same draws."""
    tables = [each.rows for each in measures if isinstance(each, Measure)]
    if not tables or not draws.samples:
        return [None] * len(measures)
    widths = [each.shape[1] for each in tables]
    sums = iter(torch.split(draws.sums(torch.cat(tables, -1)), widths, -1))
    return [each.combine(next(sums)) if isinstance(each, Measure) else None for each in measures]


def _interval(drawn: Float64[Tensor, " samples"]) -> tuple[float, float]:
    """Cut off the same number of draws at both ends."""
    ordered = drawn.sort().values
    outside = math.floor((1 - SURE) / 2 * len(ordered))
    return float(ordered[outside]), float(ordered[-1 - outside])


def _p_value(drawn: Float64[Tensor, " samples"]) -> float:
    below, above = int((drawn <= 0).sum()), int((drawn >= 0).sum())
    return float(min(1.0, 2 * (min(below, above) + 1) / (len(drawn) + 1)))
