"""Write texts in one pass.

In:  states of sources, and settings. Out: texts, and where each token came from.
Law: a text depends on its source and the settings, never on batch mates, padding or a reference
     (tests/models/elmer/test_writing.py).
Not here: leaving layers early (.leaving), reading a canvas (.reading).
Source: Li et al. 2022, "ELMER", arXiv:2210.13304; Ghazvininejad et al. 2019, "Mask-Predict",
     arXiv:1904.09324 (several lengths, refinement).
"""

from dataclasses import dataclass
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
from offramp.models.elmer.reading import Reading, forbid_, read, tempered


def write(
    model: Any,
    source: Float[Tensor, "batch source width"],
    source_mask: Tensor | None,
    *,
    settings: OneShot,
    limit: int | None = None,
    generator: torch.Generator | None = None,
    rated: bool = True,
) -> OneShotOutput:
    """Write a text for each source.

    Args:
        model: ``ElmerForConditionalGeneration``.
        source: States of the sources.
        source_mask: Their tokens that exist; None is all.
        settings: How.
        limit: Longest text; None is what fits on the canvas.
        generator: Draws tokens.
        rated: Give log-probabilities; without them all scores are 0, where they choose no text.

    Raises:
        ConfigError: The model lacks what ``settings`` ask for.
    """
    check_settings(model.config, settings)
    lengths, rows = room_for(model, source, source_mask, settings=settings, limit=limit)
    if settings.lengths > 1:
        source, source_mask = source[rows], None if source_mask is None else source_mask[rows]
    sight = sight_of(source, source_mask, mask_of(lengths))
    left = climb(model, blank_canvas(model.config, lengths), sight, settings)
    draft = _drafted(model, left, settings, generator)
    for again in range(settings.refine_steps):
        share = (settings.refine_steps - again, settings.refine_steps + 1)
        draft = _rewritten(model, sight, draft, settings, (share, generator))
    transitions = None
    if model.config.output_head == "dag":
        transitions = model.steps(left.states, lengths)
    reading = read(
        draft.logits,
        lengths,
        config=model.config,
        settings=settings,
        drawn=draft.drawn,
        transitions=transitions,
        rated=rated or settings.lengths > 1,
    )
    return _best(reading, draft, lengths, (settings.lengths, limit), model.config.pad_token_id)


@dataclass(frozen=True)
class Draft:
    """What stands on canvases.

    Attributes:
        logits: Scores of what may be written, [B, N, V].
        drawn: Scores whose best token is the one that is written, [B, N, V].
        exits: The exit that each place left at, [B, N].
        layers: Positions that each layer was run for, in all passes, [L].
    """

    logits: Float[Tensor, "batch canvas vocab"]
    drawn: Float[Tensor, "batch canvas vocab"]
    exits: Int[Tensor, "batch canvas"]
    layers: Int[Tensor, " layers"]


def _drafted(model: Any, left: Left, settings: OneShot, generator: torch.Generator | None) -> Draft:
    logits = forbid_(left.scored(model), model.config)
    return Draft(logits, tempered(logits, settings, generator), left.exits, left.layers)


def check_settings(config: Any, settings: OneShot) -> None:
    """Refuse settings that a model cannot follow.

    Args:
        config: The model's.
        settings: How shall be written.

    Raises:
        ConfigError: The model lacks what they ask for.
    """
    if settings.lengths > 1 and not config.length_predictor:
        raise ConfigError(
            f"lengths={settings.lengths} needs a model with length_predictor; leave it at 1"
        )
    if settings.refine_steps and config.output_head != "plain":
        raise ConfigError(
            f"refine_steps rewrites the canvas of a 'plain' head, this one is "
            f"{config.output_head!r}; leave it at 0"
        )
    if settings.no_repeat_ngram and config.output_head == "ctc":
        raise ConfigError("no_repeat_ngram is for 'plain' and 'dag' heads, not for 'ctc'; use 0")
    if settings.path != OneShot.path and config.output_head != "dag":
        raise ConfigError(
            f"path {settings.path!r} is for a 'dag' head, this one is {config.output_head!r}; "
            "leave it out"
        )
    known = config.max_position_embeddings
    if settings.lengths > known:
        raise ConfigError(
            f"lengths must be at most {known}, the places that the model knows; got "
            f"{settings.lengths}"
        )
    size = settings.canvas_length
    if size is not None and size > known:
        raise ConfigError(
            f"canvas_length must be at most {known}, the places that the model knows; got {size}"
        )


def room_for(
    model: Any,
    source: Float[Tensor, "batch source width"],
    source_mask: Tensor | None,
    *,
    settings: OneShot,
    limit: int | None = None,
) -> tuple[Int[Tensor, " canvases"], Int[Tensor, " canvases"]]:
    """Give the lengths of the canvases that are written on, and each one's source.

    Args:
        model: ``ElmerForConditionalGeneration``.
        source: States of the sources.
        source_mask: Their tokens that exist; None is all.
        settings: How is written.
        limit: Longest text, which a ``plain`` canvas need not exceed.
    """
    config = model.config
    rows = torch.arange(len(source), device=source.device)
    if settings.canvas_length is not None:
        lengths = torch.full_like(rows, settings.canvas_length)
    elif config.length_predictor:
        logits = model.length_head(source, None if source_mask is None else source_mask.bool())
        lengths = (logits.topk(settings.lengths, dim=-1).indices + 1).flatten()
        rows = rows.repeat_interleave(settings.lengths)
    else:
        lengths = source_sizes(config, lengths_of(source, source_mask))
    cut = limit is not None and config.output_head == "plain"
    return lengths.clamp(max=limit) if cut else lengths, rows


def _rewritten(
    model: Any,
    sight: Sight,
    draft: Draft,
    settings: OneShot,
    how: tuple[tuple[int, int], torch.Generator | None],
) -> Draft:
    """Mask a share of the tokens, the least sure ones, and write them anew."""
    (part, whole), generator = how
    places = sight.canvas.sum(-1)
    tokens = draft.drawn.argmax(-1)
    sure = draft.logits.float().log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    sure = sure.masked_fill(~sight.canvas, torch.inf)
    rank = sure.argsort(dim=-1, stable=True).argsort(dim=-1)
    again = rank < (places * part // whole)[:, None]
    canvas = torch.where(again, blank_canvas(model.config, places), tokens)
    left = climb(model, canvas, sight, settings)
    new = _drafted(model, left, settings, generator)
    return Draft(
        torch.where(again[..., None], new.logits, draft.logits),
        torch.where(again[..., None], new.drawn, draft.drawn),
        torch.where(again, new.exits, draft.exits),
        draft.layers + new.layers,
    )


def _best(
    reading: Reading,
    draft: Draft,
    lengths: Int[Tensor, " canvases"],
    asked: tuple[int, int | None],
    fill: int,
) -> OneShotOutput:
    """Keep the surest text of each source, and say where its tokens came from."""
    tried, limit = asked
    exits = draft.exits
    if tried > 1:
        mean = reading.scores.sum(-1) / reading.lengths
        winner = mean.nan_to_num(nan=-torch.inf).view(-1, tried).argmax(-1)  # no token, no text
        rows = winner + torch.arange(len(winner), device=winner.device) * tried
        reading = Reading(reading.tokens[rows], reading.places[rows], reading.scores[rows])
        exits, lengths = exits[rows], lengths[rows]
    keep = reading.places >= 0
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
        layers=draft.layers,
    )
