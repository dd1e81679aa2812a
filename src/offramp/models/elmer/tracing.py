"""Let an ELMER model trace a source: see its canvas layer by layer, and where each place left.

In:  a source or its tokens. Out: an ``offramp.trace.record.Trace`` of the canvas.
Law: the targets are the text that ``generate`` writes with the same settings, each from the exit
     that it notes; above the exit that a place left at nothing changes
     (tests/models/elmer/test_tracing.py).
Not here: what is asked and worked out (offramp.trace), leaving (.leaving), texts (.reading).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from offramp.config import ORIGINAL, ExitName
from offramp.decoding.oneshot import OneShot
from offramp.errors import ConfigError, ExitNotFoundError
from offramp.models.elmer.canvas import blank_canvas, mask_of
from offramp.models.elmer.decoder import sight_of
from offramp.models.elmer.leaving import Left, climb
from offramp.models.elmer.reading import Reading, forbid_, read
from offramp.models.elmer.request import limit_of
from offramp.models.elmer.writing import check_settings, room_for
from offramp.models.seeing import at_rest
from offramp.models.tracing import name_of, without_padding
from offramp.trace.asked import Places, Text, Words, check_top, exits_of, ids_of, places_of
from offramp.trace.reading import Asked, Gated, positions_of
from offramp.trace.record import Trace
from offramp.trace.values import TracedExit

ONE_PASS = {"refine_steps": 0, "lengths": 1, "temperature": 0.0}
"""Settings that would show several canvases, or another one each time."""


class CanvasTraces:
    """What an ELMER model needs to trace a source."""

    def trace(
        self,
        text: Text,
        *,
        tokenizer: Any = None,
        exits: Iterable[ExitName] | None = None,
        top: int = 5,
        positions: Places = 0,
        decoding: OneShot | None = None,
        **inputs: Any,
    ) -> Trace:
        """See what every layer would have written on the canvas, and where each place left.

        Args:
            text: One source, or its token ids.
            tokenizer: Needed for a text, and to show tokens as text.
            exits: Numbers, 0 to L; None is all from 1. The last layer is always there.
            top: How many of the best tokens each exit names, 1 to 100.
            positions: Of the canvas: 0 all, n the last n, a slice, or indices.
            decoding: How is written, and when places leave; None is all layers.
            **inputs: ``attention_mask``, ``max_new_tokens``, ``max_length``.

        Raises:
            ConfigError: A text came without tokenizer, or ``decoding`` asks for what the model
                lacks, for chance, or for more than one canvas.
            ExitNotFoundError: The model has no such exit.
            InputError: The source is empty or too long, or a position does not exist.
        """
        settings = decoding or OneShot()
        named = _exits(self, exits)
        ids, written = _written(self, text, tokenizer, settings, inputs)
        words = Words(tokenizer)
        places = places_of(positions, len(written.canvas))
        asked = Asked(
            exits=named,
            places=places,
            tokens=written.canvas,
            targets=written.targets(),
            left=written.left.exits[0].tolist(),
            top=check_top(top),
            rule=None,
            words=words,
        )
        with torch.no_grad():
            found = positions_of(_SeenCanvas(self, settings, written, tuple(places)), asked)
        own = None
        if tokenizer is not None:
            tokens = written.reading.tokens[0, : int(written.reading.lengths)].tolist()
            own = tokenizer.decode(tokens, skip_special_tokens=True)
        return Trace(
            kind="canvas",
            model=name_of(self),
            depth=_depth(self),
            exits=tuple(_described(exit) for exit in named),
            decoding=_named(settings),
            length=len(written.canvas),
            positions=found,
            source=tuple(map(words.token, ids)),
            text=own,
        )


@dataclass(frozen=True)
class _Written:
    """A canvas that was written on.

    Attributes:
        canvas: What stood on it before.
        passed: States at exits 0 to L, [1, N, D] each.
        left: Where each place left.
        reading: The text.
    """

    canvas: list[int]
    passed: Sequence[Tensor]
    left: Left
    reading: Reading

    def targets(self) -> list[int | None]:
        """Give the token that the text took from each place."""
        found: list[int | None] = [None] * len(self.canvas)
        tokens, places = self.reading.tokens[0].tolist(), self.reading.places[0].tolist()
        for token, place in zip(tokens, places, strict=True):
            if place >= 0:
                found[place] = token
        return found


def _written(
    model: Any, text: Text, tokenizer: Any, settings: OneShot, inputs: dict[str, Any]
) -> tuple[list[int], _Written]:
    """Write a canvas as ``generate`` does, and keep the states of all layers."""
    for name, only in ONE_PASS.items():
        if getattr(settings, name) != only:
            raise ConfigError(
                f"a trace shows one canvas, written once by its likeliest tokens: {name} must be "
                f"{only}, got {getattr(settings, name)}"
            )
    check_settings(model.config, settings)
    ids = ids_of(text, tokenizer, vocabulary=model.config.vocab_size)
    mask = inputs.pop("attention_mask", None)
    ids = ids if mask is None else without_padding(ids, mask)
    asked = inputs.pop("max_new_tokens", None)
    limit = limit_of(inputs, asked, own=model.generation_config, settings=settings)
    passed: list[Tensor] = []
    with at_rest(model):
        source = model.encode(torch.tensor([ids], device=model.device), None)
        lengths, _ = room_for(model, source, None, settings=settings, limit=limit)
        canvas = blank_canvas(model.config, lengths)
        left = climb(
            model, canvas, sight_of(source, None, mask_of(lengths)), settings, passed=passed
        )
        reading = _reading(model, left, lengths, settings)
    if limit is not None:
        keep = (reading.places >= 0).long().cumsum(-1) <= limit
        reading = reading.kept(keep & (reading.places >= 0), model.config.pad_token_id)
    return ids, _Written(canvas[0].tolist(), passed, left, reading)


def _reading(
    model: Any, left: Left, lengths: Int[Tensor, " canvases"], settings: OneShot
) -> Reading:
    """Read the text off the canvas."""
    dag = model.config.output_head == "dag"
    return read(
        forbid_(left.scored(model), model.config),
        lengths,
        config=model.config,
        settings=settings,
        transitions=model.steps(left.states, lengths) if dag else None,
        rated=False,
    )


class _SeenCanvas:
    """See ``offramp.trace.reading.SeenText``."""

    def __init__(
        self, model: Any, settings: OneShot, written: _Written, places: tuple[int, ...]
    ) -> None:
        self._model, self._settings, self._written = model, settings, written
        self._places = torch.tensor(places)

    def view(self, places: Int[Tensor, " some"]) -> "_CanvasView":
        """Let the layers speak about some places."""
        return _CanvasView(self._model, self._written.passed, self._places[places])

    def gate(self, exit: ExitName, places: Int[Tensor, " some"]) -> Gated | None:
        """Ask a layer's gate."""
        model, settings = self._model, self._settings
        if not model.config.gates or str(exit) not in model.gates:
            return None
        states = _cut(self._written.passed[int(exit)], self._places[places])
        given = settings.threshold if settings.exit_rule == "gate" else None
        return Gated.by(model.gates[str(exit)], states, given)


