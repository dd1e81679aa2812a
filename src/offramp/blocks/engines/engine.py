"""What an engine is: blocks i to j for the next tokens of some texts, each with its own cache.

In:  states of tokens, one after the other, and which text each belongs to. Out: their states after
     more blocks, and longer caches.
Law: run(0, k) then run(k, L) is the model's own forward of each text alone, whatever other texts
     are run with it; a row that was cut is as if the tokens cut had never come
     (tests/blocks/test_engines.py, for every engine).
Not here: which tokens to run, and when to stop (offramp.decoding).

Texts are never padded: a token is a line of [N, D], and only attention knows rows. So a text's
result does not depend on its mates, and a text that is done costs nothing.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from offramp.blocks.anatomy import Anatomy


@runtime_checkable
class Row(Protocol):
    """The cache of one text."""

    @property
    def lengths(self) -> Sequence[int]:
        """How many tokens each block has seen, L numbers."""

    def cut(self, length: int | Sequence[int]) -> None:
        """Forget all tokens from ``length`` on, in every block that has seen them.

        Args:
            length: One for all blocks, or one for each.
        """


Piece = tuple[Any, int]
"""A row of the engine, and how many of its next tokens are meant."""


@runtime_checkable
class Engine(Protocol):
    """Runs blocks. N tokens in all, in the order of the pieces; D the width of a state."""

    @property
    def name(self) -> str:
        """How users call it."""

    @property
    def anatomy(self) -> Anatomy:
        """The model's parts; norm and head are those that go with this engine's blocks."""

    @property
    def repeatable(self) -> bool:
        """Whether a token's state is the same, up to rounding, however many run with it."""

    def row(self, **inputs: Any) -> Row:
        """Begin a text; an encoder-decoder's row is given what its decoder reads of the encoder."""

    def embed(
        self, tokens: Int[Tensor, " tokens"], pieces: Sequence[Piece]
    ) -> Float[Tensor, "tokens width"]:
        """Give exit 0 of the tokens that come after what block 0 has seen."""

    def run(
        self,
        states: Float[Tensor, "tokens width"],
        start: int,
        stop: int,
        pieces: Sequence[Piece],
    ) -> Float[Tensor, "tokens width"]:
        """Take exit ``start`` to exit ``stop``; rows grow in these blocks only."""

    def copy_up(
        self, states: Float[Tensor, "tokens width"], start: int, pieces: Sequence[Piece]
    ) -> int:
        """Let all blocks from ``start`` on remember these states; give how many had to run for it.

        Source: Schuster et al. 2022, "CALM", arXiv:2207.07061, section 3.3 (state propagation).
        """
