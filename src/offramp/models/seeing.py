"""Run a text through the base once, and let exits speak about any of its positions afterwards.

In:  a model with exits, and the inputs of one forward. Out: states, and views of parts of them.
Law: what exits say about a part is what they say about the whole; no head is run until somebody
     asks (tests/evaluation/test_exits.py, tests/trace/test_reading.py).
Not here: which positions, and what is made of what they say (offramp.evaluation.reading,
     offramp.trace.reading).
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from offramp.blocks.anatomy import Anatomy
from offramp.blocks.projections import Block, Direct, Projection
from offramp.blocks.watch import Watched, watch
from offramp.models.view import View, keeper

Cut = Callable[[Tensor], Tensor]
"""Takes positions out of states."""


class _Ran(Direct):
    """A ``block`` exit whose block has been run, on all positions, before they are cut."""

    def __init__(self, state: Float[Tensor, "*rows width"]) -> None:
        super().__init__()
        self.state = state

    def prepare(
        self, anatomy: Anatomy, state: Float[Tensor, "*rows width"]
    ) -> Float[Tensor, "*rows out"]:
        """Give what the head reads."""
        return anatomy.finish(self.state)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The states of one forward, or of some of its positions.

    Attributes:
        anatomy: The base's parts.
        projections: How exits read their states; one that is not there is ``direct``.
        states: By exit.
        ran: What the blocks of ``block`` exits made of their states.
        finished: What the base's own head reads.
    """

    anatomy: Anatomy
    projections: Mapping[int, Projection]
    states: Mapping[int, Tensor]
    ran: Mapping[int, Tensor]
    finished: Tensor

    def cut(self, cut: Cut) -> "Seen":
        """Give those of some positions."""
        return Seen(
            anatomy=self.anatomy,
            projections=self.projections,
            states={exit: cut(each) for exit, each in self.states.items()},
            ran={exit: cut(each) for exit, each in self.ran.items()},
            finished=cut(self.finished),
        )

    def view(self) -> View:
        """Let the exits speak."""
        ran = {exit: _Ran(each) for exit, each in self.ran.items()}
        return View(
            anatomy=self.anatomy,
            seen=Watched(states=dict(self.states), head_input=self.finished),
            projections={**self.projections, **ran},
            keep=keeper(0),
            base_logits=None,
        )


@contextmanager
def at_rest(model: Any) -> Iterator[None]:
    """Put a model into evaluation mode without gradients, and back."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def see(
    model: Any,
    exits: Collection[int],
    projections: Mapping[int, Projection],
    inputs: Mapping[str, Any],
) -> Seen:
    """Run the base without its head, and every extra block.

    Args:
        model: A model with exits, at rest.
        exits: Whose states are kept, 0 to L.
        projections: How they read their states.
        inputs: Of the base's forward.
    """
    anatomy = model.anatomy
    last = anatomy.depth - 1
    blocks = [exit for exit, each in projections.items() if isinstance(each, Block)]
    watching = watch(
        anatomy,
        exits,
        keep=keeper(0),
        run_head=False,
        last_block=anatomy.depth,
        calls=(last,) if blocks else (),
    )
    with watching as seen:
        type(model).base_forward(model, **inputs, use_cache=False, return_dict=True)
    ran = {}
    for exit in blocks:
        block: Any = projections[exit]
        ran[exit] = block.run(seen.states[exit], seen.calls[last])
    return Seen(
        anatomy=anatomy,
        projections=projections,
        states=seen.states,
        ran=ran,
        finished=seen.finished(),
    )
