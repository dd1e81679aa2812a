"""One exit, ACD or DoLa, as values that travel with a call.

In:  an ``ExitView`` of one forward. Out: scores of the vocabulary at the same positions.
Law: the sparse and the dense way of a contrast give the same (tests/decoding/test_rules.py).
Not here: the formulas (offramp.logits); running the model (offramp.models).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from offramp.config import ORIGINAL, ExitName, check_pair, parse_exit
from offramp.decoding.protocol import ExitView, ModelShape
from offramp.errors import ConfigError
from offramp.logits.contrast import check_alpha, contrast_logits, contrast_sparse
from offramp.logits.dola import bucket, dola_logits

ContrastFunction = Callable[[Tensor, Tensor], Tensor]
"""Upper and lower logits [..., V] to scores [..., V], as in the published library."""

SPARSE_SHARE = 8
"""Beyond V / 8 gathered scores the whole head is taken, which is read in order and once for all
rows of a batch (docs/lab-log.md, 2026-11-22)."""


@dataclass(frozen=True, kw_only=True)
class FixedExit:
    """Answer from one exit; the blocks above it are not run.

    Attributes:
        exit: Number of blocks, or ``"original"``.

    Raises:
        ConfigError: Not an exit.

    Example:
        >>> FixedExit(exit=12).exit
        12
    """

    exit: ExitName

    attached_only = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "exit", parse_exit(self.exit))

    def exits(self, shape: ModelShape) -> tuple[ExitName, ...]:
        """Name the exits that will be asked."""
        return (self.exit,)

    def scores(self, view: ExitView, shape: ModelShape) -> Float[Tensor, "*rows vocab"]:
        """Give the exit's own logits."""
        return view.logits(self.exit)


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Auto-contrastive decoding between two exits (Gera et al. 2023, arXiv:2305.01628).

    Attributes:
        upper: The exit that is trusted, ``"original"`` or a number.
        lower: The earlier exit whose preferences are taken off.
        alpha: A token is plausible from this share of the best probability on; above 0 to 1.
        minimum_candidates: So many tokens are plausible in any case.
        function: Another contrast of (upper logits, lower logits); it always gets both in full.
        sparse: Ask the lower exit only about plausible tokens where its head allows it; exact.
            False computes both heads in full, as a reference.

    Raises:
        ConfigError: The exits are equal or out of order, or a number is out of range.

    Example:
        >>> Contrast(upper="original", lower=12).alpha
        0.1
    """

    upper: ExitName = ORIGINAL
    lower: ExitName
    alpha: float = 0.1
    minimum_candidates: int = 1
    function: ContrastFunction | None = None
    sparse: bool = True

    attached_only = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "upper", parse_exit(self.upper))
        object.__setattr__(self, "lower", parse_exit(self.lower))
        check_pair(self.upper, self.lower)
        check_alpha(self.alpha, self.minimum_candidates)

    def exits(self, shape: ModelShape) -> tuple[ExitName, ...]:
        """Name the exits that will be asked."""
        return (self.upper, self.lower)

    def scores(self, view: ExitView, shape: ModelShape) -> Float[Tensor, "*rows vocab"]:
        """Give the contrasted log-probabilities (or what ``function`` makes of the logits)."""
        upper = view.logits(self.upper)
        if self.function is not None:
            return self.function(upper, view.logits(self.lower))
        if self.sparse:
            found = contrast_sparse(
                upper,
                partial(view.gathered, self.lower),
                alpha=self.alpha,
                minimum_candidates=self.minimum_candidates,
                most_candidates=upper.shape[-1] // SPARSE_SHARE,
            )
            if found is not None:
                return found
        return contrast_logits(
            upper,
            view.logits(self.lower),
            alpha=self.alpha,
            minimum_candidates=self.minimum_candidates,
        )


@dataclass(frozen=True, kw_only=True)
class DoLa:
    """Contrast the last layer with the early one that disagrees most (arXiv:2309.03883).

    Attributes:
        layers: ``"low"``, ``"high"`` (the buckets of transformers), one exit, or several.
        relative_top: Tokens below this share of the best probability are never chosen.
        states: ``"exit"`` reads each exit by its own projection (``direct`` where none is
            attached); ``"raw"`` gives the un-normed state to the base's head, as transformers 4.48
            did.

    Raises:
        ConfigError: Unknown layers or states, or ``relative_top`` outside (0, 1].

    Example:
        >>> DoLa(layers="low").states
        'exit'
    """

    layers: Literal["low", "high"] | int | tuple[int, ...] = "low"
    relative_top: float = 0.1
    states: Literal["exit", "raw"] = "exit"

    attached_only = False

    def __post_init__(self) -> None:
        if self.states not in ("exit", "raw"):
            raise ConfigError(f"DoLa states must be 'exit' or 'raw', got {self.states!r}")
        if not 0 < self.relative_top <= 1:
            raise ConfigError(
                f"relative_top must be above 0 to 1, got {self.relative_top}; try 0.1"
            )
        if self.layers in ("low", "high"):
            return
        given = self.layers if isinstance(self.layers, (tuple, list)) else (self.layers,)
        exits = tuple(parse_exit(exit) for exit in given)
        if not exits or ORIGINAL in exits or len(set(exits)) < len(exits):
            raise ConfigError(
                f"DoLa layers must be 'low', 'high' or different exit numbers, got {self.layers!r}"
            )
        object.__setattr__(self, "layers", exits)

    def exits(self, shape: ModelShape) -> tuple[ExitName, ...]:
        """Name the exits that will be asked.

        Raises:
            ConfigError: A layer is the last one, which cannot be contrasted with itself.
        """
        lowers = self._lowers(shape)
        if max(lowers) >= shape.depth:
            raise ConfigError(
                f"DoLa contrasts layers below the last with it; got {max(lowers)} in a model of "
                f"{shape.depth}; use exits from 0 to {shape.depth - 1}"
            )
        return (ORIGINAL, *lowers)

    def scores(self, view: ExitView, shape: ModelShape) -> Float[Tensor, "*rows vocab"]:
        """Give log p_last - log p_early, -inf for tokens that the last layer finds unlikely."""
        read = view.raw_logits if self.states == "raw" else view.logits
        lowers = (read(exit) for exit in self._lowers(shape))
        return dola_logits(view.logits(ORIGINAL), lowers, relative_top=self.relative_top)

    def _lowers(self, shape: ModelShape) -> tuple[int, ...]:
        if isinstance(self.layers, tuple):
            return self.layers
        return bucket(str(self.layers), depth=shape.depth, tied=shape.tied)
