"""The cache of one text as memory with room to grow, written in place.

In:  keys and values of the next tokens of a block. Out: all of that block's, without a copy.
Law: a row that was cut is as if the tokens cut had never come (tests/blocks/test_engines.py).
"""

from collections.abc import Sequence
from itertools import repeat
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from offramp.blocks.engines.engine import Piece
from offramp.errors import CacheError

ROOM = 128
"""Tokens that a cache has room for at first; it doubles."""


class SlotRow:
    """Keys and values of one text, [2 * heads, room, width of a head] for each block.

    Attributes:
        lengths: How many tokens each block has seen.
        kept: The memory of each block; a part of the gang's, in a gang.
        gang: The ``offramp.blocks.engines.gangs.Gang`` that holds the memory, or None.
        place: In the gang.
    """

    def __init__(self, depth: int) -> None:
        self.lengths = [0] * depth
        self.kept: list[Tensor | None] = [None] * depth
        self.gang: Any = None
        self.place = 0

    def cut(self, length: int | Sequence[int]) -> None:
        """Forget all tokens from ``length`` on; their places are written over.

        Args:
            length: One for all blocks, or one for each.
        """
        limits = repeat(length) if isinstance(length, int) else length
        self.lengths = [min(each, limit) for each, limit in zip(self.lengths, limits, strict=False)]

    def add(self, block: int, new: Float[Tensor, "tokens heads width"]) -> Tensor:
        """Remember keys and values of the next tokens, and give all of them, [heads, seen, width].

        Args:
            block: Whose they are.
            new: Keys of all heads, then values of all heads.
        """
        before = self.lengths[block]
        after = before + new.shape[0]
        kept = self.with_room(block, after, like=new)
        kept[:, before:after] = new.transpose(0, 1)
        self.lengths[block] = after
        return kept[:, :after]

    def with_room(self, block: int, after: int, *, like: Tensor) -> Tensor:
        """Give the memory of a block, [heads, room, width], moved if ``after`` tokens do not fit.

        Args:
            block: Whose it is.
            after: How many tokens it must hold.
            like: A tensor [any, heads, width] of the same kind.
        """
        before = self.lengths[block]
        kept = self.kept[block]
        if kept is None or kept.shape[1] < after:
            if self.gang is not None:
                self._leave()
                kept = self.kept[block]
            room = max(ROOM, 2 * before, after + ROOM // 2)
            grown = like.new_empty(like.shape[1], room, like.shape[2])
            if kept is not None:
                grown[:, :before] = kept[:, :before]
            kept = self.kept[block] = grown
        return kept

    def _leave(self) -> None:
        """Take the memory of all blocks out of the gang, which may give the place to another."""
        self.kept = [None if each is None else each.clone() for each in self.kept]
        self.gang = None


def remember(pieces: Sequence[Piece], block: int, new: Float[Tensor, "tokens heads width"]) -> None:
    """Add keys and values of a block's next tokens to the rows that they belong to."""
    parts = torch.split(new, [count for _, count in pieces])
    for (row, _), part in zip(pieces, parts, strict=True):
        row.add(block, part)


def one_length(row: SlotRow, start: int, stop: int) -> int:
    """Tell how many tokens all blocks of a span have seen.

    Raises:
        CacheError: They have seen different numbers of tokens.
    """
    lengths = set(row.lengths[start:stop])
    if len(lengths) > 1:
        raise CacheError(
            f"blocks {start} to {stop - 1} have seen {sorted(lengths)} tokens; fill the "
            "shorter ones first, in a span of their own"
        )
    return row.lengths[start]
