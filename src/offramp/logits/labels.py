"""How many labels each row of a batch has, and that they are usable: shared by CTC and the DAG.

In:  labels [batch, target], padded at the right with -100. Out: their number per row, or an error.
Law: what passes here can be looked up in the vocabulary; padding is not counted.
Not here: making the labels (offramp.training).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from offramp.errors import InputError

NO_LABEL = -100
"""The label of a place where nothing is learned or measured, as everywhere in transformers; fills a
row of labels up at the right."""


def first_label(labels: Sequence[int]) -> int:
    """Give the place of a row's first label, where its prompt ends; past the end if it has none.

    Example:
        >>> first_label([-100, -100, 5]), first_label([-100])
        (2, 1)
    """
    return next((n for n, label in enumerate(labels) if label != NO_LABEL), len(labels))


def label_lengths(
    labels: Int[Tensor, "batch target"], *, vocab: int | None = None
) -> Int[Tensor, " batch"]:
    """Count each row's labels and refuse what no loss over paths could score.

    Args:
        labels: Tokens, padded at the right with -100.
        vocab: Number of tokens; None checks only the padding.

    Raises:
        InputError: A label follows padding, or is neither -100 nor a token.

    Example:
        >>> label_lengths(torch.tensor([[5, 6, -100], [7, -100, -100]])).tolist()
        [2, 1]
    """
    known = labels != NO_LABEL
    if bool((known[:, 1:] & ~known[:, :-1]).any()):
        raise InputError(
            "labels must be padded at the right: a row has -100 before a label; "
            "move its labels to the left"
        )
    strange = known & (labels < 0)
    if vocab is not None:
        strange |= labels >= vocab
    if bool(strange.any()):
        raise InputError(
            f"label {int(labels[strange][0])} is no token: allowed are 0 to "
            f"{'the last token' if vocab is None else vocab - 1}, and -100 as padding; "
            "look whether tokenizer and model belong together"
        )
    return known.sum(-1)


def wide(scores: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Give scores in float32, or float64 where they are so: sums over paths need the digits.

    Example:
        >>> wide(torch.zeros(2, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return scores if scores.dtype == torch.float64 else scores.float()


def log_probs_of(
    logits: Float[Tensor, "batch canvas vocab"], tokens: Int[Tensor, "batch target"]
) -> Float[Tensor, "batch canvas target"]:
    """Give the log-probability of each row's own tokens at every place of its canvas.

    Example:
        >>> log_probs_of(torch.zeros(1, 2, 4), torch.tensor([[3]])).exp().flatten()
        tensor([0.2500, 0.2500])
    """
    chosen = logits.gather(-1, tokens[:, None].expand(-1, logits.shape[1], -1))
    return wide(chosen) - wide(logits).logsumexp(-1, keepdim=True)
