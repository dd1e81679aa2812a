"""Compare the distribution of what a model writes with that of what people write.

In:  a vector for each text. Out: MAUVE, from 0 to 1, as a score that rows can be drawn of.
Law: the order of texts makes no difference; equal histograms have MAUVE 1, disjoint ones almost 0
     (tests/evaluation/test_mauve.py).
Not here: the vectors (offramp.evaluation.embeddings).
Source: Pillutla et al. 2021, "MAUVE", arXiv:2102.01454: vectors of length 1, 90 % of their
        variance, k-means with a bucket for ten texts, 25 mixtures, scale 5.
Differs from the paper: the vectors are not those of GPT-2 unless they are given, so numbers stand
beside each other here and beside none that is published; the buckets are made once, for people and
all models together, and stay while rows are drawn.

Written anew because the authors' package is under the GPL; docs/lab-log.md holds it against that.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from offramp.evaluation.resampling import Measure, Sums

TEXTS_PER_BUCKET, KEPT_VARIANCE = 10, 0.9
RESTARTS, ROUNDS = 5, 500
MIXTURES, EDGE, SCALE = 25, 1e-6, 5.0

Vectors = Float64[Tensor, "texts width"]


def mauve_measures(people: Vectors, models: Sequence[Vectors], *, features: str) -> list[Measure]:
    """Make a score for each of some models, none where there are too few texts for two buckets.

    Args:
        people: A vector of each reference.
        models: For each model as many vectors, in the same order.
        features: What the vectors are, for the flavour.

    Example:
        >>> same = torch.eye(20, dtype=torch.float64)
        >>> score, = mauve_measures(same, [same], features="none")
        >>> round(float(score.combine(score.rows.sum(0, keepdim=True))[0]), 3)
        1.0
    """
    count = round(len(people) / TEXTS_PER_BUCKET)
    if count < 2:
        return []
    buckets = buckets_of(torch.cat([people, *models]), count=count)
    first, *others = torch.nn.functional.one_hot(buckets, count).double().chunk(1 + len(models))
    flavour = (
        f"vectors of {features} (not GPT-2's), {count} buckets for people and all ways together, "
        f"scale {SCALE:g}; drawn rows stand there several times, which lowers it: its interval "
        "lies low"
    )
    return [
        Measure(
            name="mauve",
            flavour=flavour,
            unit="ratio",
            better="higher",
            rows=torch.cat([first, other], -1),
            combine=mauve_of,
        )
        for other in others
    ]


def mauve_of(sums: Sums) -> Float64[Tensor, " samples"]:
    """Give MAUVE of pairs of histograms, two halves of a line of counts.

    Args:
        sums: Counts of the people's texts in each bucket, then those of the model's.
    """
    people, model = sums.chunk(2, -1)
    people = people / people.sum(-1, keepdim=True)
    model = model / model.sum(-1, keepdim=True)
    share = torch.linspace(EDGE, 1 - EDGE, MIXTURES, dtype=sums.dtype)[:, None]
    mixed = share * people[:, None] + (1 - share) * model[:, None]
    across = torch.exp(-SCALE * _divergence(model[:, None], mixed))
    up = torch.exp(-SCALE * _divergence(people[:, None], mixed))
    zero, one = torch.zeros_like(across[:, :1]), torch.ones_like(across[:, :1])
    # From the model's own end of the curve to the people's, so across falls and up rises.
    across, up = torch.cat([one, across, zero], -1), torch.cat([zero, up, one], -1)
    return torch.trapezoid(up.flip(-1), across.flip(-1), dim=-1)


def buckets_of(vectors: Vectors, *, count: int) -> Int[Tensor, " texts"]:
    """Put vectors into buckets by k-means, the same ones in whatever order they come.

    Args:
        vectors: Of all texts.
        count: Buckets.
    """
    points = _narrowed(torch.nn.functional.normalize(vectors, dim=-1))
    order = sorted(range(len(points)), key=lambda place: points[place].tolist())
    sorted_points = points[order]
    generator = torch.Generator().manual_seed(0)
    best, least = None, math.inf
    for _ in range(RESTARTS):
        found, distance = _k_means(sorted_points, count, generator)
        if distance < least:
            best, least = found, distance
    assert best is not None
    buckets = torch.empty_like(best)
    buckets[torch.tensor(order)] = best
    return buckets


def _narrowed(points: Vectors) -> Float64[Tensor, "texts kept"]:
    """Keep the directions that hold most of the variance."""
    # Sums of numbers depend on their order; what is rounded here does not.
    covariance = (points - points.mean(0)).T @ (points - points.mean(0))
    values, directions = torch.linalg.eigh(covariance)
    values, directions = values.flip(0).clamp(min=0), directions.flip(-1)
    total = values.sum()
    if not total > 0:
        return points
    kept = int((values.cumsum(0) / total < KEPT_VARIANCE).sum()) + 1
    signs = directions[:, :kept].abs().argmax(0)
    directions = directions[:, :kept] * directions[signs, torch.arange(kept)].sign()
    narrowed: Tensor = points @ directions
    return narrowed.round(decimals=9)


def _k_means(
    points: Float64[Tensor, "texts kept"], count: int, generator: torch.Generator
) -> tuple[Int[Tensor, " texts"], float]:
    """Find buckets from drawn centres on, and the sum of squared distances to their means."""
    centres = points[torch.randperm(len(points), generator=generator)[:count]]
    buckets = torch.full((len(points),), -1)
    for _ in range(ROUNDS):
        nearest = torch.cdist(points, centres).argmin(-1)
        if torch.equal(nearest, buckets):
            break
        buckets = nearest
        for bucket in sorted(set(buckets.tolist())):
            centres[bucket] = points[buckets == bucket].mean(0)
    return buckets, float((points - centres[buckets]).square().sum())


def _divergence(
    own: Float64[Tensor, "samples one buckets"], mixed: Float64[Tensor, "samples mixtures buckets"]
) -> Float64[Tensor, "samples mixtures"]:
    """Give KL(own || mixed), where nothing of nothing is nothing."""
    terms = torch.where(own > 0, own * (own.clamp(min=1e-300) / mixed.clamp(min=1e-300)).log(), 0.0)
    return terms.sum(-1)
