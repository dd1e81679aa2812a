"""List the ways to decode that are worth timing for a model.

In:  a model with exits. Out: decodings by name.
Not here: timing them (offramp.evaluation.latency).
"""

from typing import Any

from offramp.decoding.speculation import SelfSpeculation

DEPTHS = (1 / 6, 1 / 4, 1 / 3, 1 / 2)
"""Shares of all blocks near which an exit may draft; a deeper one costs more than it can save."""

LENGTHS = (1, 2, 4)
LOOKUPS = (0, 4)


def speculations(model: Any) -> dict[str, SelfSpeculation]:
    """Give self-speculation with a few drafting exits, lengths and lookups, and the drafter.

    Args:
        model: A model with exits; those nearest to ``DEPTHS`` draft.
    """
    attached = [exit for exit in model.exit_numbers if 0 < exit < model.depth]
    exits: set[int | None] = {
        min(attached, key=lambda exit: abs(exit - share * model.depth))
        for share in DEPTHS
        if attached
    }
    sources = ([] if model.drafter is None else [None]) + sorted(
        exit for exit in exits if exit is not None
    )
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
    source = "drafter" if way.draft_exit is None else f"exit {way.draft_exit}"
    lookup = f", lookup {way.lookup}" if way.lookup else ""
    return f"{source}, length {way.draft_length}{lookup}"
