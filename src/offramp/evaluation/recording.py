"""Note for every token of some texts how sure each exit was, and whether it was right.

In:  a model with exits and texts. Out: a ``Recorded`` for each text, for a replay of early exit.
Law: confidences and answers are those of early exit on the same prefix, with states of the whole
     model below it; the numbers do not depend on batches, chunks or padding
     (tests/evaluation/test_recording.py).
Not here: what follows from them (offramp.evaluation.replay); the rules (offramp.logits.rules,
     offramp.blocks.gates).

The first token of a text is the last layer's in early exit, whatever exits say, since the prompt
goes through all blocks. So nobody is sure of it here: its confidences are 0.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from offramp.blocks.projections import Projection
from offramp.config import ORIGINAL
from offramp.decoding.early_exit import EarlyExit
from offramp.decoding.judge import BY_SCORES
from offramp.errors import ConfigError, InputError
from offramp.evaluation.reading import CHUNK, Batch, Positions, Reader, check_chunk, refuse_nan
from offramp.evaluation.replay import Recorded
from offramp.logits.rules import saturation

RECORDED_RULES = ("gate", *BY_SCORES, "saturation")
"""Rules of ``EarlyExit`` that have a confidence which can be compared with a threshold."""

Key: TypeAlias = tuple[int, ...]


def record(
    model: Any,
    batches: Iterable[Batch],
    *,
    rule: str = "gate",
    exits: Sequence[int] | None = None,
    chunk: int = CHUNK,
    advance: Callable[[int], None] = lambda rows: None,
) -> list[Recorded]:
    """Run texts through the model once, with all exits in use.

    Rows that begin with the same prompt (positions without a label) are answers to one question and
    hang together, so they are made one text. Rows without a prompt are a text each.

    Args:
        model: A model with exits, in any mode; it is given back in its own.
        batches: As for ``measure_exits``; what has no label is read, not recorded.
        rule: One of ``RECORDED_RULES``.
        exits: Ascending, below the last layer; None is ``recorded_exits``.
        chunk: Positions at a time, 1 or more; it changes memory and time, not the numbers.
        advance: Called after each batch with its number of rows.

    Returns:
        A text for each prompt that has a token to predict, in their order.

    Raises:
        ConfigError: The rule is unknown, an exit has no gate or gives NaN.
        ExitNotFoundError: The model does not have an exit.
        InputError: There is no token to predict.

    Example:
        >>> from offramp import attach_exits
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> config = LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8,
        ...     num_hidden_layers=3, num_attention_heads=2)
        >>> model = attach_exits(LlamaForCausalLM(config), (1, 2))
        >>> ids = torch.tensor([[1, 2, 3, 4]])
        >>> batch = {"input_ids": ids, "attention_mask": ids > 0, "labels": ids}
        >>> [each.agrees.shape for each in record(model, [batch], rule="top_gap")]
        [torch.Size([3, 2])]
    """
    check_chunk(chunk)
    asking = _Asking(model, rule, recorded_exits(model, rule) if exits is None else tuple(exits))
    found: dict[Key, list[Recorded]] = {}
    with asking.reader.reading():
        for batch in batches:
            for key, text in asking.texts(batch, chunk):
                found.setdefault(key or (-1, len(found)), []).append(text)
            advance(len(batch["input_ids"]))
    if not found:
        raise InputError("the text has no token to predict; give longer texts")
    return [
        Recorded(*(torch.cat(parts) for parts in zip(*rows, strict=True)))
        for rows in found.values()
    ]


def recorded_exits(model: Any, rule: str, asked: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """Give the exits that may answer by a rule: those below the last layer, for ``gate`` with one.

    Args:
        model: Has the exits.
        rule: One of ``RECORDED_RULES``.
        asked: Only these.

    Raises:
        ConfigError: There is none, one of those asked for cannot answer, or the rule is unknown.
        ExitNotFoundError: One of those asked for does not exist.
    """
    if rule not in RECORDED_RULES:
        raise ConfigError(
            f"no rule {rule!r} has a threshold; use one of {', '.join(RECORDED_RULES)}"
        )
    plan = EarlyExit(rule=rule, threshold=1.0, exits=asked)
    plan.check(model)
    return plan.answering(model)


class _Asking:
    """A rule and the exits that it asks."""

    def __init__(self, model: Any, rule: str, exits: tuple[int, ...]) -> None:
        self.model, self.rule, self.exits = model, rule, exits
        if rule not in RECORDED_RULES:
            recorded_exits(model, rule)
        if rule == "saturation" and 0 in exits:
            raise ConfigError("saturation compares an exit with the one before; leave out exit 0")
        below = (0,) if rule == "saturation" else ()
        self.reader = Reader(model, sorted({*exits, *below}))
        if rule == "gate":
            for exit in exits:
                _gate(self.reader.projections[exit], exit)

    def texts(self, batch: Batch, chunk: int) -> list[tuple[Key, Recorded]]:
        """Record the rows of a batch, each with its prompt."""
        positions = self.reader.run(batch)
        parts = [self._part(part) for part in positions.chunks(chunk)]
        if not len(positions.rows):
            return []
        confidence, agrees = (torch.cat(each) for each in zip(*parts, strict=True))
        found = []
        for row in sorted(set(positions.rows.tolist())):
            mine = (positions.rows == row).cpu()
            sure = confidence[mine]
            sure[0] = 0.0
            found.append((_prompt(batch, positions, row, self.model), Recorded(sure, agrees[mine])))
        return found

    def _part(
        self, part: Positions
    ) -> tuple[Float[Tensor, "tokens exits"], Bool[Tensor, "tokens exits"]]:
        view = self.reader.view(part)
        last = view.logits(ORIGINAL)[0].argmax(-1)
        sure, agrees = [], []
        before = 0
        for exit in self.exits:
            scores = view.logits(exit)[0]
            agrees.append((scores.argmax(-1).to(last.device) == last).cpu())
            pair = (before, exit)
            confidence = confidence_of(self.reader, part, rule=self.rule, pair=pair, scores=scores)
            refuse_nan(confidence, f"exit {exit}")
            sure.append(confidence.float().cpu())
            before = exit
        return torch.stack(sure, -1), torch.stack(agrees, -1)


def confidence_of(
    reader: Reader,
    part: Positions,
    *,
    rule: str,
    pair: tuple[int, int],
    scores: Float[Tensor, "tokens vocab"] | None,
) -> Float[Tensor, " tokens"]:
    """Ask one exit how sure it is, 0 to 1.

    Args:
        reader: Has the exit, and for ``saturation`` the one before it.
        part: Some positions.
        rule: One of ``RECORDED_RULES``.
        pair: The exit before it, and it.
        scores: What the exit says; only the rules in ``BY_SCORES`` need them.
    """
    before, exit = pair
    if rule in BY_SCORES and scores is not None:
        return BY_SCORES[rule](scores)
    state = part.of(part.states[exit])[0]
    if rule == "saturation":
        return saturation(state, part.of(part.states[before])[0].to(state.device))
    confidence: Tensor = _gate(reader.projections[exit], exit).confidence(state)
    return confidence


def _gate(projection: Projection, exit: int) -> Any:
    gate = getattr(projection, "gate", None)
    if gate is None:
        raise ConfigError(
            f"exit {exit} has no gate; train it by offramp train --gates, or use rule top_gap"
        )
    return gate


def _prompt(batch: Batch, positions: Positions, row: int, model: Any) -> Key:
    """Give what stands before the first label, without padding; nothing where all is recorded."""
    ids: Int[Tensor, " seq"] = batch["input_ids"][row]
    if not model.config.is_encoder_decoder:
        first = int(positions.columns[positions.rows == row][0]) + 1
        ids = ids[:first] if first > 1 else ids[:0]
        return tuple(ids[batch["attention_mask"][row, : len(ids)].bool()].tolist())
    return tuple(ids[batch["attention_mask"][row].bool()].tolist())
