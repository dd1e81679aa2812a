"""List the ways to decode that are worth timing for a model.

In:  a model with exits. Out: decodings by name.
Not here: timing them (offramp.evaluation.latency).
"""

from typing import Any

from offramp.blocks.projections import Block
from offramp.decoding.speculation import DRAFTER, SelfSpeculation

DEPTHS = (1 / 6, 1 / 4, 1 / 3, 1 / 2)
"""Shares of all blocks near which an exit may draft; a deeper one costs more than it can save."""

LENGTHS = (1, 2, 4)
LOOKUPS = (0, 4)


def speculations(model: Any) -> dict[str, SelfSpeculation]:
    """Give self-speculation with a few drafting exits, lengths and lookups, and the drafter.

    Args:
        model: A model with exits; those nearest to ``DEPTHS`` draft, ``block`` exits never.
    """
    attached = [
        exit
        for exit in model.exit_numbers
        if 0 < exit < model.depth and not isinstance(model.exits[str(exit)], Block)
    ]
    exits: set[int] = {
        min(attached, key=lambda exit: abs(exit - share * model.depth))
        for share in DEPTHS
        if attached
    }
    sources: list[Any] = [*([] if model.drafter is None else [DRAFTER]), *sorted(exits)]
    ways = [
        SelfSpeculation(draft_exit=source, draft_length=length, lookup=lookup)
        for source in sources
        for length in (*LENGTHS, "auto")
        for lookup in LOOKUPS
    ]
    return {name_of(way): way for way in ways}


def name_of(way: SelfSpeculation) -> str:
    """Name a way to speculate as tables show it.

    Example:
        >>> name_of(SelfSpeculation(draft_exit=6, draft_length=2, lookup=4))
        'exit 6, length 2, lookup 4'
    """
    source = DRAFTER if way.exit is None else f"exit {way.exit}"
    lookup = f", lookup {way.lookup}" if way.lookup else ""
    return f"{source}, length {way.draft_length}{lookup}"
