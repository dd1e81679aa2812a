"""What the exits of one call say, computed when a rule asks for it.

In:  the states that ``watch`` caught and the attached projections. Out: scores, on the device of
     the base's logits. An exit that is asked twice is computed twice, so rules ask once.
Law: positions are cut before any head is run (tests/models/test_multiexit.py counts the rows).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.modeling_utils import slice_logits_to_keep

from offramp.blocks.anatomy import Anatomy
from offramp.blocks.products import product
from offramp.blocks.projections import Block, Direct, Head, Projection, can_gather, gathered_scores
from offramp.blocks.watch import Watched
from offramp.config import ORIGINAL, ExitName


@dataclass(frozen=True, kw_only=True)
class View:
    """The exits of one call; see ``offramp.decoding.protocol.ExitView``.

    Attributes:
        anatomy: The base's parts.
        seen: The states of this call.
        projections: The attached exits among those watched.
        keep: Cuts states to the positions asked for.
        base_logits: The base's own logits at these positions, if they were computed.
    """

    anatomy: Anatomy
    seen: Watched
    projections: Mapping[int, Projection]
    keep: Callable[[Tensor], Tensor]
    base_logits: Float[Tensor, "*rows vocab"] | None

    def logits(self, exit: ExitName) -> Float[Tensor, "*rows vocab"]:
        """Score the whole vocabulary."""
        if exit == ORIGINAL:
            if self.base_logits is not None:
                return self.base_logits
            return self.complete(self.anatomy, _run(self.anatomy.head, self.seen.finished()))
        head, prepared = self.prepared(exit)
        return self._placed(self.complete(self.anatomy, _run(head, prepared)))

    def raw_logits(self, exit: ExitName) -> Float[Tensor, "*rows vocab"]:
        """Score the whole vocabulary with the base's head on the state as it is, not normed."""
        if exit == ORIGINAL:
            return self.logits(exit)
        state = self.keep(self.seen.states[exit])
        return self._placed(self.complete(self.anatomy, _run(self.anatomy.head, state)))

    def gathered(
        self, exit: ExitName, tokens: Int[Tensor, "rows candidates"]
    ) -> Float[Tensor, "rows candidates"] | None:
        """Score a few tokens of each row; None where the head cannot be read row by row."""
        if exit == ORIGINAL:
            return self.logits(exit).reshape(tokens.shape[0], -1).gather(-1, tokens)
        head, prepared = self.prepared(exit)
        if not can_gather(head):
            return None
        rows = prepared.reshape(tokens.shape[0], prepared.shape[-1])
        return self.complete(self.anatomy, gathered_scores(head, rows, tokens), tokens)

    def finished(self) -> Float[Tensor, "rows out"]:
        """Give what the base's own head reads."""
        return self.seen.finished()

    def among(
        self, exit: int, tokens: Int[Tensor, " some"], weight: Float[Tensor, "some width"]
    ) -> Float[Tensor, "rows some"]:
        """Score a fixed few tokens, given the rows of the exit's head that belong to them."""
        _, prepared = self.prepared(exit)
        return self.complete(self.anatomy, product(prepared, weight), tokens)

    @staticmethod
    def complete(
        anatomy: Anatomy,
        scores: Float[Tensor, "*rows scored"],
        tokens: Int[Tensor, "*scored"] | None = None,
    ) -> Float[Tensor, "*rows scored"]:
        """Do to a head's output what the base does to its own: scale, soft cap, bias.

        Args:
            anatomy: The base's parts.
            scores: Of the whole vocabulary, or of some tokens.
            tokens: Which; None is the whole vocabulary.
        """
        scores = anatomy.scores(scores)
        if anatomy.bias is None:
            return scores
        bias = anatomy.bias.to(scores)
        return scores + (bias if tokens is None else bias.flatten()[tokens.to(scores.device)])

    def prepared(self, exit: int) -> tuple[nn.Module, Float[Tensor, "*rows width"]]:
        """Give an exit's head and what it reads, cut to the positions asked for."""
        projection = self.projections.get(exit, _DIRECT)
        head = projection.linear if isinstance(projection, Head) else self.anatomy.head
        if exit == self.anatomy.depth and isinstance(projection, Direct | Head):
            return head, self.seen.finished()
        state = self.seen.states[exit]
        if isinstance(projection, Block):
            state = projection.run(state, self.seen.calls[self.anatomy.depth - 1])
        return head, projection.prepare(self.anatomy, self.keep(state))

    def _placed(self, logits: Float[Tensor, "*rows vocab"]) -> Float[Tensor, "*rows vocab"]:
        return logits if self.base_logits is None else logits.to(self.base_logits.device)


_DIRECT = Direct()


def keeper(positions: int | Tensor) -> Callable[[Tensor], Tensor]:
    """Make the cut that ``logits_to_keep`` asks for: 0 all, n the last n, a tensor its indices."""

    def keep(states: Tensor) -> Tensor:
        if isinstance(positions, int) and positions == 0:
            return states
        chosen = positions.to(states.device) if isinstance(positions, Tensor) else positions
        kept: Tensor = slice_logits_to_keep(states, chosen)
        return kept

    return keep


def _run(head: nn.Module, prepared: Tensor) -> Tensor:
    """Run a head where its weights are: with a device map a state may come from elsewhere."""
    weight = getattr(head, "weight", None)
    if isinstance(weight, Tensor) and weight.device != torch.device("meta"):
        prepared = prepared.to(weight.device)
    if type(head) is nn.Linear and not _is_watched(head):
        return product(prepared, head.weight, head.bias)
    return head(prepared)  # type: ignore[no-any-return]


def _is_watched(head: nn.Module) -> bool:
    """Tell whether others have hung something on the call of a head."""
    return bool(head._forward_hooks or head._forward_pre_hooks or "forward" in vars(head))