@dataclass(frozen=True)
class _CanvasView:
    """What layers say about some places; see ``offramp.decoding.protocol.ExitView``."""

    model: Any
    passed: Sequence[Tensor]
    places: Int[Tensor, " some"]

    def logits(self, exit: ExitName) -> Float[Tensor, "some vocab"]:
        """Score what may be written."""
        number = _depth(self.model) if exit == ORIGINAL else int(exit)
        scores = self.model.score(_cut(self.passed[number], self.places))
        # What may stand on the first place may stand nowhere else, so the rest comes behind one.
        first = int(self.places[0]) != 0
        laid = torch.cat([scores[:1], scores]) if first else scores
        return forbid_(laid[None], self.model.config)[0, int(first) :]

    def raw_logits(self, exit: ExitName) -> Float[Tensor, "some vocab"]:
        """Score the whole vocabulary."""
        return self.logits(exit)

    def gathered(
        self, exit: ExitName, tokens: Int[Tensor, "rows candidates"]
    ) -> Float[Tensor, "rows candidates"] | None:
        """Score a few tokens of each row."""
        return self.logits(exit).gather(-1, tokens)


def _cut(states: Float[Tensor, "1 canvas width"], places: Tensor) -> Float[Tensor, "some width"]:
    return states[0, places.to(states.device)]


def _depth(model: Any) -> int:
    return int(model.model.decoder.depth)


def _exits(model: Any, exits: Iterable[ExitName] | None) -> list[ExitName]:
    """Give the exits that are traced.

    Raises:
        ExitNotFoundError: One does not exist.
    """
    depth = _depth(model)
    named = exits_of(exits, (), depth)
    for exit in named:
        if exit != ORIGINAL and exit > depth:
            raise ExitNotFoundError(f"exit {exit} does not exist: the decoder has {depth} layers")
    return named


def _described(exit: ExitName) -> TracedExit:
    return TracedExit(exit=exit, projection=None if exit == ORIGINAL else "direct")


def _named(settings: OneShot) -> str | None:
    """Name what lets places leave, as the command line does."""
    if settings.exit_rule is None:
        return None
    threshold = settings.threshold
    return f"early exit {settings.exit_rule}" + ("" if threshold is None else f":{threshold:g}")
