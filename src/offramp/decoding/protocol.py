"""What a decoding rule asks of a model, and a model of a decoding rule.

In:  nothing; only the two protocols. A rule never sees a transformers class, so that the layer
below the models stays below; a model never sees which rule it serves.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from offramp.blocks.engines import Engine
from offramp.config import ExitName
from offramp.decoding.calibrated import Calibrated
from offramp.decoding.request import Text


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
class StateView(ExitView, Protocol):
    """What the exits of some tokens say, in a loop of ours: N tokens in place of positions."""

    def finished(self) -> Float[Tensor, "rows out"]:
        """Give what the base's own head reads."""

    def among(
        self, exit: int, tokens: Int[Tensor, " some"], weight: Float[Tensor, "some width"]
    ) -> Float[Tensor, "rows some"]:
        """Score a fixed few tokens, given the rows of the exit's head that belong to them."""


@runtime_checkable
class LoopModel(ModelShape, Protocol):
    """What a loop of ours may know of a model, and ask it."""

    @property
    def exits(self) -> Any:
        """The attached projections, by exit number as a string."""

    @property
    def exit_numbers(self) -> tuple[int, ...]:
        """The attached exits, ascending."""

    @property
    def drafter(self) -> Any:
        """The model's trained drafter, or None."""

    @property
    def calibration(self) -> Calibrated | None:
        """What was found for its exits, or None."""

    def view_of(
        self, engine: Engine, states: Mapping[int, Float[Tensor, "rows width"]]
    ) -> StateView:
        """Let exits speak about states that an engine gave."""

    def head_rows(self, exit: ExitName, tokens: Int[Tensor, " some"]) -> Tensor:
        """Give those rows of an exit's head that score some tokens."""

    def check_exits(self, exits: Any, *, attached_only: bool) -> tuple[int, ...]:
        """Give the numbers among some exits, if this model has them all."""

    def refuse_blocks(self, exits: Sequence[ExitName]) -> None:
        """Refuse exits that run a block of their own, for which our loops keep no cache."""


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


@runtime_checkable
class Steps(Protocol):
    """Writes texts step by step; a text may join before any step, and leave after any."""

    def read(self, texts: Sequence[Text], counts: Sequence[int]) -> None:
        """Run so many more tokens of each prompt; one that is through gets its first new token."""

    def step(self, texts: Sequence[Text]) -> None:
        """Add at least one token to each text, all of which are read and not done."""


@runtime_checkable
class DecodingLoop(Protocol):
    """Writes texts by a loop of its own, in place of the one of transformers."""

    def check(self, model: LoopModel) -> None:
        """Refuse what the model cannot follow, before anything is computed."""

    def steps(self, model: LoopModel, engine: Engine) -> Steps:
        """Begin to write; what is kept of a text is kept in it, so nothing need be forgotten."""

    @property
    def engine(self) -> str:
        """Name of the engine that runs the blocks."""
