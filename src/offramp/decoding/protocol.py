"""What a decoding rule asks of a model, and a model of a decoding rule.

In:  nothing; only the two protocols. A rule never sees a transformers class, so that the layer
below the models stays below; a model never sees which rule it serves.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from offramp.config import ExitName


@runtime_checkable
class ModelShape(Protocol):
    """What a rule may know of a model before it runs."""

    @property
    def depth(self) -> int:
        """Number of blocks, L."""

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding matrix."""


@runtime_checkable
class ExitView(Protocol):
    """What the exits of one call say, computed when asked. B batch, T positions, V vocabulary."""

    def logits(self, exit: ExitName) -> Float[Tensor, "*rows vocab"]:
        """Score the whole vocabulary."""

    def raw_logits(self, exit: ExitName) -> Float[Tensor, "*rows vocab"]:
        """Score the whole vocabulary with the base's head on the state as it is, not normed."""

    def gathered(
        self, exit: ExitName, tokens: Int[Tensor, "rows candidates"]
    ) -> Float[Tensor, "rows candidates"] | None:
        """Score a few tokens of each row; None where the head cannot be read row by row."""


@runtime_checkable
class DecodingRule(Protocol):
    """Turns what the exits say into the scores that ``generate`` reads."""

    def exits(self, shape: ModelShape) -> tuple[ExitName, ...]:
        """Name the exits that will be asked."""

    @property
    def attached_only(self) -> bool:
        """Whether the exits must be attached; if not, a missing one is read as ``direct``."""

    def scores(self, view: ExitView, shape: ModelShape) -> Float[Tensor, "*rows vocab"]:
        """Give the scores of the vocabulary."""
