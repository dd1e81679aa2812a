"""Decide, text by text, whether an exit is sure enough to answer.

In:  texts on their way up, and an exit. Out: yes or no, and how sure it is, 0 to 1.
Law: no vocabulary head is run by a rule that does not read scores; threshold 1 never stops
     (tests/decoding/test_early_exit.py).
Not here: the measures themselves (offramp.logits.rules, offramp.blocks.gates); what follows from
     yes (offramp.decoding.early_exit).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from offramp.blocks.engines import Engine
from offramp.decoding.protocol import LoopModel
from offramp.decoding.request import Text
from offramp.logits.rules import certainty, saturation, top_gap, top_probability

BY_SCORES = {"top_probability": top_probability, "top_gap": top_gap, "entropy": certainty}
"""Rules that read an exit's scores of the vocabulary."""

RULES = ("gate", *BY_SCORES, "saturation", "patience", "fixed", "schedule")


@dataclass
class Passage:
    """One text's way up in one step.

    Attributes:
        text: Whose.
        states: Of its tokens that are on their way, the newest last.
        kept: The newest one's states at the exits that it passed, [1, D] each.
        said: What the exit that was asked last says of the vocabulary, [V], if it was asked that.
        best: The best token at the last exit that was asked; for patience.
        agreed: So many exits in a row had it.
    """

    text: Text
    states: Float[Tensor, "tokens width"]
    kept: dict[int, Float[Tensor, "one width"]] = field(default_factory=dict)
    said: Tensor | None = None
    best: int = -1
    agreed: int = 0


def leaves(
    model: Any,
    exit: int,
    confidence: Float[Tensor, " rows"],
    threshold: float | Mapping[int, float] | None,
) -> Bool[Tensor, " rows"]:
    """Say who is sure enough.

    Args:
        model: Has the exits.
        exit: Which was asked.
        confidence: How sure it is.
        threshold: Leave above it, at all exits or by exit; None is that of the exit's own gate.
    """
    if threshold is None:
        return model.exits[str(exit)].gate.leaves(confidence).cpu()  # type: ignore[no-any-return]
    limit = threshold[exit] if isinstance(threshold, Mapping) else threshold
    return confidence.cpu().double() > limit


class Judge:
    """Applies one rule."""

    def __init__(
        self,
        model: LoopModel,
        engine: Engine,
        *,
        rule: str,
        exits: Sequence[int],
        threshold: float | Mapping[int, float] | None,
        schedule: Sequence[tuple[int, int]],
    ) -> None:
        self._model, self._engine, self._exits = model, engine, exits
        self._rule, self._threshold, self._schedule = rule, threshold, schedule

    def sure(self, going: Sequence[Passage], exit: int) -> tuple[list[bool], list[float]]:
        """Say which texts may leave at an exit, and how sure it is of each."""
        if self._rule == "fixed":
            return [True] * len(going), [1.0] * len(going)
        if self._rule == "schedule":
            due = [self._due(len(each.text.exits)) == exit for each in going]
            return due, [1.0] * len(going)
        if self._rule == "patience":
            return self._agreement(going, exit)
        confidence = self._confidence(going, exit)
        sure = leaves(self._model, exit, confidence, self._threshold)
        return sure.tolist(), confidence.tolist()

    def _confidence(self, going: Sequence[Passage], exit: int) -> Float[Tensor, " rows"]:
        if self._rule in BY_SCORES:
            return BY_SCORES[self._rule](self._said(going, exit))
        states = torch.cat([each.kept[exit] for each in going])
        if self._rule == "saturation":
            before = max(each for each in (0, *self._exits) if each < exit)
            return saturation(states, torch.cat([each.kept[before] for each in going]))
        return self._model.exits[str(exit)].gate.confidence(states)  # type: ignore[no-any-return]

    def _said(self, going: Sequence[Passage], exit: int) -> Float[Tensor, "rows vocab"]:
        """Score the vocabulary, and leave it with the texts: whoever leaves is answered by it."""
        states = torch.cat([each.kept[exit] for each in going])
        logits = self._model.view_of(self._engine, {exit: states}).logits(exit)
        for each, row in zip(going, logits, strict=True):
            each.said = row
        return logits

    def _agreement(self, going: Sequence[Passage], exit: int) -> tuple[list[bool], list[float]]:
        """Count how many exits in a row have had the same best token."""
        best = self._said(going, exit).argmax(-1).tolist()
        for each, token in zip(going, best, strict=True):
            each.agreed = each.agreed + 1 if token == each.best else 1
            each.best = token
        needed = self._threshold
        assert isinstance(needed, int)  # EarlyExit has seen to it
        shares = [min(1.0, each.agreed / needed) for each in going]
        return [share == 1.0 for share in shares], shares

    def _due(self, token: int) -> int:
        return next(exit for start, exit in reversed(self._schedule) if start <= token)
