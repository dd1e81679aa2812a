"""Turn what a canvas says into losses.

In:  scores and states of exits, and targets. Out: one loss per exit, and what glancing reveals.
Law: losses are sums over rows divided by the number of target tokens, so that equal text weighs
     equally in any batch; padding and batch mates change nothing
     (tests/models/elmer/test_learning.py).
Not here: the sums over alignments and paths (offramp.logits.ctc, offramp.logits.dag); the loop
     (offramp.training).
Source: Li et al. 2022, "ELMER", arXiv:2210.13304, section 3.4; Qian et al. 2021, "GLAT",
     arXiv:2008.07905 (glancing); Huang et al. 2021, "DSLP", arXiv:2110.07515 (soft hand-over).
     Differs from ELMER: places behind the end are learned as end tokens, all of a row's together
     weighing as much as one token, so that a canvas may be longer than its text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from offramp.errors import InputError
from offramp.logits.ctc import ctc_align, ctc_fits, ctc_loss
from offramp.logits.dag import dag_align, dag_fits, dag_loss
from offramp.logits.labels import NO_LABEL, label_lengths
from offramp.models.elmer.canvas import fitted, mask_of

SHOWN = 0.3
"""Share of positions that are handed the target's embedding in training, as published."""


@dataclass(frozen=True)
class Target:
    """What a batch is to write.

    Attributes:
        kind: The output head: ``plain``, ``ctc`` or ``dag``.
        labels: Targets as this head learns them, [B, M], padded with -100: ``ctc`` without BOS
            and end token, ``dag`` with one BOS before it.
        laid: For ``plain`` the label of each place of the canvas, [B, N]; -100 is no place.
        lengths: Places of each canvas, [B].
        tokens: Number of target tokens that losses are divided by.
        blank: For ``ctc``.
    """

    kind: str
    labels: Int[Tensor, "batch target"]
    laid: Int[Tensor, "batch canvas"]
    lengths: Int[Tensor, " batch"]
    tokens: float | Tensor
    blank: int

    @property
    def ends(self) -> Bool[Tensor, "batch canvas"]:
        """Mark the places from each target's last token on."""
        counts = (self.labels != NO_LABEL).sum(-1, keepdim=True)
        places = torch.arange(self.laid.shape[1], device=self.laid.device)
        return (places >= counts - 1) & (self.laid != NO_LABEL)

    @property
    def fits(self) -> Bool[Tensor, " batch"]:
        """Tell which targets their canvases hold; those of ``plain`` are cut where they end."""
        if self.kind == "plain":
            return torch.ones_like(self.lengths, dtype=torch.bool)
        return (ctc_fits if self.kind == "ctc" else dag_fits)(self.labels, self.lengths)


def target_for(
    config: Any,
    labels: Int[Tensor, "batch target"],
    places: Bool[Tensor, "batch canvas"],
    *,
    tokens: float | Tensor | None = None,
) -> Target:
    """Bring labels into the form that a head learns.

    Raises:
        InputError: Labels are not padded at the right, or are no tokens.
    """
    label_lengths(labels, vocab=config.vocab_size)
    kind, eos, bos = config.output_head, config.eos_token_id, config.bos_token_id
    behind = eos if config.canvas_slack else NO_LABEL
    laid = fitted(labels, places, behind) if kind == "plain" else labels
    count = (labels != NO_LABEL).sum().clamp(min=1) if tokens is None else tokens
    if kind != "plain":  # tokenizers like BART's put it before every text
        moved = pad(labels[:, 1:], (0, 1), value=NO_LABEL)
        labels = torch.where(labels[:, :1] == bos, moved, labels)
    if kind == "ctc":
        labels = labels.masked_fill(labels == eos, NO_LABEL)
    if kind == "dag":
        labels = pad(labels, (1, 0), value=bos)
    return Target(kind, labels, laid, places.sum(-1), count, config.mask_token_id)


