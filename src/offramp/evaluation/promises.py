"""Promise what early exit changes, for several bounds, and hold it against texts kept back.

In:  recorded texts. Out: for each bound a ``Promise``: what was found, and how it did elsewhere.
Law: nothing that is found depends on the texts kept back (tests/evaluation/test_promises.py).
Not here: recording (offramp.evaluation.recording), the search (offramp.evaluation.calibration).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from offramp.errors import ConfigError, InputError
from offramp.evaluation.calibration import Calibration, calibrate
from offramp.evaluation.replay import Ladder, Recorded, Replay, replay
from offramp.evaluation.tally import NORMAL_95

T = TypeVar("T")

BOUNDS = (0.10, 0.05, 0.02)
"""Of the agreements that are always reported: 90, 95 and 98 %."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """How a threshold did on texts that were kept back; shares from 0 to 1.

    Attributes:
        risk: Mean over texts of the share of tokens that change, or of the loss in a metric.
        margin: Half its 95 % interval; None for fewer than two texts.
        saved: Share of blocks that did not run.
        most_saved: The most that any one threshold saves on these texts within the bound, seen
            afterwards: what a larger calibration set could gain; None where only one was tried.
        num_texts: How many were kept back.
        num_tokens: How many tokens they have.
    """

    risk: float
    margin: float | None
    saved: float
    most_saved: float | None
    num_texts: int
    num_tokens: int


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What was found for one bound.

    Attributes:
        found: The threshold, and what it does to the texts of calibration.
        held_out: What it does to the others; None if none were kept back.
    """

    found: Calibration
    held_out: HeldOut | None

    def as_dict(self) -> dict[str, Any]:
        """Give what JSON can hold."""
        held_out = None if self.held_out is None else asdict(self.held_out)
        return {**self.found.as_dict(), "held_out": held_out}


def divide(texts: Sequence[T], share: float, *, seed: int = 0) -> tuple[list[T], list[T]]:
    """Give the texts of calibration and those kept back, drawn at random.

    Args:
        texts: All.
        share: Of the texts that is kept back, 0 to below 1.
        seed: Decides which.

    Raises:
        ConfigError: The share is out of its range.
        InputError: Nothing is left to calibrate on.
    """
    if not 0 <= share < 1:
        raise ConfigError(f"the share kept back must be from 0 to below 1, got {share}; try 0.33")
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    kept = round(len(texts) * share)
    if kept == len(texts):
        raise InputError(f"{len(texts)} texts are too few to keep {share:g} of them back")
    return [texts[place] for place in order[kept:]], [texts[place] for place in order[:kept]]


def promise(
    texts: Sequence[Recorded],
    held_out: Sequence[Recorded],
    *,
    ladder: Ladder,
    rule: str,
    bound: float,
    confidence: float = 0.95,
) -> list[Promise]:
    """Find the thresholds of the bound that is asked for, and then of ``BOUNDS``.

    Each bound keeps the confidence on its own; that all do at once is less sure.

    Args:
        texts: To find thresholds on.
        held_out: To see what they do; may be empty.
        ladder: The exits that were recorded.
        rule: What gave the confidences.
        bound: Share of tokens that may change, between 0 and 1.
        confidence: With which it holds, between 0 and 1.

    Raises:
        ConfigError: ``bound`` or ``confidence`` is not between 0 and 1.
        InputError: There is no text, or the recordings do not fit the ladder.
    """
    played = replay(texts, ladder=ladder)
    others = replay(held_out, ladder=ladder) if held_out else None
    return promise_of(played, others, rule=rule, bound=bound, confidence=confidence)


def promise_of(
    played: Replay, others: Replay | None, *, rule: str, bound: float, confidence: float = 0.95
) -> list[Promise]:
    """Find thresholds as ``promise`` does, of texts that were played already.

    Args:
        played: To find thresholds on.
        others: To see what they do, at the same thresholds.
        rule: What gave the confidences.
        bound: Share of tokens that may change, between 0 and 1.
        confidence: With which it holds, between 0 and 1.

    Raises:
        ConfigError: ``bound`` or ``confidence`` is not between 0 and 1.
    """
    promises = []
    for each in (bound, *(other for other in BOUNDS if other != bound)):
        found = calibrate(played, rule=rule, bound=each, confidence=confidence)
        promises.append(
            Promise(found=found, held_out=None if others is None else _held_out(found, others))
        )
    return promises


def margin_of(losses: Float[Tensor, " texts"]) -> float | None:
    """Give half the 95 % interval of a mean over texts; None for fewer than two."""
    texts = len(losses)
    return NORMAL_95 * float(losses.std()) / math.sqrt(texts) if texts > 1 else None


def _held_out(found: Calibration, others: Replay) -> HeldOut:
    """Look up the threshold among those that were played; without one, no token leaves."""
    knob = 1.0 if found.threshold is None else found.threshold
    row = int((others.thresholds - knob).abs().argmin())
    losses = others.losses[row]
    return HeldOut(
        risk=float(losses.mean()),
        margin=margin_of(losses),
        saved=float(others.saved[row]),
        most_saved=others.saved_at(1 - found.bound),
        num_texts=len(losses),
        num_tokens=int(others.tokens.sum()),
    )
