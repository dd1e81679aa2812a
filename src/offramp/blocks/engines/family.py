"""Any family that spans can run, text by text, with the family's own blocks.

In:  an ``Anatomy``. Out: an engine that is as fast as transformers' own blocks.
Law: as in offramp.blocks.engines.engine.
Not here: how a part of a family's blocks is run (offramp.blocks.span).
"""

from collections.abc import Sequence
from itertools import repeat
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache

from offramp.blocks.anatomy import Anatomy
from offramp.blocks.cache import growing, record_, rollback_
from offramp.blocks.engines.engine import Piece
from offramp.blocks.span import Span


class FamilyRow:
    """A cache of transformers for one text, and what its decoder reads of the encoder."""

    def __init__(self, anatomy: Anatomy, inputs: dict[str, Any]) -> None:
        self.inputs = inputs
        self.depth = anatomy.depth
        cache: Cache = DynamicCache(config=anatomy.config)
        if inputs:
            cache = EncoderDecoderCache(cache, DynamicCache(config=anatomy.config))
        record_(cache)
        self.cache = cache

    @property
    def lengths(self) -> list[int]:
        """How many tokens each block has seen."""
        layers = growing(self.cache).layers[: self.depth]
        seen = [layer.get_seq_length() for layer in layers]
        return seen + [0] * (self.depth - len(seen))

    def cut(self, length: int | Sequence[int]) -> None:
        """Forget all tokens from ``length`` on.

        Args:
            length: One for all blocks, or one for each.
        """
        limits = repeat(length) if isinstance(length, int) else length
        for block, (seen, limit) in enumerate(zip(self.lengths, limits, strict=False)):
            if seen > limit:
                rollback_(self.cache, seen - limit, start=block, stop=block + 1)


class FamilyEngine:
    """Runs blocks through ``Span``.

    Args:
        anatomy: The model's parts.

    Raises:
        ConfigError: Spans of this model are not its own forward.
    """

    name = "family"
    repeatable = True

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self._span = Span(anatomy)

    def row(self, **inputs: Any) -> FamilyRow:
        """Begin a text.

        Args:
            **inputs: ``encoder_hidden_states`` [1, S, D] and ``encoder_attention_mask`` [1, S] of
                an encoder-decoder.
        """
        return FamilyRow(self.anatomy, inputs)

    def embed(
        self, tokens: Int[Tensor, " tokens"], pieces: Sequence[Piece]
    ) -> Float[Tensor, "tokens width"]:
        """Give exit 0."""
        parts = torch.split(tokens, [count for _, count in pieces])
        return torch.cat(
            [
                self._span.embed(input_ids=part[None], cache=row.cache, **row.inputs)[0]
                for (row, _), part in zip(pieces, parts, strict=True)
            ]
        )

    def run(
        self,
        states: Float[Tensor, "tokens width"],
        start: int,
        stop: int,
        pieces: Sequence[Piece],
    ) -> Float[Tensor, "tokens width"]:
        """Take exit ``start`` to exit ``stop``.

        Raises:
            CacheError: The blocks of the span have seen different numbers of a row's tokens.
        """
        parts = torch.split(states, [count for _, count in pieces])
        return torch.cat(
            [
                self._span.run(part[None], start, stop, cache=row.cache, **row.inputs)[0]
                for (row, _), part in zip(pieces, parts, strict=True)
            ]
        )

    def copy_up(
        self, states: Float[Tensor, "tokens width"], start: int, pieces: Sequence[Piece]
    ) -> int:
        """Let blocks from ``start`` on remember these states; give how many that are.

        A family's own blocks have no way to remember without attending, so each block is run and
        its output dropped: the text is that of state propagation, the time is not.
        """
        for block in range(start, self.anatomy.depth):
            self.run(states, block, block + 1, pieces)
        return self.anatomy.depth - start