def loss_at(
    logits: Float[Tensor, "batch canvas vocab"],
    target: Target,
    *,
    transitions: Float[Tensor, "batch canvas canvas"] | None = None,
    unscored: Bool[Tensor, "batch canvas"] | None = None,
) -> Float[Tensor, ""]:
    """Give the loss of one exit in nats per target token.

    Args:
        logits: Its scores.
        target: What it is to say.
        transitions: Its steps, for ``dag``.
        unscored: Places that have seen their answer, for ``plain``.

    Raises:
        InputError: No target of the batch fits its canvas.
    """
    if target.kind == "plain":
        return _plain(logits, target, unscored) / target.tokens
    if target.kind == "ctc":
        rows = ctc_loss(logits, target.labels, canvas_lengths=target.lengths, blank=target.blank)
    else:
        assert transitions is not None
        rows = dag_loss(logits, transitions, target.labels, canvas_lengths=target.lengths)
    fits = rows != torch.inf
    if not fits.any():
        raise InputError(
            f"no target of this batch fits its canvas: canvases have {target.lengths.tolist()[:4]} "
            "places; raise canvas_ratio or canvas_extra in the model's configuration"
        )
    return rows[fits].sum() / target.tokens


def _plain(
    logits: Float[Tensor, "batch canvas vocab"],
    target: Target,
    unscored: Bool[Tensor, "batch canvas"] | None,
) -> Float[Tensor, ""]:
    laid = target.laid if unscored is None else target.laid.masked_fill(unscored, NO_LABEL)
    losses = cross_entropy(
        logits.flatten(0, 1).float(), laid.flatten(), ignore_index=NO_LABEL, reduction="none"
    ).view(laid.shape)
    ends = target.ends
    weights = torch.where(ends, 1.0 / ends.sum(-1, keepdim=True).clamp(min=1), 1.0)
    return (losses * weights).sum()


def aligned(
    logits: Float[Tensor, "batch canvas vocab"],
    target: Target,
    transitions: Float[Tensor, "batch canvas canvas"] | None,
) -> Int[Tensor, "batch canvas"]:
    """Give the target's token at each place where it has one, else -100.

    For ``ctc`` and ``dag`` by the likeliest alignment under these scores.
    """
    if target.kind == "plain":
        return target.laid
    if target.kind == "ctc":
        best = ctc_align(logits, target.labels, canvas_lengths=target.lengths, blank=target.blank)
        return torch.where(mask_of(target.lengths), best, NO_LABEL)
    assert transitions is not None
    places = dag_align(logits, transitions, target.labels, canvas_lengths=target.lengths)
    found = target.labels.new_full(logits.shape[:2], NO_LABEL)
    rows, columns = (places >= 0).nonzero(as_tuple=True)
    found[rows, places[rows, columns]] = target.labels[rows, columns]
    return found


def glance(
    guesses: Int[Tensor, "batch canvas"], answers: Int[Tensor, "batch canvas"], share: float
) -> Bool[Tensor, "batch canvas"]:
    """Choose what is shown: ``share`` times the number of wrong guesses, places at random.

    Example:
        >>> glance(torch.tensor([[1, 2]]), torch.tensor([[1, 2]]), 0.5).any().item()
        False
    """
    has = answers != NO_LABEL
    wrong = ((guesses != answers) & has).sum(-1)
    order = torch.rand(answers.shape, device=answers.device).masked_fill(~has, 2.0)
    rank = order.argsort(-1).argsort(-1)
    return (rank < (wrong * share).round()[:, None]) & has


def shown_at_random(answers: Int[Tensor, "batch canvas"]) -> Bool[Tensor, "batch canvas"]:
    """Choose the positions that are handed their answer: 3 of 10, as published."""
    chosen = torch.rand(answers.shape, device=answers.device) < SHOWN
    return chosen & (answers != NO_LABEL)


def mean_of(losses: Sequence[Tensor]) -> Tensor:
    """Give the mean of some exits' losses."""
    return torch.stack(list(losses)).mean()
