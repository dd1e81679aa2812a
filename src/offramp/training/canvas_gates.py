"""Train gates of an ELMER model: would this place still change its answer?

In:  a model whose exits were trained (``exit_loss="all"``), sources to fit on, sources held out.
     Out: a gate for each exit but the last, in place.
Law: nothing but the gates changes; no target is read; a threshold is the lowest that keeps the
     asked precision on the held-out texts (tests/training/test_canvas_gates.py).
Not here: fitting, balance, calibration and threshold, which are those of models that write token by
     token (offramp.training.gates); leaving (offramp.models.elmer.leaving).
Source: Schuster et al. 2022, "CALM", arXiv:2207.07061, section 3.4; Li et al. 2022, "ELMER",
     arXiv:2210.13304, section 3.3 (hard exit).

Canvases are those that ``generate`` makes of the sources. Of their places those count that reach a
text: for ``plain`` up to the first end token, for ``dag`` those on the path, for ``ctc`` all, also
blanks, since a blank in the wrong place joins or parts tokens. Counting all places would buy
precision with places behind the end or off the path, which are many, easy and never read.

For ``dag`` a place agrees if its best token and the step that it would take (the default reading's)
are both the last layer's: a place that leaves keeps the state that both are read off.

What is measured is each exit by itself, all places having come that far. In a text whose places
leave at different exits, those that stay see states that were copied upward, which no label knows
of: ``offramp evaluate --pairs FILE --early-exit gate`` measures whole texts.
"""

import logging
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from offramp.decoding.oneshot import OneShot
from offramp.errors import ConfigError, InputError
from offramp.models.elmer import ElmerForConditionalGeneration
from offramp.models.elmer.canvas import blank_canvas, mask_of
from offramp.models.elmer.leaving import add_gates_
from offramp.models.elmer.output import ElmerOutput
from offramp.models.elmer.reading import forbid_, read
from offramp.models.elmer.writing import room_for
from offramp.training.gates import Examples, GateReport, check_precision, settle_
from offramp.training.pairs import Pair, cut_sources, longest_source, told_of_cuts

_logger = logging.getLogger(__name__)

LEAST = 10
"""Positions without which nothing can be said."""


@dataclass(frozen=True, kw_only=True)
class CanvasGateSettings:
    """How gates are trained.

    Attributes:
        precision: Of the held-out tokens at which a gate says leave, at least this share agrees
            with the last layer; above 0, at most 1.
        positions: So many at most are fitted on, and so many at most measured on; their states at
            all exits are held in memory.
        batch_size: Sources at a time.
        max_source: Tokens of a source; more, or more than the model reads, are cut, and told of.
        seed: Decides which pairs are read where there are more positions.

    Raises:
        ConfigError: A value is out of its range.
    """

    precision: float = 0.95
    positions: int = 20_000
    batch_size: int = 32
    max_source: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        check_precision(self.precision)
        least = {"positions": LEAST, "batch_size": 1, "max_source": 1}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise ConfigError(f"{name} must be at least {lowest}, got {getattr(self, name)}")


def train_canvas_gates(
    model: Any,
    tokenizer: Any,
    *,
    pairs: Sequence[Pair],
    held_out: Sequence[Pair],
    settings: CanvasGateSettings | None = None,
    advance: Callable[[int], None] = lambda positions: None,
) -> list[GateReport]:
    """Give each exit but the last a gate that was fitted, calibrated and given a threshold.

    A model without gates has them afterwards, and says so in its configuration; gates that were
    there are trained anew. ``OneShot(exit_rule="gate")`` writes with them.

    Args:
        model: An ELMER model, its gates changed in place.
        tokenizer: Its own.
        pairs: Whose sources gates are fitted on.
        held_out: Whose sources thresholds are found on, and the report is made of; others.
        settings: How.
        advance: Called with the number of positions of each batch.

    Returns:
        A report for each exit, on the held-out positions that its threshold was found on.

    Raises:
        ConfigError: It is no ELMER model, or has one layer only.
        InputError: There are too few positions.
    """
    settings = settings or CanvasGateSettings()
    check_has_exits(model)
    looker = _Looker(model, tokenizer, settings)
    was = model.training
    model.eval()
    try:
        fitted = looker.look(pairs, "to train gates on", advance=advance)
        measured = looker.look(held_out, "held out to find thresholds on", advance=advance)
    finally:
        model.train(was)
    add_gates_(model)
    return [
        settle_(
            model.gates[str(exit)],
            fitted[exit],
            held_out=measured[exit],
            exit=exit,
            precision=settings.precision,
        )
        for exit in fitted
    ]


