"""Connectionist temporal classification (CTC): a text read off a longer canvas with blanks.

An alignment gives each canvas position a token or the blank; merging neighbours that are equal and
then dropping the blanks gives the text. Many alignments give the same text, the loss sums them.

In:  scores of a canvas, and labels or chosen tokens. Out: losses, alignments, texts. Pure.
Law: loss and best alignment equal enumeration of every alignment; what ``ctc_align`` gives
     collapses to its labels; a row does not depend on its batch mates (tests/logits/test_ctc.py).
Not here: the canvas and its length (offramp.models.elmer).
Paper: Graves et al. 2006, "Connectionist Temporal Classification", ICML, section 3 and 4.1; for
     non-autoregressive text Libovicky and Helcl 2018, arXiv:1811.04719.

Shapes: B batch, N canvas, M target, V vocabulary; a state is a label or a blank around it, 2M + 1.
"""

from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from offramp.errors import InputError
from offramp.logits.labels import NO_LABEL, label_lengths, log_probs_of, wide

FORBIDDEN = -1e4
"""The log-probability that stands for none where a gradient must pass: e to its power is 0."""


def ctc_fits(
    labels: Int[Tensor, "batch target"], canvas_lengths: Int[Tensor, " batch"]
) -> Bool[Tensor, " batch"]:
    """Tell which targets fit on their canvas: equal neighbours need a blank between them.

    Args:
        labels: Tokens, padded at the right with -100.
        canvas_lengths: Positions of each row's canvas.

    Raises:
        InputError: The labels are not padded at the right.

    Example:
        >>> ctc_fits(torch.tensor([[7, 8], [7, 7]]), torch.tensor([2, 2])).tolist()
        [True, False]
    """
    repeats = ((labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] != NO_LABEL)).sum(-1)
    return label_lengths(labels) + repeats <= canvas_lengths


def ctc_loss(
    logits: Float[Tensor, "batch canvas vocab"],
    labels: Int[Tensor, "batch target"],
    *,
    canvas_lengths: Int[Tensor, " batch"],
    blank: int,
) -> Float[Tensor, " batch"]:
    """Give the negative log-likelihood of each row's text, summed over all its alignments.

    A row whose target does not fit (see ``ctc_fits``) gives inf and no gradient; the caller
    decides what becomes of it.

    Args:
        logits: Scores, need not be normalised.
        labels: Tokens other than the blank, padded at the right with -100.
        canvas_lengths: Positions of each row's canvas, 0 to N; what lies beyond is not read.
        blank: The token that writes nothing.

    Returns:
        Nats per row, not divided by any length; float32 (float64 for float64 scores).

    Raises:
        InputError: A label is the blank, not a token, or follows padding.

    Example:
        >>> uniform = torch.zeros(1, 2, 3)  # 9 alignments, of which 11, 01 and 10 write "1"
        >>> lengths = torch.tensor([2])
        >>> ctc_loss(uniform, torch.tensor([[1]]), canvas_lengths=lengths, blank=0).exp()
        tensor([3.])
    """
    target_lengths = _checked_lengths(labels, vocab=logits.shape[-1], blank=blank)
    if min(logits.shape) == 0:  # no canvas at all: only the empty text is possible
        return wide(logits).sum((1, 2)).masked_fill(target_lengths > 0, torch.inf)
    log_probs, targets = _of_row_tokens(logits, labels, blank)
    impossible = ~ctc_fits(labels, canvas_lengths)
    loss = partial(
        functional.ctc_loss,
        targets=targets,
        input_lengths=canvas_lengths,
        target_lengths=target_lengths,
        reduction="none",
    )
    if bool(log_probs.amin() == -torch.inf):  # torch's gradient of these is NaN
        impossible |= loss(log_probs.detach().transpose(0, 1)).isinf()
        log_probs = log_probs.masked_fill(log_probs == -torch.inf, FORBIDDEN)
    own = torch.arange(1, targets.shape[1] + 1, device=targets.device)
    unused = functional.pad(targets != own, (1, 0))[:, None]
    log_probs = log_probs.masked_fill(unused, FORBIDDEN)
    # torch's gradient holds for scores that a softmax made: what the columns have together is apart
    within = loss(log_probs.log_softmax(-1).transpose(0, 1), zero_infinity=True)
    outside = torch.arange(logits.shape[1], device=logits.device) >= canvas_lengths[:, None]
    together = log_probs.logsumexp(-1).masked_fill(outside, 0.0).sum(-1)
    return (within - together).masked_fill(impossible, torch.inf)


def _of_row_tokens(
    logits: Float[Tensor, "batch canvas vocab"], labels: Int[Tensor, "batch target"], blank: int
) -> tuple[Float[Tensor, "batch canvas columns"], Int[Tensor, "batch target"]]:
    """Give the log-probabilities of the blank and of each label, and each label's column.

    No alignment writes a token that its row's text lacks, so that tables are as wide as the text
    and not as the vocabulary. A label that stands twice has the column of its first.
    """
    columns = functional.pad(labels.masked_fill(labels == NO_LABEL, blank), (1, 0), value=blank)
    first = (columns[:, :, None] == columns[:, None]).to(torch.uint8).argmax(-1)
    return log_probs_of(logits, columns), first[:, 1:]


