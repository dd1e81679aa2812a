"""Understand what a trace is asked for.

In:  a text or its tokens, positions and exits, as a user writes them. Out: the same as numbers, or
     one error.
Law: what is not there is refused, never left out (tests/trace/test_asked.py).
Not here: reading the exits (offramp.trace.reading).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor

from offramp.config import ORIGINAL, ExitName, parse_exit
from offramp.errors import ConfigError, InputError
from offramp.trace.values import Token

Text: TypeAlias = str | Tensor | Sequence[int] | Sequence[Sequence[int]]
"""A text, or the ids of one: [T] or [1, T]."""

Places: TypeAlias = int | slice | Tensor | Iterable[int]
"""0 all positions, n the last n, a slice, or indices from 0 (or from the end, below 0)."""

MOST_TOP = 100
"""Best tokens of an exit that a trace may hold; a table of all of them is ``exit_logits``."""

SPACE = "\u2581"
"""What pieces of some tokenizers begin with, in place of a space."""


def ids_of(text: Text, tokenizer: Any, *, vocabulary: int) -> list[int]:
    """Give the tokens of one text.

    Args:
        text: The text, or its tokens.
        tokenizer: Needed for a text.
        vocabulary: Tokens that the model knows.

    Raises:
        ConfigError: A text came without a tokenizer.
        InputError: There is no token, more than one row, or a token that the model does not know.

    Example:
        >>> ids_of([[5, 6]], None, vocabulary=9)
        [5, 6]
    """
    if isinstance(text, str):
        if tokenizer is None:
            raise ConfigError(
                "a text needs its tokenizer, and a model holds none: trace(text, "
                "tokenizer=tokenizer), or give token ids"
            )
        text = tokenizer(text)["input_ids"]
    ids: Any = text.tolist() if isinstance(text, Tensor) else list(text)
    if ids and isinstance(ids[0], list | tuple):
        if len(ids) > 1:
            raise InputError(f"a trace is of one text, got {len(ids)} rows; trace one at a time")
        ids = list(ids[0])
    if not ids:
        raise InputError("the text has no tokens; give at least one")
    strange = [each for each in ids if not _is_index(each) or not 0 <= each < vocabulary]
    if strange:
        raise InputError(
            f"{strange[0]!r} is no token of this model, which knows 0 to {vocabulary - 1}; use the "
            "model's own tokenizer"
        )
    return ids  # type: ignore[no-any-return]


def places_of(positions: Places, length: int) -> list[int]:
    """Give the indices of the positions that are traced, ascending.

    Args:
        positions: Which.
        length: How many there are.

    Raises:
        InputError: One does not exist, or none is left.

    Example:
        >>> places_of(2, 5), places_of(slice(1, 3), 5), places_of([-1, 0], 5)
        ([3, 4], [1, 2], [0, 4])
    """
    if isinstance(positions, slice):
        found = list(range(*positions.indices(length)))
    elif isinstance(positions, int):
        if positions < 0:
            raise InputError(
                f"positions must be 0 (all), a number of last ones, a slice or a list of indices, "
                f"got {positions}; try [{positions}]"
            )
        found = list(range(length))[-positions:]
    else:
        given = positions.flatten().tolist() if isinstance(positions, Tensor) else list(positions)
        strange = [each for each in given if not _is_index(each) or not -length <= each < length]
        if strange:
            raise InputError(
                f"position {strange[0]!r} does not exist: there are {length}, 0 to {length - 1}"
            )
        found = [each % length for each in given]
    if not found:
        raise InputError(
            f"no position is left of the {length} that there are; use 0 for all, or a slice such "
            f"as slice(0, {length})"
        )
    return sorted(set(found))


def exits_of(exits: Iterable[object] | None, attached: Sequence[int], depth: int) -> list[ExitName]:
    """Give the exits that are traced, shallowest first, the last layer after them.

    Args:
        exits: Numbers, or ``"original"``; None is those below the last that are attached, or every
            one from 1 if there are none.
        attached: The attached exits.
        depth: Number of blocks, L.
    """
    if exits is None:
        below = [exit for exit in attached if exit < depth]
        return [*(below or range(1, depth)), ORIGINAL]
    if isinstance(exits, str):
        raise ConfigError(f"exits must be a list such as (6, 12), got the text {exits!r}")
    numbers = {exit for exit in map(parse_exit, exits) if exit != ORIGINAL}
    return [*sorted(numbers), ORIGINAL]


def check_top(top: int) -> int:
    """Refuse a number of best tokens that a trace cannot hold.

    Raises:
        ConfigError: It is not from 1 to 100.
    """
    if not 1 <= top <= MOST_TOP:
        raise ConfigError(f"top must be from 1 to {MOST_TOP}, got {top}; try 5")
    return top


@dataclass(frozen=True)
class Words:
    """Reads tokens.

    Attributes:
        tokenizer: None reads nothing.
    """

    tokenizer: Any
    _known: dict[int, Token] = field(default_factory=dict)

    def token(self, id: int) -> Token:
        """Give a token with what it reads, each read once."""
        if id not in self._known:
            self._known[id] = Token(id=id, text=self._read(id))
        return self._known[id]

    def _read(self, id: int) -> str | None:
        if self.tokenizer is None:
            return None
        piece = self.tokenizer.convert_ids_to_tokens(id)
        if not isinstance(piece, str):  # of a vocabulary that is padded beyond the tokenizer's
            return None
        if piece.startswith(SPACE):
            return piece.replace(SPACE, " ")
        return str(self.tokenizer.decode([id], clean_up_tokenization_spaces=False))


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