def check_has_exits(model: Any) -> None:
    """Refuse a model that gates are not for.

    Raises:
        ConfigError: It is no ELMER model, or has one layer only.
    """
    if not isinstance(model, ElmerForConditionalGeneration):
        kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        raise ConfigError(f"these gates are for ELMER models, this is a {kind}; leave gates out")
    if model.config.decoder_layers < 2:
        raise ConfigError(
            "a model with one decoder layer has no exit before the last; gates need two layers"
        )


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What the layers say on some canvases.

    Attributes:
        states: At exits 1 to L - 1, [B, N, D] each.
        agrees: Where their answers are the last layer's, [B, N] each.
        there: Places that exist, [B, N].
        counted: Of these, places that reach a text, [B, N].
    """

    states: tuple[Float[Tensor, "batch canvas width"], ...]
    agrees: tuple[Bool[Tensor, "batch canvas"], ...]
    there: Bool[Tensor, "batch canvas"]
    counted: Bool[Tensor, "batch canvas"]


@torch.no_grad()
def look(
    model: Any,
    input_ids: Int[Tensor, "batch source"],
    attention_mask: Int[Tensor, "batch source"],
) -> Looked:
    """Take the canvases of some sources through all layers, and compare the exits' answers.

    Args:
        model: An ELMER model.
        input_ids: Sources.
        attention_mask: Their tokens that exist.
    """
    source = model.encode(input_ids, attention_mask)
    lengths, _ = room_for(model, source, attention_mask, settings=OneShot())
    there = mask_of(lengths)
    output = model(
        encoder_outputs=BaseModelOutput(last_hidden_state=source),
        attention_mask=attention_mask,
        decoder_input_ids=blank_canvas(model.config, lengths),
        decoder_attention_mask=there,
    )
    states = output.decoder_hidden_states
    counted = there if model.config.output_head == "ctc" else _read(model, output, lengths)
    last = _answers(model, states[-1], lengths)
    agrees = [(_answers(model, each, lengths) == last).all(-1) for each in states[1:-1]]
    return Looked(states=states[1:-1], agrees=tuple(agrees), there=there, counted=counted)


def _answers(
    model: Any, states: Float[Tensor, "batch canvas width"], lengths: Int[Tensor, " batch"]
) -> Int[Tensor, "batch canvas parts"]:
    """Give what an exit says at each place: its best token, for ``dag`` also the next place."""
    scores = forbid_(model.score(states), model.config)
    parts = [scores.argmax(-1)]
    if model.config.output_head == "dag":
        said = scores.float().log_softmax(-1).amax(-1)
        parts.append((model.steps(states, lengths) + said[:, None]).argmax(-1))
    return torch.stack(parts, dim=-1)


def _read(
    model: Any, output: ElmerOutput, lengths: Int[Tensor, " batch"]
) -> Bool[Tensor, "batch canvas"]:
    """Mark the places that the last layer's text is read off."""
    assert output.logits is not None
    reading = read(
        forbid_(output.logits, model.config),
        lengths,
        config=model.config,
        settings=OneShot(),
        transitions=output.transitions,
    )
    found = torch.zeros_like(output.logits[..., 0], dtype=torch.bool)
    rows, columns = (reading.places >= 0).nonzero(as_tuple=True)
    found[rows, reading.places[rows, columns]] = True
    return found


class _Looker:
    """Collects states of exits, and whether their answers are the last layer's."""

    def __init__(self, model: Any, tokenizer: Any, settings: CanvasGateSettings) -> None:
        self._model, self._settings = model, settings
        self._tokenizer = deepcopy(tokenizer)  # it keeps how it cut and padded last
        self._longest = longest_source(settings.max_source, model.config)

    def look(
        self, pairs: Sequence[Pair], purpose: str, *, advance: Callable[[int], None]
    ) -> dict[int, Examples]:
        """Read pairs in random order until there are enough positions that count.

        Sources that are cut are told of in the log.

        Raises:
            InputError: There are too few.
        """
        settings, total, read, cut = self._settings, 0, 0, 0
        states: dict[int, list[Tensor]] = {}
        agrees: dict[int, list[Tensor]] = {}
        generator = torch.Generator().manual_seed(settings.seed)
        order = torch.randperm(len(pairs), generator=generator).tolist()
        for start in range(0, len(order), settings.batch_size):
            chosen = order[start : start + settings.batch_size]
            inputs, shortened = self._inputs([pairs[row].source for row in chosen])
            looked = look(self._model, *inputs)
            read, cut = read + len(chosen), cut + shortened
            parts = zip(looked.states, looked.agrees, strict=True)
            for exit, (state, agree) in enumerate(parts, start=1):
                states.setdefault(exit, []).append(state[looked.counted].float().cpu())
                agrees.setdefault(exit, []).append(agree[looked.counted].cpu())
            advance(int(looked.counted.sum()))
            total += int(looked.counted.sum())
            if total >= settings.positions:
                break
        if cut:
            whole = f"{read} pairs {purpose}"
            _logger.warning(told_of_cuts(cut, whole, self._longest, self._model.config))
        if total < LEAST:
            raise InputError(f"{total} positions {purpose} are too few; give at least {LEAST}")
        return {
            exit: Examples(
                states=torch.cat(states[exit])[: settings.positions],
                agrees=torch.cat(agrees[exit])[: settings.positions],
            )
            for exit in states
        }

    def _inputs(self, sources: list[str]) -> tuple[tuple[Tensor, Tensor], int]:
        """Turn sources into tokens and their mask, and count those that were cut."""
        ids, cut = cut_sources(sources, self._tokenizer, self._longest)
        made = self._tokenizer.pad({"input_ids": ids}, padding_side="right", return_tensors="pt")
        made = made.to(self._model.device)
        return (made["input_ids"], made["attention_mask"]), cut
