"""Let each text attend to itself.

In:  queries, keys and values of the next tokens of some texts. Out: what each token attended to;
     keys and values are remembered.
Law: a text's result is that of the text alone (tests/blocks/test_engines.py).
Not here: the memory of texts that attend together (offramp.blocks.engines.gangs).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone uses
from jaxtyping import Float
from torch import Tensor

from offramp.blocks.engines.engine import Piece
from offramp.blocks.engines.gangs import GangStep, ganged
from offramp.blocks.engines.slots import SlotRow


class Heads(NamedTuple):
    """How many query and key heads there are, and the scale of their products."""

    queries: int
    keys: int
    scale: float


class Attention:
    """Attention of one step through some blocks.

    Args:
        shape: Of the heads.
        pieces: Rows, and how many of their next tokens are meant.
        start: The first block; all that follow have seen equally much of a row.
        device: Of the states.
    """

    def __init__(
        self, shape: Heads, pieces: Sequence[Piece], start: int, device: torch.device
    ) -> None:
        self._shape = shape
        ones = [number for number, (_, count) in enumerate(pieces) if count == 1]
        gang, chosen = ganged([pieces[number][0] for number in ones], start)
        together = {ones[place] for place in chosen}
        self._alone: list[tuple[SlotRow, slice, Tensor | None]] = []
        lines, rows, at = [], [], 0
        for number, (row, count) in enumerate(pieces):
            if number in together:
                lines.append(at)
                rows.append(row)
            else:
                mask = self._mask(row.lengths[start], count, device)
                self._alone.append((row, slice(at, at + count), mask))
            at += count
        self._step = None if gang is None else GangStep(gang, rows, start, device)
        self._lines = torch.tensor(lines, device=device)

    def seen(
        self, block: int, heads: Float[Tensor, "tokens heads width"]
    ) -> Float[Tensor, "tokens out"]:
        """Attend in one block."""
        if not self._alone and self._step is not None:
            return self._step.attend(block, heads, self._shape.keys, self._shape.scale)
        found = [self._one(block, heads[lines], row, mask) for row, lines, mask in self._alone]
        if self._step is None:
            return found[0] if len(found) == 1 else torch.cat(found)
        result = heads.new_empty(len(heads), found[0].shape[1])
        for (_, lines, _), part in zip(self._alone, found, strict=True):
            result[lines] = part
        mine = heads[self._lines]
        result[self._lines] = self._step.attend(block, mine, self._shape.keys, self._shape.scale)
        return result

    def _mask(self, before: int, count: int, device: torch.device) -> Tensor | None:
        """Say which of ``before + count`` tokens each line of a product sees; None is all."""
        if count == 1:
            return None
        seen = torch.ones(count, before + count, dtype=torch.bool, device=device).tril(before)
        return seen.repeat_interleave(self._shape.queries // self._shape.keys, dim=0)

    def _one(
        self,
        block: int,
        heads: Float[Tensor, "tokens heads width"],
        row: SlotRow,
        mask: Tensor | None,
    ) -> Float[Tensor, "tokens out"]:
        """Let one text attend: query heads that share a key head are lines of one product."""
        queries, keys, scale = self._shape
        kept = row.add(block, heads[:, queries:])
        lines = torch.unflatten(heads[:, :queries], 1, (keys, queries // keys))
        one = len(heads) == 1  # its heads lie as they are asked for; nothing is moved
        seen = F.scaled_dot_product_attention(
            lines if one else lines.transpose(0, 1).flatten(1, 2)[None],
            kept[None, :keys],
            kept[None, keys:],
            attn_mask=mask,
            scale=scale,
        )
        if one:
            return seen.flatten(1)
        seen = torch.unflatten(seen[0], 1, (len(heads), queries // keys)).transpose(0, 1)
        return seen.reshape(len(heads), -1)
