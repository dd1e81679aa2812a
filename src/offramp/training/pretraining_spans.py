"""Draw spans of words, and put them among the words of a row.

In:  how many words there are, what share of them is wanted, a generator. Out: lengths, places.
Law: the lengths add up to the share, on average exactly; no two spans overlap
     (tests/training/test_noise.py).
Not here: what becomes of a span (offramp.training.noise).
Paper: Lewis et al. 2019, "BART", arXiv:1910.13461 ("text infilling").
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def draw_spans(
    words: int, *, ratio: float, mean: float, generator: torch.Generator
) -> Int[Tensor, " spans"]:
    """Draw the lengths of spans that together are the ratio of the words.

    Args:
        words: How many there are.
        ratio: Share of the words, 0 to below 1.
        mean: Of the lengths, which are Poisson; above 0.
        generator: Decides; also whether a part of a word rounds up or down, so that the ratio is
            kept on average however short the row is.

    Returns:
        Lengths; one of 0 is a mask in front of a word that stays. The last one is cut to the sum.

    Example:
        >>> drawn = torch.Generator().manual_seed(0)
        >>> draw_spans(100, ratio=0.3, mean=3.5, generator=drawn).sum().item()
        30
    """
    exact = words * ratio
    wanted = int(exact + torch.rand((), generator=generator, dtype=torch.float64))
    lengths = torch.zeros(0, dtype=torch.int64)
    rates = torch.full((int(wanted / mean) + 1,), float(mean))
    while lengths.sum() < wanted:
        lengths = torch.cat((lengths, torch.poisson(rates, generator=generator).long()))
    total = lengths.cumsum(0)
    lengths = lengths[: int((total < wanted).sum()) + 1] if wanted else lengths[:0]
    if wanted:
        lengths[-1] -= lengths.sum() - wanted
    return lengths


def place_spans(
    lengths: Int[Tensor, " spans"], *, words: int, generator: torch.Generator
) -> tuple[Int[Tensor, " slots"], Bool[Tensor, " slots"]]:
    """Put spans among words, without overlap, each arrangement alike.

    Args:
        lengths: Of the spans.
        words: How many there are, at least as many as the spans take.
        generator: Decides.

    Returns:
        For each span and each word that stays, in order: the words it takes, and whether it is a
        span.

    Example:
        >>> place_spans(torch.tensor([2]), words=2, generator=torch.Generator())
        (tensor([2]), tensor([True]))
    """
    slots = torch.ones(words - int(lengths.sum()) + len(lengths), dtype=torch.int64)
    chosen = torch.randperm(len(slots), generator=generator)[: len(lengths)]
    is_span = torch.zeros(len(slots), dtype=torch.bool).index_fill(0, chosen, True)
    return slots.index_put((chosen,), lengths), is_span
