"""Directed acyclic graph (DAG) decoder: a canvas in which each position names its successors.

Canvas positions are vertices. A path starts at vertex 0, jumps only forwards and ends at the last
vertex of the row's canvas; each vertex on it writes one token. A text of M tokens can be written by
every path of M vertices; the loss sums over all of them.

In:  scores of tokens and of jumps, and labels. Out: transitions, losses, best paths. Pure.
Law: loss, gradient and best path equal enumeration of every path; a row does not depend on its
     batch mates (tests/logits/test_dag.py).
Not here: sums and maxima over paths (offramp.logits.dag_paths), choosing a text
     (offramp.logits.dag_decode), the scores (offramp.models.elmer).
Paper: Huang et al. 2022, "Directed Acyclic Transformer", section 3, arXiv:2205.07459.

Shapes: B batch, N canvas, M target, V vocabulary, H heads. A transition [b, u, v] is the
log-probability of going from vertex u to v.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from offramp.logits.dag_paths import at_the_end, best_arrivals, sum_over_paths, trace_back
from offramp.logits.labels import NO_LABEL, label_lengths, log_probs_of, wide


def dag_fits(
    labels: Int[Tensor, "batch target"], canvas_lengths: Int[Tensor, " batch"]
) -> Bool[Tensor, " batch"]:
    """Tell which targets some path can write: from 2 tokens up to one for each vertex.

    The first and the last vertex always write, so a single token fits only on a canvas of 1, and
    an empty target nowhere.

    Args:
        labels: Tokens, padded at the right with -100.
        canvas_lengths: Vertices of each row.

    Raises:
        InputError: The labels are not padded at the right.

    Example:
        >>> labels = torch.tensor([[7, 8], [7, 8], [7, -100]])
        >>> dag_fits(labels, torch.tensor([3, 1, 3])).tolist()
        [True, False, False]
    """
    lengths = label_lengths(labels)
    return (lengths <= canvas_lengths) & (lengths >= canvas_lengths.clamp(max=2)) & (lengths > 0)


def dag_transitions(
    scores: Float[Tensor, "batch canvas canvas"], canvas_lengths: Int[Tensor, " batch"]
) -> Float[Tensor, "batch canvas canvas"]:
    """Turn scores of jumps into log-probabilities of forward jumps inside each row's canvas.

    Args:
        scores: Finite scores of going from a vertex (dim 1) to another (dim 2).
        canvas_lengths: Vertices of each row.

    Returns:
        Float32 (float64 for float64). Each vertex before the last sums to one; backward jumps, and
        the rows of the last vertex and beyond, are -inf.

    Example:
        >>> dag_transitions(torch.zeros(1, 3, 3), torch.tensor([3])).exp()
        tensor([[[0.0000, 0.5000, 0.5000],
                 [0.0000, 0.0000, 1.0000],
                 [0.0000, 0.0000, 0.0000]]])
    """
    allowed = _jumps(scores, canvas_lengths)
    return _log_shares(wide(scores), allowed).masked_fill(~allowed, -torch.inf)


def dag_mixed_transitions(
    scores: Float[Tensor, "batch heads canvas canvas"],
    gates: Float[Tensor, "batch canvas heads"],
    canvas_lengths: Int[Tensor, " batch"],
) -> Float[Tensor, "batch canvas canvas"]:
    """Mix the transitions of several heads, each vertex by its own weights (the paper's way).

    Args:
        scores: Each head's scores of jumps, as in ``dag_transitions``.
        gates: How much each vertex trusts each head: scores, normalised here over the heads.
        canvas_lengths: Vertices of each row.

    Returns:
        As ``dag_transitions``.

    Example:
        >>> scores = torch.tensor([[[0.0, 0.0, 9e9], [0.0] * 3, [0.0] * 3]])
        >>> two = torch.stack([scores, torch.zeros(1, 3, 3)], dim=1)
        >>> dag_mixed_transitions(two, torch.zeros(1, 3, 2), torch.tensor([3]))[0, 0].exp()
        tensor([0.0000, 0.2500, 0.7500])
    """
    allowed = _jumps(scores[:, 0], canvas_lengths)
    jumps = allowed[:, None].expand_as(scores)
    shares = _log_shares(wide(scores), jumps).masked_fill(~jumps, 0.0)
    weights = wide(gates).log_softmax(-1).transpose(1, 2)[..., None]
    return (shares + weights).logsumexp(1).masked_fill(~allowed, -torch.inf)


def dag_emissions(
    logits: Float[Tensor, "batch canvas vocab"], labels: Int[Tensor, "batch target"]
) -> Float[Tensor, "batch canvas target"]:
    """Give the log-probability of each label at each vertex; 0 where a row has no label.

    Args:
        logits: Scores of tokens, need not be normalised.
        labels: Tokens, padded at the right with -100.

    Raises:
        InputError: A label is not a token or follows padding.
    """
    label_lengths(labels, vocab=logits.shape[-1])
    padding = (labels == NO_LABEL)[:, None]
    tokens = labels.masked_fill(labels == NO_LABEL, 0)
    return log_probs_of(logits, tokens).masked_fill(padding, 0.0)


def dag_loss(
    logits: Float[Tensor, "batch canvas vocab"],
    transitions: Float[Tensor, "batch canvas canvas"],
    labels: Int[Tensor, "batch target"],
    *,
    canvas_lengths: Int[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """Give the negative log-likelihood of each row's text, summed over all its paths.

    A row whose target does not fit (see ``dag_fits``) gives inf and no gradient; the caller
    decides what becomes of it.

    Args:
        logits: Scores of tokens, need not be normalised.
        transitions: From ``dag_transitions`` or ``dag_mixed_transitions``.
        labels: Tokens, padded at the right with -100.
        canvas_lengths: Vertices of each row.

    Returns:
        Nats per row, not divided by any length; float32 (float64 for float64).

    Raises:
        InputError: A label is not a token or follows padding.

    Example:
        >>> lengths = torch.tensor([3])  # of the paths 0-2 and 0-1-2 the second has three tokens
        >>> arcs = dag_transitions(torch.zeros(1, 3, 3), lengths)
        >>> sure = torch.eye(3)[None] * 99
        >>> dag_loss(sure, arcs, torch.tensor([[0, 1, 2]]), canvas_lengths=lengths).exp()
        tensor([2.])
    """
    log_likelihood = sum_over_paths(
        dag_emissions(logits, labels),
        wide(transitions),
        label_lengths(labels),
        canvas_lengths,
    )
    return -log_likelihood


def dag_align(
    logits: Float[Tensor, "batch canvas vocab"],
    transitions: Float[Tensor, "batch canvas canvas"],
    labels: Int[Tensor, "batch target"],
    *,
    canvas_lengths: Int[Tensor, " batch"],
) -> Int[Tensor, "batch target"]:
    """Find each row's most probable path: the vertex that writes each label.

    Args:
        logits: Scores of tokens, need not be normalised; no gradient flows.
        transitions: From ``dag_transitions`` or ``dag_mixed_transitions``.
        labels: Tokens, padded at the right with -100.
        canvas_lengths: Vertices of each row.

    Returns:
        Vertices, growing from 0 to the row's last; -1 where there is no label, and everywhere in a
        row whose target no path can write.

    Raises:
        InputError: A label is not a token or follows padding.

    Example:
        >>> lengths = torch.tensor([3])
        >>> arcs = dag_transitions(torch.zeros(1, 3, 3), lengths)
        >>> dag_align(torch.zeros(1, 3, 9), arcs, torch.tensor([[5, 5]]), canvas_lengths=lengths)
        tensor([[0, 2]])
    """
    with torch.no_grad():
        emitted = dag_emissions(logits, labels).permute(2, 0, 1)
        arcs = wide(transitions)
        reached = best_arrivals(emitted, arcs)
        lengths = label_lengths(labels)
        possible = at_the_end(reached, lengths, canvas_lengths) > -torch.inf
        return trace_back(reached, arcs, lengths.where(possible, 0), canvas_lengths)


def _jumps(
    scores: Float[Tensor, "batch canvas canvas"], canvas_lengths: Int[Tensor, " batch"]
) -> Bool[Tensor, "batch canvas canvas"]:
    """Mark the jumps forwards that stay within each row's canvas."""
    canvas = scores.shape[-1]
    place = torch.arange(canvas, device=scores.device)
    return (place > place[:, None]) & (place < canvas_lengths[:, None, None])


def _log_shares(
    scores: Float[Tensor, "*batch canvas canvas"], allowed: Bool[Tensor, "*batch canvas canvas"]
) -> Float[Tensor, "*batch canvas canvas"]:
    """Normalise over the allowed jumps; a vertex without any gets finite numbers, to be masked."""
    dead = ~allowed.any(-1, keepdim=True)
    return scores.masked_fill(~allowed, -torch.inf).masked_fill(dead, 0.0).log_softmax(-1)
