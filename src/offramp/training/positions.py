"""Say what each position of a batch shall say, and choose the positions whose losses are computed.

In:  a batch with labels, and a share of its positions. Out: which have something to learn from,
     fewer of them, and what each then counts for.
Law: the choice depends on the row's tokens, the seed and the step, and on nothing else: not on
     batch mates, processes, or what was drawn before; so a resumed or divided run chooses the same
     (tests/training/test_positions.py).
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from offramp.errors import ConfigError
from offramp.logits.labels import NO_LABEL


def aligned(batch: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Give a batch what each position shall say, as ``shift_labels``.

    Args:
        batch: As a ``Collator`` gives it.
        model: Encoder-decoders say the labels themselves, having read ``decoder_input_ids``, which
            are added; others say at each position the label of the next one.
    """
    labels = batch["labels"]
    if model.config.is_encoder_decoder:
        start = _start_of(model)
        read = torch.cat((labels.new_full((len(labels), 1), start), labels[:, :-1]), dim=-1)
        read = read.masked_fill(read == NO_LABEL, start)  # after the end: nobody asks
        return {**batch, "decoder_input_ids": read, "shift_labels": labels}
    last = labels.new_full((len(labels), 1), NO_LABEL)
    return {**batch, "shift_labels": torch.cat((labels[:, 1:], last), dim=-1)}


def _start_of(model: Any) -> int:
    """Give the token that a decoder reads first.

    Raises:
        ConfigError: The model does not say which.
    """
    for config in (model.generation_config, model.config):
        token: int | None = getattr(config, "decoder_start_token_id", None)
        if token is not None:
            return token
    raise ConfigError(
        f"{type(model).__name__} does not say what its decoder reads first; set "
        "model.generation_config.decoder_start_token_id"
    )


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
