"""Run a text through the base once, and let exits speak about a few positions at a time.

In:  a model with exits, batches of tokens with labels. Out: views of chunks of their positions.
Law: what exits say does not depend on batches, chunks or padding; no [tokens, V] table is held
     beyond a chunk (tests/evaluation/test_exits.py, tests/evaluation/test_recording.py).
Not here: what is made of it (offramp.evaluation.exits, offramp.evaluation.recording).
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from offramp.blocks.projections import Direct, Projection
from offramp.errors import ConfigError
from offramp.logits.labels import NO_LABEL
from offramp.models.seeing import Seen, at_rest, see
from offramp.models.view import View
from offramp.training.positions import aligned

CHUNK = 128
"""Positions at a time: 25 MB of float32 scores for a vocabulary of 50,000, of which about six
tables exist at once. More took no less time on a processor."""

Batch = Mapping[str, Tensor]
"""``input_ids``, ``attention_mask`` and ``labels``, each [B, T]; labels are not shifted."""


class Places(NamedTuple):
    """Positions of a batch, in any order; one may be there twice, with other targets.

    Attributes:
        rows: The row of each.
        columns: Its place in the row.
        targets: The token that is to follow it.
    """

    rows: Int[Tensor, " tokens"]
    columns: Int[Tensor, " tokens"]
    targets: Int[Tensor, " tokens"]


@dataclass(frozen=True)
class Positions:
    """The states of one batch, [B, T, D], and the positions in it that are counted.

    Attributes:
        seen: The states.
        rows: The row of each position that is counted, in order.
        columns: Its place in the row.
        targets: The label there.
    """

    seen: Seen
    rows: Int[Tensor, " tokens"]
    columns: Int[Tensor, " tokens"]
    targets: Int[Tensor, " tokens"]

    @property
    def states(self) -> Mapping[int, Tensor]:
        """States of the whole batch, by exit."""
        return self.seen.states

    def of(self, states: Float[Tensor, "batch seq width"]) -> Float[Tensor, "1 tokens width"]:
        """Take the positions out of states."""
        return states[self.rows.to(states.device), self.columns.to(states.device)][None]

    def chunks(self, size: int) -> Iterator["Positions"]:
        """Cut the positions, not the states."""
        for places in torch.split(torch.arange(len(self.rows)), size):
            yield self.only(places)

    def only(self, places: Int[Tensor, " some"]) -> "Positions":
        """Keep some of the positions, by their numbers."""
        here = places.to(self.rows.device)
        rows, columns, targets = self.rows[here], self.columns[here], self.targets[here]
        return replace(self, rows=rows, columns=columns, targets=targets)


class Reader:
    """Some exits of a model, asked about texts.

    Attributes:
        model: A model with exits.
        projections: How each exit reads its state; one that is not attached is ``direct``.
    """

    def __init__(self, model: Any, exits: Iterable[int]) -> None:
        """Take the exits.

        Raises:
            ExitNotFoundError: The model does not have an exit.
        """
        numbers = tuple(exits)
        model.check_exits(numbers, attached_only=False)
        self.model = model
        self.projections: dict[int, Projection] = {
            exit: model.exits[str(exit)] if str(exit) in model.exits else Direct()
            for exit in numbers
        }

    def reading(self) -> AbstractContextManager[None]:
        """Put the model into evaluation mode without gradients, and back."""
        return at_rest(self.model)

    def run(self, batch: Batch) -> Positions:
        """Run the base without its head, and every extra block; take what has a label."""
        here = {name: each.to(self.model.device) for name, each in batch.items()}
        inputs = aligned(here, self.model)
        labels = inputs.pop("shift_labels")
        del inputs["labels"]
        rows, columns = (labels != NO_LABEL).nonzero(as_tuple=True)
        return self.look(inputs, Places(rows, columns, labels[rows, columns]))

    def look(self, inputs: Mapping[str, Tensor], places: Places) -> Positions:
        """Run the base without its head, and every extra block; take some positions.

        Args:
            inputs: What the base's forward takes, without labels.
            places: The positions that exits will be asked about.
        """
        seen = see(self.model, tuple(self.projections), self.projections, inputs)
        return Positions(seen, *places)

    def view(self, part: Positions) -> View:
        """Give the exits' view of some positions."""
        return part.seen.cut(part.of).view()


def check_chunk(chunk: int) -> None:
    """Refuse a chunk without positions.

    Raises:
        ConfigError: It is below 1.
    """
    if chunk < 1:
        raise ConfigError(f"chunk must be 1 or more positions, got {chunk}; try {CHUNK}")


def refuse_nan(numbers: Tensor, what: str) -> None:
    """Refuse numbers that mean nothing.

    Raises:
        ConfigError: One is NaN.
    """
    if numbers.isnan().any():
        raise ConfigError(
            f"{what} gives NaN instead of scores; load the model in float32 (--dtype float32)"
        )
