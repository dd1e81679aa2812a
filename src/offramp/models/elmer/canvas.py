"""Say how much room a text gets.

In:  lengths of sources and, in training, of targets. Out: lengths of canvases.
Law: at test time a canvas knows its source only; a row's canvas does not depend on its batch mates
     (tests/models/elmer/test_canvas.py).
Not here: what is written on it (offramp.models.elmer.writing).
"""

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import pad

from offramp.errors import InputError
from offramp.logits.labels import NO_LABEL
from offramp.models.elmer.configuration import ElmerConfig

NO_PLACE = 0
"""Where exits say that a canvas has no place."""


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
    generator: torch.Generator | None = None,
) -> Int[Tensor, " batch"]:
    """Draw the lengths of ``plain`` canvases in training: any from the target's to the source's.

    Without a generator it uses the global one of torch, as dropout does.
    """
    if not config.canvas_slack:
        return target_lengths.amax().expand_as(target_lengths)
    room = (source_sizes(config, source_lengths) - target_lengths).clamp(min=0)
    share = torch.rand(len(room), device=room.device, generator=generator)
    return target_lengths + (share * (room + 1)).long().clamp(max=room)


def measured_sizes(
    config: ElmerConfig,
    source_lengths: Int[Tensor, " batch"],
    target_lengths: Int[Tensor, " batch"],
) -> Int[Tensor, " batch"]:
    """Give the lengths of ``plain`` canvases that a held-out loss is measured on.

    They are those of texts that are written, so that they do not tell the target's length, but
    never too short for it. Where the length is predicted, or was told in training, it is told.
    """
    if config.length_predictor or not config.canvas_slack:
        return target_lengths
    return source_sizes(config, source_lengths).maximum(target_lengths)


def told_sizes(
    config: ElmerConfig,
    exits: Int[Tensor, "batch places"],
    target_lengths: Int[Tensor, " batch"],
) -> Int[Tensor, " batch"]:
    """Give the lengths of canvases by the exits of their places, never below the target's.

    Without ``canvas_slack`` just the target's length.
    """
    if not config.canvas_slack:
        return target_lengths
    return (exits != NO_PLACE).sum(-1).maximum(target_lengths)


def mask_of(
    lengths: Int[Tensor, " batch"], like: Tensor | None = None
) -> Bool[Tensor, "batch canvas"]:
    """Mark the places that exist on canvases side by side, as wide as the longest or ``like``.

    Example:
        >>> mask_of(torch.tensor([1, 2])).tolist()
        [[True, False], [True, True]]
    """
    width = int(lengths.max()) if like is None else like.shape[1]
    return torch.arange(width, device=lengths.device) < lengths[:, None]


def fitted(
    labels: Int[Tensor, "batch target"], places: Bool[Tensor, "batch canvas"], fill: int
) -> Int[Tensor, "batch canvas"]:
    """Lay labels on canvases: what is behind a target's end is ``fill``, then -100.

    Example:
        >>> fitted(torch.tensor([[5, 2]]), torch.tensor([[True, True, True, False]]), 2).tolist()
        [[5, 2, 2, -100]]
    """
    laid = labels.new_full(places.shape, NO_LABEL)
    kept = labels[:, : places.shape[1]]
    laid[:, : kept.shape[1]] = kept
    return laid.masked_fill(laid == NO_LABEL, fill).masked_fill(~places, NO_LABEL)


def laid_exits(
    exits: Int[Tensor, "batch given"],
    labels: Int[Tensor, "batch target"],
    places: Bool[Tensor, "batch canvas"],
    *,
    depth: int,
) -> Int[Tensor, "batch canvas"]:
    """Lay exits on canvases; places behind the target for which none is given leave at the last.

    Raises:
        InputError: An exit is not one from 1 to ``depth``, or a target token has none.
    """
    width = max(exits.shape[1], labels.shape[1], places.shape[1])
    exits = pad(exits, (0, width - exits.shape[1]), value=NO_PLACE)
    needed = pad(labels != NO_LABEL, (0, width - labels.shape[1]))
    strange = ((exits < 1) | (exits > depth)) & ((exits != NO_PLACE) | needed)
    if bool(strange.any()):
        raise InputError(
            f"exits must be from 1 to {depth}, got {int(exits[strange][0])}; the last layer is "
            f"exit {depth}, and {NO_PLACE} is no place, behind a target"
        )
    return exits.masked_fill(exits == NO_PLACE, depth)[:, : places.shape[1]]


def places_of(
    canvas: Int[Tensor, "batch canvas"], mask: Tensor | None
) -> Bool[Tensor, "batch canvas"]:
    """Mark the places of given canvases.

    Raises:
        InputError: A canvas does not begin at its first place, or has none.
    """
    if mask is None:
        return torch.ones_like(canvas, dtype=torch.bool)
    places = mask.bool()
    if places.shape != canvas.shape or bool((places != mask_of(places.sum(-1), canvas)).any()):
        raise InputError(
            f"decoder_attention_mask must mark the first places of each canvas of {canvas.shape[1]}"
            f", got {list(mask.shape)} with gaps or another size; leave it out for all"
        )
    return places


def spread_over(
    source: Float[Tensor, "batch source width"],
    source_mask: Bool[Tensor, "batch source"] | None,
    places: Bool[Tensor, "batch canvas"],
) -> Float[Tensor, "batch canvas width"]:
    """Lay sources over canvases: each place gets the state at its share of the source's length.

    Example:
        >>> source = torch.tensor([[[1.0], [2.0]]])
        >>> spread_over(source, None, torch.ones(1, 4, dtype=torch.bool)).flatten().tolist()
        [1.0, 1.0, 2.0, 2.0]
    """
    if source_mask is None:
        source_mask = source.new_ones(source.shape[:2], dtype=torch.bool)
    there = (~source_mask).long().argsort(dim=-1, stable=True)  # what exists comes first
    counts, sizes = source_mask.sum(-1, keepdim=True), places.sum(-1, keepdim=True).clamp(min=1)
    at = torch.arange(places.shape[1], device=places.device) * counts // sizes
    at = there.gather(-1, at.minimum((counts - 1).clamp(min=0)))
    return source.gather(1, at[..., None].expand(-1, -1, source.shape[-1]))


def lengths_of(
    source: Shaped[Tensor, "batch source *width"], attention_mask: Tensor | None
) -> Int[Tensor, " batch"]:
    """Give the number of tokens of each source, of its ids or its states."""
    if attention_mask is None:
        return torch.full((len(source),), source.shape[1], device=source.device)
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
