"""Choose a path and a text from a directed acyclic graph of canvas positions.

From quick to thorough: ``dag_greedy`` follows the likeliest jump, ``dag_lookahead`` the likeliest
jump with what it would write, ``dag_viterbi`` finds the best path with its tokens.

In:  scores of tokens and log-probabilities of jumps. Out: tokens, their number per row, and the
     vertex that wrote each. Pure; nothing is random, no gradient flows.
Law: Viterbi equals enumeration of every path with every text; a row does not depend on its batch
     mates (tests/logits/test_dag_decode.py).
Not here: the loss (offramp.logits.dag), the dynamic programs (offramp.logits.dag_paths), the search
     for the best text over all its paths (offramp.logits.dag_beam).
Papers: Huang et al. 2022, section 3 (greedy, lookahead), arXiv:2205.07459; Shao et al. 2022,
     "Viterbi Decoding of Directed Acyclic Transformer", arXiv:2210.05193.

Shapes: B batch, N canvas, V vocabulary.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from offramp.errors import ConfigError
from offramp.logits.dag_paths import best_arrivals, trace_back
from offramp.logits.labels import wide

Reading = tuple[Int[Tensor, "batch length"], Int[Tensor, " batch"], Int[Tensor, "batch length"]]
"""Tokens, padded at the right; how many each row has; the vertex of each, -1 where padded."""

AT_ONCE = 32
"""Vertices whose scores are summed at a time: few enough to stay in a processor's cache."""


@torch.no_grad()
def dag_greedy(
    logits: Float[Tensor, "batch canvas vocab"],
    transitions: Float[Tensor, "batch canvas canvas"],
    *,
    canvas_lengths: Int[Tensor, " batch"],
    pad: int,
) -> Reading:
    """Follow each vertex's likeliest jump and write each vertex's likeliest token.

    Args:
        logits: Scores of tokens, need not be normalised.
        transitions: From ``dag_transitions`` or ``dag_mixed_transitions``.
        canvas_lengths: Vertices of each row.
        pad: What fills up the shorter rows.

    Example:
        >>> arcs = torch.tensor([[[0.0, 0.6, 0.4], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]]).log()
        >>> dag_greedy(torch.eye(3)[None], arcs, canvas_lengths=torch.tensor([3]), pad=0)[0]
        tensor([[0, 1, 2]])
    """
    if not transitions.numel():
        return nothing_written(canvas_lengths)
    vertices = _follow(transitions.argmax(-1), canvas_lengths)
    return _read(logits.argmax(-1), vertices, pad)


@torch.no_grad()
def dag_lookahead(
    logits: Float[Tensor, "batch canvas vocab"],
    transitions: Float[Tensor, "batch canvas canvas"],
    *,
    canvas_lengths: Int[Tensor, " batch"],
    pad: int,
) -> Reading:
    """Follow, from each vertex, the jump that is likeliest together with the token it leads to.

    Args:
        logits: Scores of tokens, need not be normalised.
        transitions: From ``dag_transitions`` or ``dag_mixed_transitions``.
        canvas_lengths: Vertices of each row.
        pad: What fills up the shorter rows.

    Example:
        >>> arcs = torch.tensor([[[0.0, 0.6, 0.4], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]]).log()
        >>> unsure = torch.tensor([[[9.0, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 9.0]]])
        >>> dag_lookahead(unsure, arcs, canvas_lengths=torch.tensor([3]), pad=0)[0]
        tensor([[0, 2]])
    """
    if not transitions.numel():
        return nothing_written(canvas_lengths)
    scores, tokens = _best_tokens(logits)
    vertices = _follow((wide(transitions) + scores[:, None]).argmax(-1), canvas_lengths)
    return _read(tokens, vertices, pad)


