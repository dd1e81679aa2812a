"""Decide which texts get a slot, and which tokens of their prompts are read next.

In:  texts in the order in which they came. Out: those that begin; counts of tokens. Pure.
Law: long texts begin in the order in which they came, and so do short ones; long ones never have
     the slots and tokens that are kept for short ones. The prompt that came first is read at every
     piece, and the shortest rest too (tests/server/test_scheduling.py).
Not here: running anything (offramp.server.groups, offramp.server.batching).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from offramp.errors import ConfigError

KEPT_SHARE = 4
"""One of so many slots and tokens is kept for short texts."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """How many texts are written at a time, and how many may wait.

    Attributes:
        slots: Texts that are written at a time.
        waiting: Texts that may wait for a slot.
        tokens: Tokens that all caches may hold together, by the most that each text may become.
        short: A text of at most so many tokens, prompt included, is short: a quarter of slots and
            tokens is kept for these.
        piece: Tokens of prompts that are read between two steps of texts being written.

    Raises:
        ConfigError: A number is below 1.

    Example:
        >>> Room(slots=8).for_long
        6
    """

    slots: int = 16
    waiting: int = 64
    tokens: int = 32_768
    short: int = 256
    piece: int = 64

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ConfigError(
                    f"{name} must be at least 1, got {value}; leave it at its default"
                )

    @property
    def for_long(self) -> int:
        """Slots that texts which are not short may have."""
        return max(1, self.slots - self.slots // KEPT_SHARE)

    @property
    def longest(self) -> int:
        """Tokens that texts which are not short may have together, so the most of one."""
        return self.tokens - self.tokens // KEPT_SHARE


def admitted(waiting: Sequence[int], running: Sequence[int], room: Room) -> list[int]:
    """Choose who begins.

    Args:
        waiting: The most tokens of each text that waits, in the order in which they came; none is
            above ``room.longest``.
        running: The same of those that have a slot.
        room: What there is.

    Returns:
        Places in ``waiting``, ascending.

    Example:
        >>> admitted([900, 900, 20], [900, 900], Room(slots=4))
        [0, 2]
    """
    long_ones = [size for size in running if size > room.short]
    slots, tokens = len(running), sum(running)
    chosen: list[int] = []
    passed = False
    for place, size in enumerate(waiting):
        is_long = size > room.short
        if is_long:
            full = len(long_ones) >= room.for_long or sum(long_ones) + size > room.longest
            passed = passed or full
            if passed:
                continue
        if slots >= room.slots or tokens + size > room.tokens:
            break
        if is_long:
            long_ones.append(size)
        slots, tokens = slots + 1, tokens + size
        chosen.append(place)
    return chosen


def shared(left: Sequence[int], budget: int) -> list[int]:
    """Share tokens to be read among prompts: half for the first, the other for the shortest.

    Args:
        left: Unread tokens of each prompt, at least 1, in the order in which they came.
        budget: Tokens in all, at least 1.

    Returns:
        How many are read of each.

    Example:
        >>> shared([500, 300, 10], 64)
        [32, 22, 10]
    """
    counts = [0] * len(left)
    counts[0] = min(left[0], max(1, budget // 2))
    free = budget - counts[0]
    for place in sorted(range(len(left)), key=left.__getitem__):
        more = min(left[place] - counts[place], free)
        counts[place] += more
        free -= more
    return counts
