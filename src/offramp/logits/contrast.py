"""Auto-contrastive decoding (ACD): what a late exit says beyond what an early one already said.

In:  scores of an upper and a lower exit. Out: log-probabilities, float32. Pure: no model, no cache.
Law: equal to the published function (tests/golden), sums to one, finite in bf16 and fp16, and the
     sparse form equals the dense one (tests/logits/test_contrast.py).
Not here: which exits, and their states (offramp.decoding).
Paper: Gera et al. 2023, "The Benefits of Bad Advice", section 2, arXiv:2305.01628.

Shapes: B any leading shape, V vocabulary, R rows (B flattened), C candidates of the fullest row.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from offramp.errors import ConfigError

GatherLower = Callable[[Int[Tensor, "rows candidates"]], Float[Tensor, "rows candidates"] | None]
"""Scores of the lower exit for some tokens of each row, [R, C] ids to [R, C] scores, or None."""


FIRST_LOOK = 64
"""Plausible tokens that one look can find; a second look costs as much again."""


def check_alpha(alpha: float, minimum_candidates: int) -> None:
    """Refuse settings that have no meaning.

    Raises:
        ConfigError: ``alpha`` outside (0, 1] or ``minimum_candidates`` below 1.
    """
    if not 0 < alpha <= 1:
        raise ConfigError(f"alpha must be above 0 and at most 1, got {alpha}; the paper uses 0.1")
    if minimum_candidates < 1:
        raise ConfigError(f"minimum_candidates must be 1 or more, got {minimum_candidates}; try 1")


def plausible_set(
    log_upper: Float[Tensor, "*batch vocab"], *, alpha: float, minimum_candidates: int
) -> Bool[Tensor, "*batch vocab"]:
    """Mark the tokens that the upper exit finds at least ``alpha`` times as likely as its best one.

    Args:
        log_upper: Log-probabilities (or scores, which differ by a constant per row).
        alpha: Share of the best probability, above 0, at most 1.
        minimum_candidates: The best so many are always in, 1 or more.
    """
    threshold = log_upper.amax(-1, keepdim=True) + math.log(alpha)
    if minimum_candidates > 1:
        count = min(minimum_candidates, log_upper.shape[-1])
        threshold = threshold.minimum(log_upper.topk(count, dim=-1).values[..., -1:])
    return log_upper >= threshold


def contrast_logits(
    upper: Float[Tensor, "*batch vocab"],
    lower: Float[Tensor, "..."],
    *,
    alpha: float = 0.1,
    minimum_candidates: int = 1,
) -> Float[Tensor, "*batch vocab"]:
    """Contrast two exits: the next-token log-probabilities of auto-contrastive decoding.

    Inside the plausible set V of the upper exit the probability mass of V is shared out by
    softmax(log p_upper - log p_lower); outside V the upper exit's probability stays.

    Differs from the paper's code: computed in log space and in float32, so that bf16 and fp16
    scores cannot give NaN. A score of -inf in ``upper`` stays impossible; one in ``lower`` counts
    as the smallest finite number.

    Args:
        upper: Scores of the later exit, any leading shape.
        lower: Scores of the earlier exit, same shape.
        alpha: A token is plausible from ``alpha`` times the best probability on; above 0 to 1.
        minimum_candidates: So many tokens are plausible in any case, 1 or more.

    Returns:
        Log-probabilities in float32 (float64 for float64 input), each row summing to one.

    Raises:
        ConfigError: ``alpha`` or ``minimum_candidates`` is out of range, or the shapes differ.

    Example:
        >>> upper, lower = torch.tensor([2.0, 1.9, -5.0]), torch.tensor([3.0, 0.0, 0.0])
        >>> [round(p, 3) for p in contrast_logits(upper, lower).exp().tolist()]
        [0.052, 0.947, 0.0]
    """
    check_alpha(alpha, minimum_candidates)
    if upper.shape != lower.shape:
        raise ConfigError(f"shapes differ: upper {tuple(upper.shape)}, lower {tuple(lower.shape)}")
    log_upper, log_lower = _wide(upper).log_softmax(-1), _clamped(_wide(lower)).log_softmax(-1)
    plausible = plausible_set(log_upper, alpha=alpha, minimum_candidates=minimum_candidates)
    inside = log_upper.where(plausible, -torch.inf)
    shares = (inside - log_lower).log_softmax(-1) + inside.logsumexp(-1, keepdim=True)
    return shares.where(plausible, log_upper)


def contrast_sparse(
    upper: Float[Tensor, "*batch vocab"],
    gather_lower: GatherLower,
    *,
    alpha: float = 0.1,
    minimum_candidates: int = 1,
    most_candidates: int,
) -> Float[Tensor, "*batch vocab"] | None:
    """The same, asking the lower exit only about the plausible tokens.

    Exact, not an approximation: the lower exit's log-sum-exp is the same for every token of a row
    and cancels when V is normalised again. Costs |V| dot products instead of a vocabulary head.

    Args:
        upper: Scores of the later exit, any leading shape.
        gather_lower: Called once with ids [R, C]; gives the lower exit's scores for them.
        alpha: As in ``contrast_logits``.
        minimum_candidates: As in ``contrast_logits``.
        most_candidates: Give up beyond so many gathered scores (R times C), where the whole head
            is the cheaper way.

    Returns:
        Log-probabilities in float32; None if there were more than ``most_candidates`` or if
        ``gather_lower`` gave None.

    Raises:
        ConfigError: ``alpha`` or ``minimum_candidates`` is out of range.
    """
    check_alpha(alpha, minimum_candidates)
    log_upper = _wide(upper).log_softmax(-1)
    rows = log_upper.reshape(-1, log_upper.shape[-1])
    values, tokens, plausible = _plausible_tokens(
        rows, alpha=alpha, minimum=minimum_candidates, most=most_candidates // max(len(rows), 1)
    )
    width = tokens.shape[-1]
    if len(rows) * width > most_candidates:
        return None
    if width <= 1:  # nothing to share out: the only plausible token keeps its probability
        return log_upper
    gathered = gather_lower(tokens)
    if gathered is None:
        return None
    ragged = len(rows) > 1  # a single row is just as wide as its own list
    inside = values.masked_fill(~plausible, -torch.inf) if ragged else values
    lower = _clamped(_wide(gathered)).to(values.device)
    shares = (inside - lower).log_softmax(-1) + inside.logsumexp(-1, keepdim=True)
    if ragged:
        shares = shares.where(plausible, values)
    return rows.scatter(-1, tokens, shares).reshape(log_upper.shape)


def _plausible_tokens(
    rows: Float[Tensor, "rows vocab"], *, alpha: float, minimum: int, most: int
) -> tuple[
    Float[Tensor, "rows candidates"],
    Int[Tensor, "rows candidates"],
    Bool[Tensor, "rows candidates"],
]:
    """Give scores and ids of each row's best tokens, as many as the fullest row has plausible ones.

    One look at the best few needs fewer passes than marking the whole vocabulary. Where they are
    all plausible it looks again, at more, but not far beyond ``most``. The third result tells which
    of them are plausible.
    """
    looked = min(max(FIRST_LOOK, minimum), rows.shape[-1])
    while True:
        values, tokens = rows.topk(looked, dim=-1)
        threshold = values[:, :1] + math.log(alpha)
        if minimum > 1:
            threshold = threshold.minimum(values[:, min(minimum, looked) - 1, None])
        plausible = values >= threshold
        width = int(plausible.sum(-1).max()) if len(rows) else 0
        if width < looked or looked == rows.shape[-1] or looked > most:
            break
        looked = min(8 * looked, rows.shape[-1])
    return values[:, :width], tokens[:, :width], plausible[:, :width]


def _wide(scores: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch vocab"]:
    return scores if scores.dtype == torch.float64 else scores.float()


def _clamped(scores: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch vocab"]:
    """Finite: a token that the lower exit finds impossible must not turn a row into NaN."""
    return scores.clamp(min=torch.finfo(torch.float32).min / 4)
