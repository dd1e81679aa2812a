"""Run blocks for the next tokens of texts, and count what was run.

In:  texts and an engine. Out: states. Only counting is added to offramp.blocks.engines.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from offramp.blocks.engines import Engine, Piece
from offramp.decoding.request import Text


def climb(
    engine: Engine,
    states: Float[Tensor, "tokens width"],
    span: tuple[int, int],
    texts: Sequence[Text],
    counts: Sequence[int],
    *,
    captured: Sequence[int] = (),
) -> dict[int, Float[Tensor, "tokens width"]]:
    """Run a span of blocks, and give the states at its ends and at some exits between."""
    start, stop = span
    pieces: list[Piece] = [(text.row, count) for text, count in zip(texts, counts, strict=True)]
    found = {start: states}
    at = start
    for exit in sorted({stop, *(exit for exit in captured if start < exit < stop)}):
        states = found[exit] = engine.run(states, at, exit, pieces)
        at = exit
    for text, count in zip(texts, counts, strict=True):
        text.run += count * (stop - start)
    return found


def embedded(
    engine: Engine, texts: Sequence[Text], tokens: Sequence[Sequence[int]]
) -> Float[Tensor, "tokens width"]:
    """Embed the next tokens of each text."""
    flat = torch.tensor([each for some in tokens for each in some], device=texts[0].shown.device)
    return engine.embed(
        flat, [(text.row, len(some)) for text, some in zip(texts, tokens, strict=True)]
    )
