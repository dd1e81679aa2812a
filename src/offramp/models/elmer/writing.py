"""Write texts in one pass.

In:  states of sources, and settings. Out: texts, and where each token came from.
Law: a text depends on its source and the settings, never on batch mates, padding or a reference
     (tests/models/elmer/test_writing.py).
Not here: leaving layers early (.leaving), reading a canvas (.reading).
Source: Li et al. 2022, "ELMER", arXiv:2210.13304; Ghazvininejad et al. 2019, "Mask-Predict",
     arXiv:1904.09324 (several lengths, refinement).
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from offramp.decoding.oneshot import OneShot
from offramp.errors import ConfigError
from offramp.models.elmer.canvas import blank_canvas, lengths_of, mask_of, source_sizes
from offramp.models.elmer.decoder import Sight, sight_of
from offramp.models.elmer.leaving import Left, climb
from offramp.models.elmer.output import OneShotOutput
from offramp.models.elmer.reading import Reading, banned, choose, read


def write(
    model: Any,
    source: Float[Tensor, "batch source width"],
    source_mask: Tensor | None,
    *,
    settings: OneShot,
    limit: int | None = None,
    generator: torch.Generator | None = None,
) -> OneShotOutput:
    """Write a text for each source.

    Args:
        model: ``ElmerForConditionalGeneration``.
        source: States of the sources.
        source_mask: Their tokens that exist; None is all.
        settings: How.
        limit: Longest text; None is what fits on the canvas.
        generator: Draws tokens.

    Raises:
        ConfigError: The model lacks what ``settings`` ask for.
    """
    _check(model.config, settings)
    lengths, rows = _sizes(model, source, source_mask, settings)
    if limit is not None and model.config.output_head == "plain":
        lengths = lengths.clamp(max=limit)
    sight = sight_of(source, source_mask, mask_of(lengths.new_ones(len(source)))).rows(rows)
    sight = Sight(mask_of(lengths), sight.source, sight.source_mask)
    canvas = blank_canvas(model.config, lengths)
    left = climb(model, canvas, sight, settings)
    logits = model.score(left.states)
    if settings.refine_steps:
        logits = _refined(model, sight, logits, settings, generator)
    transitions = None
    if model.config.output_head == "dag":
        transitions = model.steps(left.states, lengths)
    reading = read(
        logits,
        lengths,
        config=model.config,
        settings=settings,
        transitions=transitions,
        generator=generator,
    )
    return _best(model, reading, left, lengths, (settings.lengths, limit))


def _check(config: Any, settings: OneShot) -> None:
    if settings.lengths > 1 and not config.length_predictor:
        raise ConfigError(
            f"lengths={settings.lengths} needs a model with length_predictor; leave it at 1"
        )
    if settings.refine_steps and config.output_head != "plain":
        raise ConfigError(
            f"refine_steps rewrites the canvas of a 'plain' head, this one is "
            f"{config.output_head!r}; leave it at 0"
        )
    size = settings.canvas_length
    if size is not None and size > config.max_position_embeddings:
        raise ConfigError(
            f"canvas_length must be at most {config.max_position_embeddings}, the places that the "
            f"model knows; got {size}"
        )


def _sizes(
    model: Any, source: Tensor, mask: Tensor | None, settings: OneShot
) -> tuple[Int[Tensor, " canvases"], Int[Tensor, " canvases"]]:
    """Give the lengths of canvases, and each one's source."""
    config = model.config
    rows = torch.arange(len(source), device=source.device)
    if settings.canvas_length is not None:
        return torch.full_like(rows, settings.canvas_length), rows
    if not config.length_predictor:
        sources = lengths_of(torch.empty(source.shape[:2], device=source.device), mask)
        return source_sizes(config, sources), rows
    logits = model.length_head(source, None if mask is None else mask.bool())
    lengths = logits.topk(settings.lengths, dim=-1).indices + 1
    return lengths.flatten(), rows.repeat_interleave(settings.lengths)


def _refined(
    model: Any,
    sight: Sight,
    logits: Float[Tensor, "batch canvas vocab"],
    settings: OneShot,
    generator: torch.Generator | None,
) -> Float[Tensor, "batch canvas vocab"]:
    """Mask the least sure tokens, fewer each time, and write them anew."""
    passes = settings.refine_steps + 1
    places = sight.canvas.sum(-1)
    for done in range(1, passes):
        allowed = logits.clone()
        allowed[..., banned(model.config)] = -torch.inf
        tokens = choose(allowed, settings, generator)
        sure = allowed.float().log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
        sure = sure.masked_fill(~sight.canvas, torch.inf)
        doubtful = places * (passes - done) // passes
        again = sure.argsort(-1).argsort(-1) < doubtful[:, None]
        canvas = torch.where(again, model.config.mask_token_id, tokens)
        new = model.score(climb(model, canvas, sight, settings).states)
        logits = torch.where(again[..., None], new, logits)
    return logits


def _best(
    model: Any,
    reading: Reading,
    left: Left,
    lengths: Int[Tensor, " canvases"],
    asked: tuple[int, int | None],
) -> OneShotOutput:
    """Keep the surest text of each source, and say where its tokens came from."""
    tried, limit = asked
    exits, fill = left.exits, model.config.pad_token_id
    if tried > 1:
        mean = reading.scores.sum(-1) / reading.lengths.clamp(min=1)
        winner = mean.view(-1, tried).argmax(-1)
        rows = winner + torch.arange(len(winner), device=winner.device) * tried
        reading = Reading(reading.tokens[rows], reading.places[rows], reading.scores[rows])
        exits, lengths = exits[rows], lengths[rows]
    keep = reading.places >= 0
    if model.config.output_head == "dag":  # a path begins with BOS
        keep &= torch.arange(keep.shape[1], device=keep.device) > 0
    if limit is not None:
        keep &= keep.long().cumsum(-1) <= limit
    reading = reading.kept(keep, fill)
    found = exits.gather(-1, reading.places.clamp(min=0)).masked_fill(reading.places < 0, -1)
    return OneShotOutput(
        sequences=reading.tokens,
        exits=found,
        scores=reading.scores,
        places=reading.places,
        canvas_lengths=lengths,
        layers=left.layers,
    )
