"""Sums and maxima over all paths through a directed acyclic graph of canvas positions.

In:  scores of tokens at vertices and of arcs between them. Out: log of the summed probability, with
     its gradient; the best path. Pure.
Law: equal to enumeration of every path, finite wherever the answer is (tests/logits/test_dag.py).
Not here: what the scores are (offramp.logits.dag), their texts (offramp.logits.dag_decode).
Source: the forward-backward and Viterbi algorithms, Rabiner 1989, "A tutorial on hidden Markov
     models".

Differs from the code of DA-Transformer (arXiv:2205.07459): no CUDA extension. Sums stay in log
space: a matrix product of probabilities would be quicker but loses every path that is e^-87 times
as likely as the best prefix, also where that prefix leads nowhere.

Shapes: B batch, N canvas, M tokens. Tables of a path's i-th token are [M, B, N].
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable


def sum_over_paths(
    emissions: Float[Tensor, "batch canvas target"],
    transitions: Float[Tensor, "batch canvas canvas"],
    lengths: Int[Tensor, " batch"],
    canvas_lengths: Int[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """Add up the probability of all paths from vertex 0 to the last one, in log space.

    Args:
        emissions: Log-probability of the i-th token at each vertex.
        transitions: Log-probability of each arc, -inf where there is none.
        lengths: Vertices on a row's paths.
        canvas_lengths: Vertices of each row; the last of them ends the path.

    Returns:
        Log-probabilities, -inf (and no gradient) where no path has the length.
    """
    apply: Callable[..., Tensor] = _SumOverPaths.apply
    return apply(emissions, transitions, lengths, canvas_lengths)


class _SumOverPaths(torch.autograd.Function):
    """Log of the summed probability of all paths, by the forward-backward algorithm.

    Autograd would keep [B, N, N] for every token; this keeps [B, M, N] and gives each arc its
    posterior probability, which lies between 0 and 1 and cannot be NaN.
    """

    @staticmethod
    def forward(
        ctx: Any,
        emissions: Float[Tensor, "batch canvas target"],
        transitions: Float[Tensor, "batch canvas canvas"],
        lengths: Int[Tensor, " batch"],
        canvas_lengths: Int[Tensor, " batch"],
    ) -> Float[Tensor, " batch"]:
        emitted = emissions.permute(2, 0, 1).contiguous()
        reached = torch.full_like(emitted, -torch.inf)
        incoming = transitions.transpose(1, 2).contiguous()
        if reached.numel():
            reached[0, :, 0] = emitted[0, :, 0]
        for token in range(1, len(emitted)):
            arrived = (incoming + reached[token - 1, :, None]).logsumexp(-1)
            reached[token] = arrived + emitted[token]
        total = at_the_end(reached, lengths, canvas_lengths)
        ctx.save_for_backward(emitted, transitions, reached, total, lengths, canvas_lengths)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, " batch"]) -> tuple[Tensor, Tensor, None, None]:
        emitted, transitions, reached, total, lengths, canvas_lengths = ctx.saved_tensors
        on_vertex = torch.zeros_like(reached)  # posterior of token i at vertex v, times gradient
        on_arc = torch.zeros_like(transitions)
        possible = (total > -torch.inf)[:, None]
        last = torch.nn.functional.one_hot((canvas_lengths - 1).clamp(min=0), emitted.shape[-1])
        rest = torch.full_like(transitions[:, 0], -torch.inf)  # log-probability of what follows
        for token in reversed(range(len(emitted))):
            if token + 1 < len(emitted):
                onwards = transitions + (emitted[token + 1] + rest)[:, None]
                peak = onwards.amax(-1, keepdim=True)
                peak = peak.masked_fill(peak == -torch.inf, 0.0)
                share = (onwards - peak).exp()
                mass = share.sum(-1, keepdim=True)
                rest = (peak + mass.log())[..., 0]
            ends = (lengths == token + 1)[:, None]
            rest = torch.where(ends, last.to(rest.dtype).log(), rest)
            posterior = (reached[token] + rest - total[:, None]).exp()
            posterior = posterior.where(possible, 0.0) * gradient[:, None]
            on_vertex[token] = posterior
            if token + 1 < len(emitted):
                on_arc += share * (posterior[..., None] / mass.clamp(min=1.0))
        return on_vertex.permute(1, 2, 0), on_arc, None, None


def best_arrivals(
    emitted: Float[Tensor, "target batch canvas"],
    transitions: Float[Tensor, "batch canvas canvas"],
) -> Float[Tensor, "target batch canvas"]:
    """Give the score of the best path whose i-th vertex is v."""
    reached = torch.full_like(emitted, -torch.inf)
    incoming = transitions.transpose(1, 2).contiguous()
    if reached.numel():
        reached[0, :, 0] = emitted[0, :, 0]
    for token in range(1, len(emitted)):
        arrived = (incoming + reached[token - 1, :, None]).amax(-1)
        torch.add(arrived, emitted[token], out=reached[token])
    return reached


def trace_back(
    reached: Float[Tensor, "target batch canvas"],
    transitions: Float[Tensor, "batch canvas canvas"],
    lengths: Int[Tensor, " batch"],
    canvas_lengths: Int[Tensor, " batch"],
) -> Int[Tensor, "batch target"]:
    """Follow the best path back from each row's last vertex; -1 beyond its length.

    Where it came from is asked on the path alone: a maximum without its place takes half the time.

    Args:
        reached: From ``best_arrivals``, at least as many tokens as the longest of ``lengths``.
        transitions: As there.
        lengths: Vertices on a row's path.
        canvas_lengths: Vertices of each row; the last of them ends the path.
    """
    rows = torch.arange(len(lengths), device=lengths.device)
    path = torch.full(reached.shape[:2], -1, dtype=torch.long, device=reached.device)
    vertex = (canvas_lengths.long() - 1).clamp(min=0)
    for token in reversed(range(len(path))):
        on_path = token < lengths
        path[token] = vertex.where(on_path, -1)
        if token:
            before = (transitions[rows, :, vertex] + reached[token - 1]).argmax(-1)
            vertex = before.where(on_path, vertex)
    return path.T


def at_the_end(
    reached: Float[Tensor, "target batch canvas"],
    lengths: Int[Tensor, " batch"],
    canvas_lengths: Int[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """Read each row's score at its last token and its last vertex; -inf where it has neither."""
    target, batch, canvas = reached.shape
    inside = (lengths > 0) & (lengths <= target) & (canvas_lengths > 0)
    if not target or not canvas:
        return reached.new_full((batch,), -torch.inf)
    rows = torch.arange(batch, device=reached.device)
    score = reached[(lengths - 1).clamp(0, target - 1), rows, (canvas_lengths - 1).clamp(min=0)]
    return score.where(inside, -torch.inf)
