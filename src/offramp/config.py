"""Name an exit and the way it reads its state; nothing else is decided here.

In:  what a user, a command line or a checkpoint wrote. Out: checked values, or a ``ConfigError``.
Law: exit k is the state after k blocks, 0 the embeddings, L the whole model; ``"original"`` is
     the base's own head (docs/decisions/0001-exit-numbers.md).
Not here: whether a given model has the exit (offramp.models.multiexit).
"""

import reprlib
from collections.abc import Iterable
from enum import Enum
from typing import Literal, TypeAlias

from offramp.errors import ConfigError

ExitName: TypeAlias = int | Literal["original"]

ORIGINAL: Literal["original"] = "original"

LONGEST_NUMBER = 20
"""Letters of a number that can be meant; Python refuses to read one of thousands."""


class VocabularyProjectionMode(Enum):
    """How an exit turns its state into scores of the vocabulary.

    The first three carry the names and numbers of the published library
    (IBM/auto-contrastive-generation); the short name after each is ours.

    Attributes:
        LAYER_SPECIFIC_PROJECTION: ``head``, an own bias-free matrix after the base's last norm.
        SHARED_PROJECTION_CAST_OUTPUTS: ``cast``, last norm, a d by d matrix, the base's head
            (Din et al. 2023, arXiv:2303.09435).
        SHARED_PROJECTION_DIRECT: ``direct``, the base's norm and head; no parameters.
        TUNED_LENS: ``lens``, a residual affine map before the last norm
            (Belrose et al. 2023, arXiv:2303.08112).
        EXTRA_BLOCK: ``block``, one more transformer block before the base's norm and head.
    """

    LAYER_SPECIFIC_PROJECTION = 0
    SHARED_PROJECTION_CAST_OUTPUTS = 1
    SHARED_PROJECTION_DIRECT = 2
    TUNED_LENS = 3
    EXTRA_BLOCK = 4

    @property
    def short(self) -> str:
        """The one-word name: head, cast, direct, lens or block."""
        return _SHORT[self]

    @classmethod
    def parse(cls, value: "str | VocabularyProjectionMode") -> "VocabularyProjectionMode":
        """Read a mode from its published name, in any case, or its short name.

        Raises:
            ConfigError: The name is not known.

        Example:
            >>> VocabularyProjectionMode.parse("lens").name
            'TUNED_LENS'
        """
        if isinstance(value, cls):
            return value
        for mode in cls:
            if isinstance(value, str) and value.lower() in (mode.name.lower(), mode.short):
                return mode
        allowed = ", ".join(mode.short for mode in cls)
        raise ConfigError(f"unknown projection {value!r}; use one of {allowed}")


_SHORT = {
    VocabularyProjectionMode.LAYER_SPECIFIC_PROJECTION: "head",
    VocabularyProjectionMode.SHARED_PROJECTION_CAST_OUTPUTS: "cast",
    VocabularyProjectionMode.SHARED_PROJECTION_DIRECT: "direct",
    VocabularyProjectionMode.TUNED_LENS: "lens",
    VocabularyProjectionMode.EXTRA_BLOCK: "block",
}


def parse_exit(value: object) -> ExitName:
    """Read one exit: a number from 0 up, its digits, or ``"original"``.

    Raises:
        ConfigError: It is neither.

    Example:
        >>> parse_exit("12"), parse_exit("original")
        (12, 'original')
    """
    if value == ORIGINAL:
        return ORIGINAL
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < LONGEST_NUMBER:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ConfigError(
        f"an exit is a number of blocks from 0 up, or 'original'; got {reprlib.repr(value)}; try 12"
    )


def parse_exits(value: str | Iterable[object]) -> tuple[int, ...]:
    """Read the exits to attach, ``"6;12"`` or a sequence, deepest last.

    Published checkpoints list them deepest first, so both directions are read; a list that goes up
    and down is refused, since it is most likely a typing error.

    Raises:
        ConfigError: Empty, twice the same, in no order, or not all numbers.

    Example:
        >>> parse_exits("24;18;12")
        (12, 18, 24)
    """
    parts = value.split(";") if isinstance(value, str) else _listed(value)
    exits = [parse_exit(part) for part in parts]
    numbers = [exit for exit in exits if exit != ORIGINAL]
    if not numbers:
        raise ConfigError(f"no exits in {value!r}; name at least one, such as '6;12'")
    if len(set(exits)) < len(exits):
        raise ConfigError(f"an exit is named twice in {value!r}; name each once")
    ordered = sorted(numbers)
    if numbers not in (ordered, ordered[::-1]):
        raise ConfigError(f"exits out of order in {value!r}; write {';'.join(map(str, ordered))}")
    return tuple(ordered)


def _listed(value: object) -> list[object]:
    """Give the parts of what should be a sequence; a lonely thing is the only one."""
    return list(value) if isinstance(value, Iterable) else [value]


def check_pair(upper: ExitName, lower: ExitName) -> None:
    """Refuse a contrast whose upper exit does not lie above its lower one.

    Raises:
        ConfigError: The exits are the same or out of order.
    """
    if upper == lower:
        raise ConfigError(f"a contrast needs two exits, got {upper} twice; try original:12")
    if lower == ORIGINAL or (upper != ORIGINAL and upper < lower):
        raise ConfigError(
            f"exits out of order: the upper exit {upper} must lie above the lower exit {lower}; "
            f"swap them: {lower}:{upper}"
        )
