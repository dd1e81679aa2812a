"""Read texts off scored canvases.

In:  scores of every place, and how to read. Out: tokens, where they stood, how sure they are.
Law: a text ends at its first end token; a place that does not exist is not read; pad, mask and BOS
     are never written: a BOS on the first place, where tokenizers like BART's have put one, is left
     out (tests/models/elmer/test_reading.py).
Not here: alignments and paths (offramp.logits.ctc, offramp.logits.dag_decode, .dag_beam).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from offramp.decoding.oneshot import SEARCHES, OneShot
from offramp.logits.ctc import ctc_collapse
from offramp.logits.dag_beam import dag_beam
from offramp.logits.dag_decode import dag_greedy, dag_lookahead, dag_viterbi

PATHS: dict[str, Callable[..., Any]] = {
    "lookahead": dag_lookahead,
    "greedy": dag_greedy,
    "viterbi": dag_viterbi,
    "beam": dag_beam,
}


@dataclass(frozen=True)
class Reading:
    """Texts as they were read, side by side.

    Attributes:
        tokens: [B, T], filled with the pad token.
        places: The place of each, [B, T], -1 where there is none.
        scores: Its log-probability, [B, T], 0 where there is none.
    """

    tokens: Int[Tensor, "batch length"]
    places: Int[Tensor, "batch length"]
    scores: Float[Tensor, "batch length"]

    @property
    def lengths(self) -> Int[Tensor, " batch"]:
        """Tokens of each text."""
        return (self.places >= 0).sum(-1)

    def kept(self, keep: Tensor, fill: int) -> "Reading":
        """Leave out some tokens of each text."""
        order = (~keep).long().argsort(dim=-1, stable=True)[:, : int(keep.sum(-1).max())]
        gone = ~keep.gather(-1, order)
        return Reading(
            self.tokens.gather(-1, order).masked_fill(gone, fill),
            self.places.gather(-1, order).masked_fill(gone, -1),
            self.scores.gather(-1, order).masked_fill(gone, 0.0),
        )


def tempered(
    logits: Float[Tensor, "batch canvas vocab"],
    settings: OneShot,
    generator: torch.Generator | None,
) -> Float[Tensor, "batch canvas vocab"]:
    """Give scores whose best token is a draw from the given ones' distribution.

    Adds Gumbel noise where there is a temperature, so that every way to read can draw. Half
    precision is left for float32 there, since a low temperature gives scores that it cannot hold.
    """
    if not settings.temperature:
        return logits
    uniform = torch.rand(
        logits.shape, generator=generator, device=logits.device, dtype=torch.float64
    )
    noise = -(-(uniform.clamp(1e-300, 1 - 1e-16)).log()).log()
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide / settings.temperature + noise.to(wide.dtype)


def forbid_(
    logits: Float[Tensor, "batch canvas vocab"], config: Any
) -> Float[Tensor, "batch canvas vocab"]:
    """Take from every place the tokens that no text holds; changes and gives ``logits``.

    A ``ctc`` canvas may hold its blank, a ``plain`` one BOS on its first place; a ``dag`` path
    begins with BOS and nothing else.
    """
    kind, begin = config.output_head, config.bos_token_id
    tokens = {config.pad_token_id, begin, config.mask_token_id} - {config.eos_token_id, None}
    if kind == "ctc":
        tokens.discard(config.mask_token_id)
    first = logits[:, :1].clone()
    logits[..., sorted(tokens)] = -torch.inf
    if kind != "ctc" and begin is not None:
        if kind == "dag":
            logits[:, 0] = -torch.inf
        logits[:, :1, begin] = first[..., begin]
    return logits


def read(
    logits: Float[Tensor, "batch canvas vocab"],
    lengths: Int[Tensor, " batch"],
    *,
    config: Any,
    settings: OneShot,
    drawn: Float[Tensor, "batch canvas vocab"] | None = None,
    transitions: Float[Tensor, "batch canvas canvas"] | None = None,
    rated: bool = True,
) -> Reading:
    """Read texts.

    Args:
        logits: Scores of every place, from ``forbid_``.
        lengths: Places of each canvas.
        config: ``ElmerConfig``: head and special tokens.
        settings: How to read.
        drawn: From ``tempered``; None takes the likeliest tokens.
        transitions: Steps of a path, for ``dag``.
        rated: Give log-probabilities; without them all scores are 0.
    """
    kind, fill = config.output_head, config.pad_token_id
    scores = logits if drawn is None else drawn
    if kind == "dag":
        assert transitions is not None
        walk = PATHS[settings.path]
        if settings.path in SEARCHES:
            walk = partial(walk, length_penalty=settings.length_penalty)
        tokens, _, places = walk(scores, transitions, canvas_lengths=lengths, pad=fill)
    else:
        tokens = scores.max(-1).indices  # twice as fast as argmax on a processor
        if kind == "ctc":
            blank = config.mask_token_id
            tokens, _, places = ctc_collapse(tokens, canvas_lengths=lengths, blank=blank, pad=fill)
        else:
            there = torch.arange(logits.shape[1], device=logits.device)
            places = torch.where(there < lengths[:, None], there, -1)
    if kind != "plain":  # where every place is read in turn, nothing need be copied
        rows = torch.arange(len(places), device=places.device)[:, None]
        logits = logits[rows, places.clamp(min=0)] if rated else logits
        scores = scores[rows, places.clamp(min=0)] if settings.no_repeat_ngram else scores
    if settings.no_repeat_ngram:
        tokens = without_repeats(scores, settings.no_repeat_ngram)
    gone = places < 0
    said = _said(logits, tokens) if rated else torch.zeros(tokens.shape, device=tokens.device)
    reading = Reading(tokens.masked_fill(gone, fill), places, said.masked_fill(gone, 0.0))
    begins = _begins(reading, config)
    ended = ((reading.tokens == config.eos_token_id) & ~begins).long().cumsum(-1)
    before = pad(ended[:, :-1], (1, 0)) > 0
    reading = reading.kept((reading.places >= 0) & ~before & ~begins, fill)
    if settings.collapse_repeats:
        last = pad(reading.tokens[:, :-1], (1, 0), value=-1)
        reading = reading.kept((reading.tokens != last) & (reading.places >= 0), fill)
    return reading


def _begins(reading: Reading, config: Any) -> Bool[Tensor, "batch length"]:
    """Mark the token that stands before a text."""
    first = reading.places == 0
    if config.output_head == "dag":
        return first
    begin, end = config.bos_token_id, config.eos_token_id
    return first & (reading.tokens == (-1 if begin is None or begin == end else begin))


def _said(
    logits: Float[Tensor, "batch length vocab"], tokens: Int[Tensor, "batch length"]
) -> Float[Tensor, "batch length"]:
    """Give the log-probabilities of tokens."""
    lost = cross_entropy(logits.flatten(0, 1).float(), tokens.flatten(), reduction="none")
    return -lost.view(tokens.shape)


def without_repeats(
    scores: Float[Tensor, "batch length vocab"], size: int
) -> Int[Tensor, "batch length"]:
    """Choose tokens from left to right, none that completes a row of ``size`` seen before.

    Example:
        >>> without_repeats(torch.tensor([[[2.0, 1.0], [2.0, 1.0]]]), 1).tolist()
        [[0, 1]]
    """
    chosen = []
    for row in scores:
        text: list[int] = []
        for place in row:
            start = text[len(text) - size + 1 :] if size > 1 else []
            repeats = {
                text[k + size - 1]
                for k in range(len(text) - size + 1)
                if text[k : k + size - 1] == start
            }
            allowed = place.clone()
            allowed[list(repeats)] = -torch.inf
            nothing = bool(allowed.amax() == -torch.inf)  # nothing new is left to say
            text.append(int((place if nothing else allowed).argmax()))
        chosen.append(text)
    return torch.tensor(chosen, device=scores.device)