def ctc_align(
    logits: Float[Tensor, "batch canvas vocab"],
    labels: Int[Tensor, "batch target"],
    *,
    canvas_lengths: Int[Tensor, " batch"],
    blank: int,
) -> Int[Tensor, "batch canvas"]:
    """Find each row's most probable alignment: the token or blank of every canvas position.

    Args:
        logits: Scores, need not be normalised; no gradient flows.
        labels: Tokens other than the blank, padded at the right with -100.
        canvas_lengths: Positions of each row's canvas.
        blank: The token that writes nothing.

    Returns:
        Tokens; blanks beyond the canvas, and everywhere in a row whose target does not fit.

    Raises:
        InputError: A label is the blank, not a token, or follows padding.

    Example:
        >>> sure = torch.tensor([[[9.0, 0.0], [0.0, 1.0], [0.0, 5.0]]])
        >>> lengths = torch.tensor([3])
        >>> ctc_align(sure, torch.tensor([[1]]), canvas_lengths=lengths, blank=0).tolist()
        [[0, 1, 1]]
    """
    target_lengths = _checked_lengths(labels, vocab=logits.shape[-1], blank=blank)
    batch, canvas = logits.shape[:2]
    states = labels.new_full((batch, 2 * labels.shape[1] + 1), blank)
    states[:, 1::2] = labels.masked_fill(labels == NO_LABEL, blank)
    # the normaliser is the same for every state of a position: raw scores choose the same path
    emitted = wide(logits.detach().gather(-1, states[:, None].expand(-1, canvas, -1)))
    scores, steps = _best_states(emitted, states, canvas_lengths)
    ends = torch.stack([2 * target_lengths, (2 * target_lengths - 1).clamp(min=0)], dim=-1)
    last, chosen = scores.gather(-1, ends).max(-1)
    state = ends.gather(-1, chosen[:, None])
    path = labels.new_empty(batch, canvas)
    for position in reversed(range(canvas)):
        path[:, position] = state[:, 0]
        state = state - steps[:, position].gather(-1, state)
    outside = torch.arange(canvas, device=labels.device) >= canvas_lengths[:, None]
    return states.gather(-1, path).masked_fill(outside | (last == -torch.inf)[:, None], blank)


def _best_states(
    emitted: Float[Tensor, "batch canvas states"],
    states: Int[Tensor, "batch states"],
    canvas_lengths: Int[Tensor, " batch"],
) -> tuple[Float[Tensor, "batch states"], Int[Tensor, "batch canvas states"]]:
    """Give the score of the best path into each state, and from how many states back it came.

    A path stays, goes one state on, or skips the blank between two labels that differ. Beyond a
    row's canvas nothing moves.
    """
    skips = torch.zeros_like(states, dtype=torch.bool)
    skips[:, 2:] = states[:, 2:] != states[:, :-2]  # never true of two blanks
    steps = torch.zeros(emitted.shape, dtype=torch.long, device=emitted.device)
    scores = emitted.new_full(states.shape, -torch.inf)
    scores[:, 0] = 0.0  # before the first position; from here states 0 and 1 can be reached
    for position in range(emitted.shape[1]):
        one = functional.pad(scores, (1, 0), value=-torch.inf)[:, :-1]
        two = functional.pad(scores, (2, 0), value=-torch.inf)[:, : scores.shape[1]]
        ways = torch.stack([scores, one, two.masked_fill(~skips, -torch.inf)])
        best, step = ways.max(0)
        inside = (position < canvas_lengths)[:, None]
        scores = torch.where(inside, best + emitted[:, position], scores)
        steps[:, position] = step.masked_fill(~inside, 0)
    return scores, steps


def ctc_collapse(
    ids: Int[Tensor, "batch canvas"],
    *,
    canvas_lengths: Int[Tensor, " batch"],
    blank: int,
    pad: int,
) -> tuple[
    Int[Tensor, "batch length"],
    Int[Tensor, " batch"],
    Int[Tensor, "batch length"],
]:
    """Read the text off a canvas: merge equal neighbours, drop blanks, pad at the right.

    Args:
        ids: The token or blank of each canvas position.
        canvas_lengths: Positions of each row's canvas; what lies beyond is not read.
        blank: The token that writes nothing.
        pad: What fills up the shorter rows.

    Returns:
        The tokens, how many each row has, and the canvas position each was read from (the first
        of its run), -1 where padded. As wide as the longest row.

    Example:
        >>> ids, lengths = torch.tensor([[0, 5, 5, 0, 5, 6]]), torch.tensor([6])
        >>> tokens, _, positions = ctc_collapse(ids, canvas_lengths=lengths, blank=0, pad=1)
        >>> tokens.tolist(), positions.tolist()
        ([[5, 5, 6]], [[1, 4, 5]])
    """
    place = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    written = (ids != blank) & (place < canvas_lengths[:, None])
    written[:, 1:] &= ids[:, 1:] != ids[:, :-1]
    lengths = written.sum(-1)
    width = int(lengths.max()) if len(lengths) else 0
    positions = (~written).long().argsort(dim=-1, stable=True)[:, :width]
    outside = place[:, :width] >= lengths[:, None]
    tokens = ids.gather(-1, positions).masked_fill(outside, pad)
    return tokens, lengths, positions.masked_fill(outside, -1)


def _checked_lengths(
    labels: Int[Tensor, "batch target"], *, vocab: int, blank: int
) -> Int[Tensor, " batch"]:
    lengths = label_lengths(labels, vocab=vocab)
    if bool((labels == blank).any()):
        raise InputError(
            f"labels contain the blank, token {blank}: it writes nothing and cannot be learned; "
            "take it out of the labels or choose another blank"
        )
    return lengths
