"""Run blocks for the next tokens of texts, count what was run, and write a request to its end.

In:  texts and an engine. Out: states. Only counting is added to offramp.blocks.engines.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from offramp.blocks.engines import Engine, Piece
from offramp.decoding.protocol import Steps
from offramp.decoding.request import Request, Text, begin


def write_all(steps: Steps, request: Request, engine: Engine) -> list[Text]:
    """Write all texts of a request to their ends.

    Args:
        steps: Of the decoding asked for, on the engine.
        request: The prompts and what was asked.
        engine: Makes the texts' caches.
    """
    texts = begin(request, engine)
    steps.read(texts, [len(text.tokens) for text in texts])
    while live := [text for text in texts if not text.done]:
        steps.step(live)
    return texts


def unread(texts: Sequence[Text], counts: Sequence[int]) -> list[list[int]]:
    """Give the next tokens of each prompt, so many of each, and count them as read."""
    parts = []
    for text, count in zip(texts, counts, strict=True):
        parts.append(text.tokens[text.taken : text.taken + count])
        text.taken += count
    return parts


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
