"""Let a model with exits trace a text: see what each of them would have said.

In:  a text or its tokens. Out: an ``offramp.trace.record.Trace``.
Law: a window of a text gives what the same positions of the whole give; padding and the chunks that
     positions are read in change nothing (tests/trace/test_reading.py).
Not here: what is asked and worked out (offramp.trace), canvases (offramp.models.elmer.tracing).
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from offramp.config import ORIGINAL, ExitName
from offramp.decoding.early_exit import EarlyExit
from offramp.decoding.protocol import DecodingRule
from offramp.errors import InputError
from offramp.models.context import context_of
from offramp.models.seeing import Seen, at_rest, see
from offramp.models.view import View
from offramp.trace.asked import Places, Text, Words, check_top, exits_of, ids_of, places_of
from offramp.trace.changes import rule_name, traced_rule
from offramp.trace.reading import Asked, Gated, positions_of
from offramp.trace.record import Trace
from offramp.trace.values import TracedExit


class TraceParts:
    """What a model with exits needs to trace a text."""

    def trace(
        self,
        text: Text,
        *,
        tokenizer: Any = None,
        exits: Iterable[ExitName] | None = None,
        top: int = 5,
        positions: Places = 0,
        decoding: object | None = None,
        **inputs: Any,
    ) -> Trace:
        """See what every exit would have said at every position of a text.

        Only the exits asked for are computed, at the positions asked for, a few at a time; the
        states of these, [exits, positions, D], are what is held of the whole text.

        Args:
            text: One text, or its token ids; of an encoder-decoder its source.
            tokenizer: Needed for a text, and to show tokens as text.
            exits: Numbers; None is those that are attached. The last layer is always there.
            top: How many of the best tokens each exit names, 1 to 100.
            positions: 0 all, n the last n, a slice, or indices.
            decoding: ``Contrast``, ``DoLa`` or ``FixedExit``, to see what it changes; None is what
                was chosen at loading, if anything was.
            **inputs: Other inputs of the model; of an encoder-decoder ``decoder_input_ids``, the
                text that is traced.

        Raises:
            ConfigError: A text came without tokenizer, ``decoding`` cannot be shown, or an exit
                gives NaN.
            ExitNotFoundError: The model has no such exit.
            InputError: The text is empty or too long, or a position does not exist.

        Example:
            >>> from offramp import attach_exits
            >>> from transformers import LlamaConfig, LlamaForCausalLM
            >>> config = LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8,
            ...     num_hidden_layers=3, num_attention_heads=2)
            >>> model = attach_exits(LlamaForCausalLM(config), (1, 2))
            >>> trace = model.trace([1, 2, 3], positions=2)
            >>> [position.index for position in trace.positions]
            [1, 2]
        """
        model: Any = self
        named = exits_of(exits, model.exit_numbers, model.depth)
        watched = model.check_exits(named, attached_only=False)
        rule = _rule_of(model, decoding)
        asked_by_rule = () if rule is None else rule.exits(model)
        watched = (*watched, *(exit for exit in asked_by_rule if exit != ORIGINAL))
        ids, given = _text_of(model, text, tokenizer, inputs)
        tokens = given["decoder_input_ids"][0].tolist() if _reads(model) else ids
        places = places_of(positions, len(tokens))
        words = Words(tokenizer)
        asked = Asked(
            exits=named,
            places=places,
            tokens=tokens,
            targets=[*tokens[1:], None],
            top=check_top(top),
            rule=None if rule is None else (rule, model),
            words=words,
        )
        with at_rest(model):
            seen = _see(model, sorted(set(watched)), places, given)
            found = positions_of(seen, asked)
        return Trace(
            kind="text",
            model=name_of(model),
            depth=model.depth,
            exits=tuple(_described(model, exit) for exit in named),
            decoding=None if rule is None else rule_name(rule),
            length=len(tokens),
            positions=found,
            source=tuple(map(words.token, ids)) if _reads(model) else (),
            text=None,
        )


@dataclass(frozen=True, kw_only=True)
class _SeenText:
    """See ``offramp.trace.reading.SeenText``."""

    seen: Seen
    gates: Mapping[int, tuple[Any, float | None]]

    def view(self, places: Int[Tensor, " some"]) -> View:
        return self.seen.cut(_cut(places)).view()

    def gate(self, exit: ExitName, places: Int[Tensor, " some"]) -> Gated | None:
        if exit == ORIGINAL or exit not in self.gates:
            return None
        gate, given = self.gates[exit]
        return Gated.by(gate, _cut(places)(self.seen.states[exit]), given)


def _see(model: Any, exits: list[int], places: list[int], inputs: Mapping[str, Any]) -> _SeenText:
    """Run the text and keep the positions that were asked for."""
    window = torch.tensor(places)

    def first_row(states: Float[Tensor, "1 seq width"]) -> Float[Tensor, "places width"]:
        return states[0].index_select(0, window.to(states.device))

    seen = see(model, exits, model.projections_of(exits), inputs).cut(first_row)
    return _SeenText(seen=seen, gates=_gates(model, exits))


def _cut(places: Int[Tensor, " some"]) -> Any:
    return lambda states: states[places.to(states.device)]


def _gates(model: Any, exits: Iterable[int]) -> dict[int, tuple[Any, float | None]]:
    """Give the gates of exits, and the thresholds that ``EarlyExit()`` has instead of theirs.

    An exit that it does not ask has 1, above which nobody is.
    """
    calibrated = EarlyExit().calibrated(model)
    return {
        exit: (projection.gate, None if calibrated is None else calibrated.get(exit, 1.0))
        for exit, projection in model.projections_of(exits).items()
        if projection.gate is not None
    }


def _rule_of(model: Any, decoding: object | None) -> DecodingRule | None:
    """Give the rule whose changes are shown.

    Raises:
        ConfigError: It cannot be shown.
        ExitNotFoundError: It asks for an exit that the model does not have.
    """
    given = model.default_decoding if decoding is None else decoding
    if given is None:
        return None
    rule = traced_rule(given)
    model.check_exits(rule.exits(model), attached_only=rule.attached_only)
    return rule


def _text_of(
    model: Any, text: Text, tokenizer: Any, inputs: dict[str, Any]
) -> tuple[list[int], dict[str, Any]]:
    """Give the tokens of a text, without padding, and the inputs of the base's forward.

    Raises:
        ConfigError: A text came without a tokenizer.
        InputError: There is no text, more than one, or it is too long.
    """
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = ids_of(text, tokenizer, vocabulary=vocabulary)
    mask = inputs.pop("attention_mask", None)
    if mask is not None:
        ids = without_padding(ids, mask)
    if _reads(model):
        if inputs.get("decoder_input_ids") is None:
            raise InputError(
                "an encoder-decoder has what its decoder reads traced; give decoder_input_ids, "
                "such as what generate wrote"
            )
        read = ids_of(inputs["decoder_input_ids"], None, vocabulary=vocabulary)
        inputs["decoder_input_ids"] = torch.tensor([read], device=model.device)
    context = context_of(model.config)
    longest = max(len(ids), len(read) if _reads(model) else 0)
    if context and longest > context:
        raise InputError(
            f"the text has {longest} tokens, the model's context {context}; shorten it"
        )
    return ids, {**inputs, "input_ids": torch.tensor([ids], device=model.device)}


def without_padding(ids: list[int], mask: Any) -> list[int]:
    """Leave out the tokens of one text that a mask does not mark.

    Raises:
        InputError: The mask is of another length, or marks nothing.
    """
    marks = [bool(each) for each in torch.as_tensor(mask).flatten().tolist()]
    if len(marks) != len(ids) or not any(marks):
        raise InputError(
            f"attention_mask must mark some of the {len(ids)} tokens, got {sum(marks)} of "
            f"{len(marks)}; leave it out for all"
        )
    return [token for token, there in zip(ids, marks, strict=True) if there]


def _reads(model: Any) -> bool:
    """Tell whether an encoder reads another text."""
    return bool(model.config.is_encoder_decoder)


def _described(model: Any, exit: ExitName) -> TracedExit:
    attached = {} if exit == ORIGINAL else model.projections_of((exit,))
    mode = attached[exit].mode.short if exit in attached else "direct"
    return TracedExit(exit=exit, projection=None if exit == ORIGINAL else mode)


def name_of(model: Any) -> str | None:
    """Name a model without the folders that it lies in; None for one that came from nowhere."""
    name: str = getattr(model, "name_or_path", "") or ""
    return (os.path.basename(os.path.normpath(name)) if os.path.isdir(name) else name) or None
