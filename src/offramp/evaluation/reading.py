"""Run a text through the base once, and let exits speak about a few positions at a time.

In:  a model with exits, batches of tokens with labels. Out: views of chunks of their positions.
Law: what exits say does not depend on batches, chunks or padding; no [tokens, V] table is held
     beyond a chunk (tests/evaluation/test_exits.py, tests/evaluation/test_recording.py).
Not here: what is made of it (offramp.evaluation.exits, offramp.evaluation.recording).
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from offramp.blocks.anatomy import Anatomy
from offramp.blocks.projections import Block, Direct, Projection
from offramp.blocks.watch import Watched, watch
from offramp.errors import ConfigError
from offramp.logits.labels import NO_LABEL
from offramp.models.view import View, keeper
from offramp.training.positions import aligned

CHUNK = 128
"""Positions at a time: 25 MB of float32 scores for a vocabulary of 50,000, of which about six
tables exist at once. More took no less time on a processor."""

Batch = Mapping[str, Tensor]
"""``input_ids``, ``attention_mask`` and ``labels``, each [B, T]; labels are not shifted."""


class _Ran(Direct):
    """A ``block`` exit whose block has been run, on all positions, before they are cut."""

    def __init__(self, state: Float[Tensor, "1 tokens width"]) -> None:
        super().__init__()
        self.state = state

    def prepare(
        self, anatomy: Anatomy, state: Float[Tensor, "*rows width"]
    ) -> Float[Tensor, "*rows out"]:
        """Give what the head reads."""
        return anatomy.finish(self.state)


@dataclass(frozen=True)
class Positions:
    """The states of one batch, [B, T, D], and the positions in it that are counted.

    Attributes:
        states: By exit.
        ran: What the blocks of ``block`` exits made of their states.
        finished: What the base's own head reads.
        rows: The row of each position that is counted, in order.
        columns: Its place in the row.
        targets: The label there.
    """

    states: dict[int, Tensor]
    ran: dict[int, Tensor]
    finished: Tensor
    rows: Int[Tensor, " tokens"]
    columns: Int[Tensor, " tokens"]
    targets: Int[Tensor, " tokens"]

    def of(self, states: Float[Tensor, "batch seq width"]) -> Float[Tensor, "1 tokens width"]:
        """Take the positions out of states."""
        return states[self.rows.to(states.device), self.columns.to(states.device)][None]

    def chunks(self, size: int) -> Iterator["Positions"]:
        """Cut the positions, not the states."""
        cut = (torch.split(each, size) for each in (self.rows, self.columns, self.targets))
        for rows, columns, targets in zip(*cut, strict=True):
            yield replace(self, rows=rows, columns=columns, targets=targets)


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
        self.anatomy: Anatomy = model.anatomy
        self.projections: dict[int, Projection] = {
            exit: model.exits[str(exit)] if str(exit) in model.exits else Direct()
            for exit in numbers
        }

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Put the model into evaluation mode without gradients, and back."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.train(was_training)

    def run(self, batch: Batch) -> Positions:
        """Run the base without its head, and every extra block."""
        here = {name: each.to(self.model.device) for name, each in batch.items()}
        inputs, depth = aligned(here, self.model), self.anatomy.depth
        labels = inputs.pop("shift_labels")
        del inputs["labels"]
        blocks = [exit for exit, each in self.projections.items() if isinstance(each, Block)]
        watching = watch(
            self.anatomy,
            tuple(self.projections),
            keep=keeper(0),
            run_head=False,
            last_block=depth,
            calls=(depth - 1,) if blocks else (),
        )
        with watching as seen:
            type(self.model).base_forward(self.model, **inputs, use_cache=False, return_dict=True)
        rows, columns = (labels != NO_LABEL).nonzero(as_tuple=True)
        ran = {}
        for exit in blocks:
            block: Any = self.projections[exit]
            ran[exit] = block.run(seen.states[exit], seen.calls[depth - 1])
        return Positions(seen.states, ran, seen.finished(), rows, columns, labels[rows, columns])

    def view(self, part: Positions) -> View:
        """Give the exits' view of some positions."""
        ran = {exit: _Ran(part.of(each)) for exit, each in part.ran.items()}
        seen = Watched()
        seen.states.update({exit: part.of(each) for exit, each in part.states.items()})
        seen.head_input = part.of(part.finished)
        return View(
            anatomy=self.anatomy,
            seen=seen,
            projections={**self.projections, **ran},
            keep=keeper(0),
            base_logits=None,
        )


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
