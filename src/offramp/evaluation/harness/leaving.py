"""Say at which exit each position of a given text would have been left.

In:  states of a text that is given, not written, and an ``EarlyExit``. Out: for each position the
     exit whose scores count.
Law: they are the exits that ``generate`` leaves at when it is made to write the same text
     (tests/evaluation/harness/test_scoring.py).
Not here: the scores (offramp.evaluation.harness.scoring), how sure an exit is
     (offramp.evaluation.recording).

States below a position are those of the whole model, as with ``cache="defer"``, which fills blocks
that were left out before anyone reads them. With ``cache="copy"`` they would depend on where each
token before left, one after the other; that is refused.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from offramp.decoding.early_exit import EarlyExit
from offramp.decoding.judge import BY_SCORES, leaves
from offramp.errors import ConfigError
from offramp.evaluation.reading import Positions, Reader, refuse_nan
from offramp.evaluation.recording import confidence_of


class Leaving:
    """One rule on one model.

    Attributes:
        exits: Those that may answer, ascending, below the last layer.
        watched: Those whose states are needed.
    """

    def __init__(self, model: Any, plan: EarlyExit) -> None:
        """Check that a given text can be followed.

        Raises:
            ConfigError: The states of what was left out would be copies.
        """
        if plan.cache != "defer":
            raise ConfigError(
                f"the likelihood of a text with cache={plan.cache!r} needs it token by token; use "
                "cache='defer'"
            )
        self.model, self.plan = model, plan
        self.exits = plan.answering(model)
        lower = () if plan.lower is None else (plan.lower,)
        self.watched = tuple(sorted({0, *self.exits, *lower}))
        self._threshold = plan.thresholds(model)

    def exits_of(
        self, part: Positions, reader: Reader, tokens: Int[Tensor, " tokens"]
    ) -> Int[Tensor, " tokens"]:
        """Give the exit of each position.

        Args:
            part: Some positions.
            reader: Has the exits.
            tokens: How many new tokens come before each position's own; below 0: nobody may leave.
        """
        left = torch.full((len(part.rows),), int(self.model.depth))
        if self.plan.rule == "schedule":
            due = [self._due(token) for token in tokens.tolist()]
            return torch.where(tokens < 0, left, torch.tensor(due))
        going = (tokens >= 0).nonzero()[:, 0]
        for exit, sure in self._asked(part, reader):
            if not len(going):
                break
            gone = sure(going)
            left[going[gone]] = exit
            going = going[~gone]
        return left

    def _due(self, token: int) -> int:
        return next(exit for start, exit in reversed(self.plan.schedule) if start <= max(token, 0))

    def _asked(self, part: Positions, reader: Reader) -> Iterator[tuple[int, Any]]:
        """Give each exit with a function that says which of some positions leave there."""
        best = torch.full((len(part.rows),), -1)
        agreed = torch.zeros(len(part.rows), dtype=torch.long)

        def in_a_row(going: Tensor, exit: int) -> Bool[Tensor, " some"]:
            found = reader.view(part.only(going)).logits(exit)[0].argmax(-1).cpu()
            agreed[going] = torch.where(found == best[going], agreed[going] + 1, 1)
            best[going] = found
            needed = self.plan.threshold
            assert isinstance(needed, int)  # EarlyExit has seen to it
            enough: Tensor = agreed[going] >= needed
            return enough

        for exit in self.exits:
            if self.plan.rule == "fixed":
                yield exit, lambda going: torch.ones(len(going), dtype=torch.bool)
            elif self.plan.rule == "patience":
                yield exit, lambda going, exit=exit: in_a_row(going, exit)
            else:
                yield exit, lambda going, exit=exit: self._sure(part.only(going), reader, exit)

    def _sure(self, part: Positions, reader: Reader, exit: int) -> Bool[Tensor, " some"]:
        rule = self.plan.rule
        before = max((each for each in (0, *self.exits) if each < exit), default=0)
        scores = reader.view(part).logits(exit)[0] if rule in BY_SCORES else None
        confidence = confidence_of(reader, part, rule=rule, pair=(before, exit), scores=scores)
        refuse_nan(confidence, f"exit {exit}")
        return leaves(self.model, exit, confidence, self._threshold)
