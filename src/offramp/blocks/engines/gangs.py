"""Caches of several texts side by side, so that one call lets all of them attend.

In:  rows that each have a new token. Out: what each attended to.
Law: a row in a gang holds what it would hold alone; rows come and go, and no row reads or writes
     the place of another (tests/blocks/test_gangs.py).
Not here: texts with several new tokens (offramp.blocks.engines.plain attends for them one by one).

The place of a text that has ended is given to the next; the memory of all places is freed when the
last text of the gang has ended.

A call of attention costs tens of microseconds however short the text is, and there is one for each
text and block: 240 a step for eight texts of a model of 30 blocks, a sixth of the step. Here there
are 30.
"""

from collections import Counter
from collections.abc import Sequence
from weakref import ref

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone uses
from jaxtyping import Float, Int
from torch import Tensor

from offramp.blocks.engines.slots import ROOM, SlotRow

FIRST = 4
"""Places of a gang at first; they double."""

FEWEST = 2
"""Texts for which a gang is made."""

LONGEST = 1024
"""Tokens of a text in a gang: all its places are as long as the longest."""

RAGGED = 2
"""A text that is so many times longer than the mean attends alone: the others would wait."""


class Gang:
    """Places for the caches of texts, [places, 2 * heads, room, width of a head] for each block.

    A row that joins has its ``kept`` in a place of the gang from then on; all else about it stays.
    """

    def __init__(self, depth: int) -> None:
        self.kept: list[Tensor | None] = [None] * depth
        self.rows: list[ref[SlotRow] | None] = []
        self.room = 0

    def join(self, rows: Sequence[SlotRow]) -> None:
        """Move rows' memory into places that nobody has."""
        if not rows:
            return
        free = [place for place in range(len(self.rows)) if self._at(place) is None]
        if len(free) < len(rows):
            more = max(FIRST, len(self.rows), len(rows) - len(free))
            free.extend(range(len(self.rows), len(self.rows) + more))
            self.rows.extend([None] * more)
        self.room = self._room_for(max(max(row.lengths) for row in rows) + 1)
        for row, place in zip(rows, free, strict=False):
            self.rows[place] = ref(row)
            row.gang, row.place = self, place
            for block, own in enumerate(row.kept):
                if own is not None:
                    seen = row.lengths[block]
                    mine = self._fitting(block, like=own)[place]
                    mine[:, :seen] = own[:, :seen]
                    mine[:, seen:] = 0
        self._show()

    def grow(self, longest: int) -> None:
        """Make all places long enough for so many tokens."""
        room = self._room_for(longest)
        if room > self.room:
            self.room = room
            self._show()

    def _room_for(self, longest: int) -> int:
        """Give the room of each place if the longest text has so many tokens."""
        if longest <= self.room:
            return self.room
        return max(longest, min(max(ROOM, 2 * longest), LONGEST))

    def _at(self, place: int) -> SlotRow | None:
        """Give the row that has a place; one that left or was dropped has it no more."""
        found = self.rows[place]
        row = None if found is None else found()
        return row if row is not None and row.gang is self and row.place == place else None

    def _fitting(self, block: int, *, like: Tensor) -> Tensor:
        """Give a block's memory, moved where places or room have become more."""
        old = self.kept[block]
        heads, _, width = like.shape
        shape = (len(self.rows), heads, self.room, width)
        if old is None or old.shape != shape:
            made = like.new_zeros(shape)
            if old is not None:
                made[: old.shape[0], :, : old.shape[2]] = old
            old = self.kept[block] = made
        return old

    def _show(self) -> None:
        """Let each row find its memory where it now is."""
        memory = [
            None if kept is None else self._fitting(at, like=kept[0])
            for at, kept in enumerate(self.kept)
        ]
        for place in range(len(self.rows)):
            row = self._at(place)
            if row is not None:
                for block, kept in enumerate(memory):
                    if kept is not None and row.kept[block] is not None:
                        row.kept[block] = kept[place]


class GangStep:
    """One step of rows of a gang, a token each, through some blocks that have seen equally much.

    Args:
        gang: Theirs.
        rows: Those that take part.
        start: Any block of the span.
        device: Of the states.
    """

    def __init__(
        self, gang: Gang, rows: Sequence[SlotRow], start: int, device: torch.device
    ) -> None:
        self._gang, self._rows = gang, rows
        seen = [row.lengths[start] for row in rows]
        places = [row.place for row in rows]
        self._high, self._long = max(places) + 1, max(seen) + 1
        self._in_order = places == list(range(self._high))
        self._places: Int[Tensor, " rows"] = torch.tensor(places, device=device)
        self._seen: Int[Tensor, " rows"] = torch.tensor(seen, device=device)
        ends = torch.zeros(self._high, dtype=torch.long, device=device)
        ends[self._places] = self._seen
        self._mask = (torch.arange(self._long, device=device) <= ends[:, None])[:, None, None]

    def attend(
        self, block: int, heads: Float[Tensor, "rows heads width"], keys: int, scale: float
    ) -> Float[Tensor, "rows out"]:
        """Remember the new tokens' keys and values, and attend.

        Args:
            block: Which.
            heads: Queries, keys and values of each row's token.
            keys: How many key heads there are.
            scale: Of the products of queries and keys.
        """
        kept = self._gang.kept[block]
        assert kept is not None
        queries = heads.shape[1] - 2 * keys
        kept[self._places, :, self._seen] = heads[:, queries:]
        for row in self._rows:
            row.lengths[block] += 1
        asked = heads[:, :queries].reshape(len(heads), keys, -1, heads.shape[-1])
        if not self._in_order:
            spread = asked.new_zeros(self._high, *asked.shape[1:])
            spread[self._places] = asked
            asked = spread
        memory = kept[: self._high, :, : self._long]
        found = F.scaled_dot_product_attention(
            asked, memory[:, :keys], memory[:, keys:], attn_mask=self._mask, scale=scale
        ).flatten(1)
        return found if self._in_order else found[self._places]


def ganged(rows: Sequence[SlotRow], start: int) -> tuple[Gang | None, list[int]]:
    """Choose which rows attend together, and bring them into one gang.

    Args:
        rows: Each has one new token, and has seen equally much in all blocks of a span.
        start: First block of the span.

    Returns:
        The gang and the places in ``rows`` of those that take part; None and nobody where attending
        one by one is as good.
    """
    some = [at for at, row in enumerate(rows) if row.lengths[start] and max(row.lengths) < LONGEST]
    if len(some) < FEWEST:
        return None, []
    mean = sum(rows[at].lengths[start] for at in some) / len(some)
    limit = max(ROOM, RAGGED * mean)
    some = [at for at in some if rows[at].lengths[start] <= limit]
    gangs = Counter(rows[at].gang for at in some if rows[at].gang is not None)
    gang = gangs.most_common(1)[0][0] if gangs else Gang(len(rows[0].lengths))
    some = [at for at in some if rows[at].gang in (None, gang)]
    gang.join([rows[at] for at in some if rows[at].gang is None])
    gang.grow(max(rows[at].lengths[start] for at in some) + 1)
    high = max(rows[at].place for at in some) + 1
    if len(some) < FEWEST or 2 * len(some) < high:
        return None, []
    return gang, some