@torch.no_grad()
def dag_viterbi(
    logits: Float[Tensor, "batch canvas vocab"],
    transitions: Float[Tensor, "batch canvas canvas"],
    *,
    canvas_lengths: Int[Tensor, " batch"],
    pad: int,
    length_penalty: float = 1.0,
    max_length: int | None = None,
) -> Reading:
    """Find the best path with its tokens for every length, and of these the best for its length.

    Args:
        logits: Scores of tokens, need not be normalised.
        transitions: From ``dag_transitions`` or ``dag_mixed_transitions``.
        canvas_lengths: Vertices of each row.
        pad: What fills up the shorter rows.
        length_penalty: Log-probabilities are divided by length to this power: 0 takes the most
            probable path, more prefers longer texts.
        max_length: Most tokens, 2 or more; None allows as many as vertices.

    Returns:
        As the others; a row that no path can write within ``max_length`` is empty.

    Raises:
        ConfigError: ``max_length`` is below 2.

    Example:
        >>> arcs = torch.tensor([[[0.0, 0.6, 0.4], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]]).log()
        >>> unsure = torch.tensor([[[9.0, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 9.0]]])
        >>> size = {"canvas_lengths": torch.tensor([3]), "pad": 0}
        >>> dag_viterbi(unsure, arcs, length_penalty=0.0, **size)[0].tolist()
        [[0, 2]]
        >>> dag_viterbi(unsure, arcs, length_penalty=5.0, **size)[0].tolist()
        [[0, 1, 2]]
    """
    longest = longest_text(max_length, logits.shape[1])
    if not transitions.numel():
        return nothing_written(canvas_lengths)
    scores, tokens = _best_tokens(logits)
    arcs = wide(transitions)
    reached = best_arrivals(scores.expand(longest, -1, -1), arcs)
    last = (canvas_lengths.long() - 1).clamp(min=0)
    ending = reached.gather(-1, last.expand(longest, -1)[..., None])[..., 0]
    ending = ending.masked_fill(canvas_lengths == 0, -torch.inf)
    rated = ending / length_divisors(longest, length_penalty, like=ending)[:, None]
    best, index = rated.max(0)
    lengths = (index + 1).where(best > -torch.inf, 0)
    vertices = trace_back(reached[: int(lengths.max())], arcs, lengths, canvas_lengths)
    return _read(tokens, vertices, pad)


def longest_text(max_length: int | None, canvas: int) -> int:
    """Give the most tokens that a text may have.

    Raises:
        ConfigError: ``max_length`` is below 2.
    """
    if max_length is not None and max_length < 2:
        raise ConfigError(
            f"max_length must be 2 or more, got {max_length}: "
            "a path has a first and a last vertex, and both write"
        )
    return canvas if max_length is None else min(max_length, canvas)


def length_divisors(
    longest: int, length_penalty: float, *, like: Float[Tensor, "..."]
) -> Float[Tensor, " longest"]:
    """Give what the log-probability of a text of 1, 2, ... tokens is divided by."""
    lengths = torch.arange(1, longest + 1, device=like.device, dtype=like.dtype)
    return lengths**length_penalty


def nothing_written(canvas_lengths: Int[Tensor, " batch"]) -> Reading:
    """Give what is read where there is no canvas, or no row."""
    lengths = torch.zeros_like(canvas_lengths, dtype=torch.long)
    empty = lengths.new_empty((len(lengths), 0))
    return empty, lengths, empty


def _best_tokens(
    logits: Float[Tensor, "batch canvas vocab"],
) -> tuple[Float[Tensor, "batch canvas"], Int[Tensor, "batch canvas"]]:
    """Give each vertex's likeliest token and its log-probability."""
    best, tokens = logits.max(-1)
    sums = [wide(some).logsumexp(-1) for some in torch.split(logits.flatten(0, 1), AT_ONCE)]
    return wide(best) - torch.cat(sums).view(best.shape), tokens


def _follow(
    successors: Int[Tensor, "batch canvas"], canvas_lengths: Int[Tensor, " batch"]
) -> Int[Tensor, "batch length"]:
    """Go from vertex 0 to successor after successor until each row's last vertex."""
    vertex = torch.zeros_like(canvas_lengths, dtype=torch.long)
    going = canvas_lengths > 0
    path: list[Tensor] = []
    while len(path) < successors.shape[1] and bool(going.any()):
        path.append(vertex.where(going, -1))
        going = going & (vertex < canvas_lengths - 1)
        vertex = successors.gather(-1, vertex[:, None])[:, 0]
    return torch.stack(path, dim=-1) if path else successors[:, :0]


def _read(
    tokens: Int[Tensor, "batch canvas"], vertices: Int[Tensor, "batch length"], pad: int
) -> Reading:
    written = vertices >= 0
    text = tokens.gather(-1, vertices.clamp(min=0)).masked_fill(~written, pad)
    return text, written.sum(-1), vertices
