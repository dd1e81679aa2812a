"""DoLa: contrast the last layer with whichever early layer disagrees most with it.

In:  scores of the last layer and of some earlier ones. Out: unnormalised scores, float32. Pure.
Law: a row's result does not depend on its batch mates; for one row it equals ``dola_layers`` of
     transformers 4.48 (tests/golden/dola).
Not here: the layers' states (offramp.decoding).
Paper: Chuang et al. 2023, "DoLa", section 2, arXiv:2309.03883.

Differs from the paper: the divergence is (KL(M|P) + KL(M|Q)) / 2 with M the mean of P and Q, as in
the authors' code and in transformers, where the paper writes the Jensen-Shannon divergence.
Differs from both codes: they average the divergence over the batch, so that a row's layer depended
on the other rows; here each row and position picks its own.
"""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from offramp.errors import ConfigError


def bucket(name: str, *, depth: int, tied: bool) -> tuple[int, ...]:
    """List the candidate exits of a bucket, with the names and bounds of transformers.

    Args:
        name: ``"low"`` (the first half, every second exit) or ``"high"`` (the second half).
        depth: Number of blocks.
        tied: Whether the head is the embedding matrix: then the first exits only repeat the input
            and are left out.

    Raises:
        ConfigError: Another name.

    Example:
        >>> bucket("low", depth=30, tied=True)
        (2, 4, 6, 8, 10, 12, 14)
    """
    if name not in ("low", "high"):
        raise ConfigError(f"DoLa layers must be 'low', 'high' or exit numbers, got {name!r}")
    half = depth // 2
    if name == "high":
        return tuple(range(half if depth <= 40 else depth - 20, depth, 2))
    first = 0 if not tied else (2 if depth > 2 else depth - 1)
    return tuple(range(first, half if depth <= 40 else 20, 2)) or (first,)


def divergence(
    upper: Float[Tensor, "*batch vocab"], lower: Float[Tensor, "*batch vocab"]
) -> Float[Tensor, "*batch"]:
    """Measure how much two layers disagree, in nats, 0 for equal ones."""
    log_upper, log_lower = upper.float().log_softmax(-1), lower.float().log_softmax(-1)
    log_mean = torch.logaddexp(log_upper, log_lower) - math.log(2)
    return (log_mean.exp() * (log_mean - (log_upper + log_lower) / 2)).sum(-1)


def dola_logits(
    upper: Float[Tensor, "*batch vocab"],
    lowers: Iterable[Float[Tensor, "*batch vocab"]],
    *,
    relative_top: float = 0.1,
) -> Float[Tensor, "*batch vocab"]:
    """Contrast each row with the candidate that diverges most from the last layer.

    Args:
        upper: Scores of the last layer.
        lowers: Scores of the candidates, one at a time; the first wins a tie.
        relative_top: Tokens below this share of the best probability become -inf; above 0 to 1.

    Returns:
        log p_upper - log p_lower for the tokens kept, -inf for the others; not normalised.

    Raises:
        ConfigError: ``relative_top`` is out of range or there is no candidate.

    Example:
        >>> upper, lower = torch.tensor([2.0, 1.9, -5.0]), torch.tensor([3.0, 0.0, 0.0])
        >>> dola_logits(upper, [lower])
        tensor([-0.5500,  2.3500,    -inf])
    """
    if not 0 < relative_top <= 1:
        raise ConfigError(
            f"relative_top must be above 0 and at most 1, got {relative_top}; try 0.1"
        )
    chosen = largest = None
    for lower in lowers:
        distance = divergence(upper, lower)
        if chosen is None or largest is None:
            chosen, largest = lower, distance
        else:
            further = distance > largest
            chosen = lower.where(further.unsqueeze(-1), chosen)
            largest = largest.maximum(distance)
    if chosen is None:
        raise ConfigError("DoLa needs at least one lower exit to contrast with; try 'low'")
    log_upper = upper.float().log_softmax(-1)
    kept = log_upper >= log_upper.amax(-1, keepdim=True) + math.log(relative_top)
    return (log_upper - chosen.float().log_softmax(-1)).masked_fill(~kept, -torch.inf)
