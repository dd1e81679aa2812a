"""Say how much room a text gets.

In:  lengths of sources and, in training, of targets. Out: lengths of canvases.
Law: at test time a canvas knows its source only; a row's canvas does not depend on its batch mates
     (tests/models/elmer/test_canvas.py).
Not here: what is written on it (offramp.models.elmer.writing).
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from offramp.models.elmer.configuration import ElmerConfig

NO_LABEL = -100


def source_sizes(
    config: ElmerConfig, source_lengths: Int[Tensor, " batch"]
) -> Int[Tensor, " batch"]:
    """Give the canvas lengths that the configuration grants sources of these lengths."""
    sizes = torch.ceil(source_lengths.double() * config.canvas_ratio).long() + config.canvas_extra
    return sizes.clamp(1, config.max_position_embeddings)


def drawn_sizes(
    config: ElmerConfig,
    source_lengths: Int[Tensor, " batch"],
    target_lengths: Int[Tensor, " batch"],
) -> Int[Tensor, " batch"]:
    """Draw the lengths of ``plain`` canvases in training: any from the target's to the source's.

    Uses the global generator of torch, as dropout does.
    """
    if not config.canvas_slack:
        return target_lengths.amax().expand_as(target_lengths)
    room = (source_sizes(config, source_lengths) - target_lengths).clamp(min=0)
    share = torch.rand(len(room), device=room.device)
    return target_lengths + (share * (room + 1)).long().clamp(max=room)


def mask_of(lengths: Int[Tensor, " batch"]) -> Bool[Tensor, "batch canvas"]:
    """Mark the places that exist on canvases side by side.

    Example:
        >>> mask_of(torch.tensor([1, 2])).tolist()
        [[True, False], [True, True]]
    """
    return torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]


def fitted(
    labels: Int[Tensor, "batch target"], lengths: Int[Tensor, " batch"], fill: int
) -> Int[Tensor, "batch canvas"]:
    """Lay labels on canvases: what is behind a target's end is ``fill``, then -100."""
    size = int(lengths.max())
    laid = labels.new_full((len(labels), size), NO_LABEL)
    kept = labels[:, :size]
    laid[:, : kept.shape[1]] = kept
    return torch.where((laid == NO_LABEL) & mask_of(lengths), fill, laid)


def lengths_of(
    input_ids: Int[Tensor, "batch source"], attention_mask: Tensor | None
) -> Int[Tensor, " batch"]:
    """Give the number of tokens of each source."""
    if attention_mask is None:
        size = input_ids.shape[1]
        return torch.full((len(input_ids),), size, device=input_ids.device)
    return attention_mask.sum(-1).long()


def blank_canvas(
    config: ElmerConfig, lengths: Int[Tensor, " batch"]
) -> Int[Tensor, "batch canvas"]:
    """Give canvases of masks, side by side."""
    assert config.mask_token_id is not None  # the configuration has seen to it
    canvas = lengths.new_full((len(lengths), int(lengths.max())), config.mask_token_id)
    if config.canvas_start_token_id is not None:
        canvas[:, 0] = config.canvas_start_token_id
    return canvas
