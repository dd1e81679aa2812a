"""Choose the positions of a batch whose losses are computed.

In:  which positions have something to learn from, and a share of them. Out: fewer of them, and what
     each then counts for.
Law: the choice depends on the row's tokens, the seed and the step, and on nothing else: not on
     batch mates, processes, or what was drawn before; so a resumed or divided run chooses the same
     (tests/training/test_positions.py).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def choose_positions(
    tokens: Int[Tensor, "batch seq"],
    usable: Bool[Tensor, "batch seq"],
    *,
    share: float,
    seed: int,
) -> Bool[Tensor, "batch seq"]:
    """Draw a share of each row's usable positions, without replacement.

    Args:
        tokens: The rows; they decide the draw together with the seed.
        usable: Positions with a loss.
        share: Above 0, at most 1; every row with a usable position keeps one at least.
        seed: Any number; another one draws others.

    Example:
        >>> row, all = torch.arange(8)[None], torch.ones(1, 8, dtype=torch.bool)
        >>> choose_positions(row, all, share=0.25, seed=1).sum().item()
        2
    """
    counts = usable.sum(-1)
    wanted = (counts * share).ceil().long().clamp(min=1).minimum(counts)
    scores = torch.full(tokens.shape, -1.0)
    for row, (ids, able) in enumerate(zip(tokens.cpu(), usable.cpu(), strict=True)):
        places = able.nonzero().squeeze(-1)
        generator = torch.Generator().manual_seed(_row_seed(ids[able], seed))
        scores[row, places] = torch.rand(len(places), generator=generator)
    ranks = scores.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1).to(usable.device)
    return (ranks < wanted[:, None]) & usable


def position_weights(
    usable: Bool[Tensor, "batch seq"], chosen: Bool[Tensor, "batch seq"]
) -> Float[Tensor, " chosen"]:
    """Give what each chosen position counts: a row's weights sum to its usable positions.

    So sums of losses keep their expectation, whatever the share.
    """
    weights = usable.sum(-1) / chosen.sum(-1).clamp(min=1)
    return weights[:, None].expand(chosen.shape)[chosen]


def _row_seed(ids: Tensor, seed: int) -> int:
    """Mix a row's tokens into a seed."""
    places = torch.arange(1, len(ids) + 1)
    return (int((ids * places * 2_654_435_761 % 2**31).sum()) * 31 + seed * 1_000_003) % 2**63
