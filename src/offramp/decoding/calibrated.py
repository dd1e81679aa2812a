"""What was found out about a model and is used where a call does not say otherwise.

In:  nothing; only values. Out: thresholds of early exit, settings of self-speculation.
Not here: finding them (offramp.evaluation), their file (offramp.models.calibration).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from offramp.config import ExitName


@dataclass(frozen=True, kw_only=True)
class CalibratedExit:
    """Thresholds of early exit that were shown to keep a risk under a bound.

    Attributes:
        rule: How sure an exit is, as in ``EarlyExit``.
        bound: Share of tokens that change stays below this, 0 to 1,
        confidence: with this probability over the draw of texts, 0 to 1.
        thresholds: A token leaves where its exit is surer, by exit; None: nothing could be shown.
        facts: All that was measured, as it stands in the file.
    """

    rule: str
    bound: float
    confidence: float
    thresholds: Mapping[int, float] | None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CalibratedDrafts:
    """The settings of self-speculation that were the fastest on one machine.

    Attributes:
        draft_exit: The exit that drafts; None is the trained drafter.
        draft_length: Tokens of a draft at most, or ``"auto"``.
        surest: See ``SelfSpeculation``.
        lookup: Tokens to copy from the text itself; 0 is never.
        speedup: Median of plain time by this one's, both by offramp's own loop.
        low: Lower end of its interval.
        high: Upper end of it.
        used: Whether it is used by default: only if ``low`` is above 1.
    """

    draft_exit: int | None
    draft_length: int | Literal["auto"]
    surest: float
    lookup: int
    speedup: float
    low: float
    high: float
    used: bool


@dataclass(frozen=True, kw_only=True)
class CalibratedContrast:
    """The contrast under which a text was the most likely.

    Attributes:
        upper: The exit whose scores are improved.
        lower: The exit that they are contrasted with.
        alpha: See ``Contrast``.
        cross_entropy: Nats per token under the contrast.
        plain: Nats per token under the upper exit alone.
        used: Whether it is better than the upper exit alone.
    """

    upper: ExitName
    lower: int
    alpha: float
    cross_entropy: float
    plain: float
    used: bool


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """What ``offramp calibrate`` found for the exits of a model.

    Attributes:
        exits_hash: Of the exits that were measured.
        early_exit: The bound that was asked for first, then others.
        speculation: None where nothing was timed.
        contrast: None where nothing was asked.
        machine: On which it was measured, and with what.
        date: When, in ISO 8601.
    """

    exits_hash: str
    early_exit: tuple[CalibratedExit, ...] = ()
    speculation: CalibratedDrafts | None = None
    contrast: CalibratedContrast | None = None
    machine: Mapping[str, Any] = field(default_factory=dict)
    date: str = ""

    def thresholds(self, rule: str, *, bound: float | None = None) -> Mapping[int, float] | None:
        """Give the thresholds of the first bound, or of one bound, for a rule of ``EarlyExit``.

        Returns:
            A threshold for each exit; None if none was shown to keep the bound.

        Example:
            >>> found = CalibratedExit(rule="gate", bound=0.05, confidence=0.95,
            ...     thresholds={6: 0.9})
            >>> Calibrated(exits_hash="", early_exit=(found,)).thresholds("gate")
            {6: 0.9}
        """
        found = self.early_exit_by(rule, bound=bound)
        return None if found is None else found.thresholds

    def early_exit_by(self, rule: str, *, bound: float | None = None) -> CalibratedExit | None:
        """Give what was found for a rule of ``EarlyExit`` at the first bound, or at one bound."""
        for each in self.early_exit:
            if each.rule == rule and bound in (None, each.bound):
                return each
        return None
