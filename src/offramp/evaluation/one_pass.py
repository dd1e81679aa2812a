"""Say from which exits tokens came, how full canvases were and how much was run.

In:  what a model wrote. Out: counts and shares. Pure: no model.
Law: every token with an exit is counted once (tests/evaluation/test_one_pass.py).
Not here: writing (offramp.evaluation.seq2seq).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from offramp.evaluation.seq2seq import Written


@dataclass(frozen=True, kw_only=True)
class OnePass:
    """How texts were written in one pass.

    Attributes:
        exits: Tokens that came from each exit, from 1 to the number of layers.
        mean_exit: Layers that a token waited for, in the mean.
        canvas_length: Places of a canvas, in the mean.
        used: Share of the places that became tokens.
        run: Positions that layers were run for, by those of one pass without exits; above 1 where
            several lengths are tried or a text is refined, since every pass is counted.
    """

    exits: dict[int, int]
    mean_exit: float
    canvas_length: float
    used: float
    run: float


def one_pass_of(written: Iterable[Written], *, depth: int) -> OnePass | None:
    """Count exits and places.

    Args:
        written: Texts.
        depth: Layers of the decoder.

    Returns:
        None if the texts were not written in one pass.

    Example:
        >>> text = Written(text="", tokens=(5, 2), finished=True, exits=(1, 2), canvas_length=4,
        ...     positions=6.0)
        >>> one_pass_of([text], depth=2)
        OnePass(exits={1: 1, 2: 1}, mean_exit=1.5, canvas_length=4.0, used=0.5, run=0.75)
    """
    counts: Counter[int] = Counter()
    texts = places = 0
    positions = 0.0
    for each in written:
        if each.exits is None or each.canvas_length is None:
            return None
        counts.update(each.exits)
        texts += 1
        places += each.canvas_length
        positions += each.positions or 0.0
    tokens = counts.total()
    if not texts or not places:
        return None
    return OnePass(
        exits={exit: counts[exit] for exit in range(1, depth + 1)},
        mean_exit=sum(exit * count for exit, count in counts.items()) / max(tokens, 1),
        canvas_length=places / texts,
        used=tokens / places,
        run=positions / (depth * places),
    )
