"""Measure every exit of a model on a text, all in one pass of the base.

In:  a model with exits and batches of tokens with labels. Out: a ``Report``.
Law: the numbers are those of the whole tables of scores, [tokens, V] for each exit, of which only a
     chunk of positions of one exit and of the last layer exists at a time; they depend neither on
     batches, chunks nor padding (tests/evaluation/test_exits.py).
Not here: what is counted (offramp.evaluation.tally), the text (offramp.training.data).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from offramp.blocks.anatomy import Anatomy
from offramp.blocks.projections import Block, Direct, Projection
from offramp.blocks.watch import Watched, watch
from offramp.config import ORIGINAL, ExitName
from offramp.decoding.protocol import DecodingRule
from offramp.errors import ConfigError, InputError
from offramp.evaluation.report import NUMBERS, RULE_NUMBERS, Named, Report, Sums, report_of
from offramp.evaluation.tally import Last, judge, log_probabilities, losses, oracle_places
from offramp.models.multiexit import check_rule
from offramp.models.view import View, keeper
from offramp.training.positions import NO_LABEL, aligned

CHUNK = 128
"""Positions at a time: 25 MB of float32 scores for a vocabulary of 50,000, of which about six
tables exist at once. More took no less time on a processor."""

Batch = Mapping[str, Tensor]
"""``input_ids``, ``attention_mask`` and ``labels``, each [B, T]; labels are not shifted."""


def measure_exits(
    model: Any,
    batches: Iterable[Batch],
    *,
    exits: Iterable[int] | None = None,
    rules: Mapping[str, DecodingRule] | None = None,
    chunk: int = CHUNK,
    advance: Callable[[int], None] = lambda rows: None,
) -> Report:
    """Measure exits, and ways to decode, on a text.

    Args:
        model: A model with exits (``attach_exits``), in any mode; it is given back in its own.
        batches: Tokens, padded on the right; position t is to predict ``labels[:, t + 1]``, of an
            encoder-decoder ``labels[:, t]``, and a label of -100 is not counted.
        exits: Numbers, 0 to L; one that is not attached is read as ``direct``. None: those that are
            attached, or with none attached every one from 1 to L - 1.
        rules: Ways to decode by the name that they get in the report.
        chunk: Positions at a time, 1 or more; it changes memory and time, not the numbers.
        advance: Called after each batch with its number of rows.

    Raises:
        ConfigError: An exit gives NaN, or ``chunk`` is below 1.
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
        >>> [each.exit for each in measure_exits(model, [batch]).exits]
        [1, 2, 'original']
    """
    if chunk < 1:
        raise ConfigError(f"chunk must be 1 or more positions, got {chunk}; try {CHUNK}")
    measuring = _Measuring(model, exits, rules or {}, chunk)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                measuring.add(batch)
                advance(len(batch["input_ids"]))
    finally:
        model.train(was_training)
    return measuring.report()


class _Ran(Direct):
    """A ``block`` exit whose block has been run, on all positions, before they are cut."""

    def __init__(self, state: Float[Tensor, "1 tokens width"]) -> None:
        super().__init__()
        self.state = state

    def prepare(
        self, anatomy: Anatomy, state: Float[Tensor, "*rows width"]
    ) -> Float[Tensor, "*rows out"]:
        """Give what the head reads."""
        return anatomy.finish(self.state)


@dataclass(frozen=True)
class _Positions:
    """The states of one batch, [B, T, D], and the positions in it that are counted."""

    states: dict[int, Tensor]
    ran: dict[int, Tensor]
    """What the blocks of ``block`` exits made of their states."""
    finished: Tensor
    rows: Int[Tensor, " tokens"]
    columns: Int[Tensor, " tokens"]
    targets: Int[Tensor, " tokens"]

    def of(self, states: Float[Tensor, "batch seq width"]) -> Float[Tensor, "1 tokens width"]:
        """Take the positions out of states."""
        return states[self.rows.to(states.device), self.columns.to(states.device)][None]

    def chunks(self, size: int) -> Iterator["_Positions"]:
        """Cut the positions, not the states."""
        cut = (torch.split(each, size) for each in (self.rows, self.columns, self.targets))
        for rows, columns, targets in zip(*cut, strict=True):
            yield replace(self, rows=rows, columns=columns, targets=targets)


class _Measuring:
    """The sums over all batches so far."""

    def __init__(
        self,
        model: Any,
        exits: Iterable[int] | None,
        rules: Mapping[str, DecodingRule],
        chunk: int,
    ) -> None:
        self.model, self.rules, self.chunk = model, rules, chunk
        self.anatomy: Anatomy = model.anatomy
        chosen = model.exit_numbers if exits is None else exits
        numbers = tuple(sorted(set(chosen))) or tuple(range(1, self.anatomy.depth))
        model.check_exits(numbers, attached_only=False)
        self.exits: tuple[ExitName, ...] = (*numbers, ORIGINAL)
        asked = set(numbers)
        for rule in rules.values():
            check_rule(model, rule)
            asked.update(exit for exit in rule.exits(model) if exit != ORIGINAL)
        self.projections: dict[int, Projection] = {
            exit: model.exits[str(exit)] if str(exit) in model.exits else Direct() for exit in asked
        }
        self.sums = Sums.none(len(self.exits))

    def add(self, batch: Batch) -> None:
        """Run one batch and count its positions."""
        positions = self._run({name: each.to(self.model.device) for name, each in batch.items()})
        sums = torch.zeros(len(batch["labels"]), len(self.exits), len(NUMBERS), dtype=torch.float64)
        rule_sums = torch.zeros(len(sums), len(self.rules), len(RULE_NUMBERS), dtype=torch.float64)
        for part in positions.chunks(self.chunk):
            view = self._view(part)
            rows = part.rows.cpu()
            sums.index_add_(0, rows, self._numbers(part, view).cpu())
            if self.rules:
                rule_sums.index_add_(0, rows, self._rule_numbers(part, view).cpu())
        tokens = positions.rows.cpu().bincount(minlength=len(sums))
        self.sums.means.add(sums, tokens)
        self.sums.rule_means.add(rule_sums, tokens)

    def report(self) -> Report:
        """Turn the sums into what is reported.

        Raises:
            InputError: Nothing was counted.
        """
        if not self.sums.means.tokens:
            raise InputError(
                "the text has no token to predict: every label is -100 or every row a single "
                "token; give longer texts"
            )
        named = tuple(map(self._named, self.exits))
        return report_of(self.sums, exits=named, rules=tuple(self.rules), depth=self.anatomy.depth)

    def _named(self, exit: ExitName) -> Named:
        gate = self._gate(exit)
        return Named(
            exit=exit,
            projection=None if exit == ORIGINAL else self.projections[exit].mode.short,
            threshold=None if gate is None else float(gate.threshold),
        )

    def _gate(self, exit: ExitName) -> Any:
        return None if exit == ORIGINAL else getattr(self.projections[exit], "gate", None)

    def _run(self, batch: Batch) -> _Positions:
        """Run the base without its head, and every extra block."""
        inputs, depth = aligned(batch, self.model), self.anatomy.depth
        labels = inputs.pop("shift_labels")
        del inputs["labels"]
        blocks = [exit for exit, each in self.projections.items() if isinstance(each, Block)]
        watching = watch(
            self.anatomy,
            tuple(self.projections),
            keep=keeper(0),
            run_head=False,
            last_block=depth,
            calls=(depth - 1,) if blocks else (),
        )
        with watching as seen:
            type(self.model).base_forward(self.model, **inputs, use_cache=False, return_dict=True)
        rows, columns = (labels != NO_LABEL).nonzero(as_tuple=True)
        ran = {}
        for exit in blocks:
            block: Any = self.projections[exit]
            ran[exit] = block.run(seen.states[exit], seen.calls[depth - 1])
        return _Positions(seen.states, ran, seen.finished(), rows, columns, labels[rows, columns])

    def _view(self, part: _Positions) -> View:
        """Give the exits' view of some positions."""
        ran = {exit: _Ran(part.of(each)) for exit, each in part.ran.items()}
        seen = Watched()
        seen.states.update({exit: part.of(each) for exit, each in part.states.items()})
        seen.head_input = part.of(part.finished)
        return View(
            anatomy=self.anatomy,
            seen=seen,
            projections={**self.projections, **ran},
            keep=keeper(0),
            base_logits=None,
        )

    def _numbers(self, part: _Positions, view: View) -> Float[Tensor, "tokens exits numbers"]:
        """Judge every exit at some positions; exits one after the other, for the memory."""
        last = Last.of(view.logits(ORIGINAL)[0])
        targets = part.targets.to(last.best.device)
        found, agreeing = [], []
        for exit in self.exits:
            said = last.log_p
            if exit != ORIGINAL:
                said = log_probabilities(view.logits(exit)[0].to(said.device))
            judged = judge(said, last, targets)
            _refuse_nan(judged.loss, f"exit {exit}")
            stops = torch.zeros_like(judged.agrees)
            if (gate := self._gate(exit)) is not None:
                state = part.of(part.states[exit])[0]  # type: ignore[index]
                stops = (gate.confidence(state) >= gate.threshold).to(said.device)
            agreeing.append(judged.agrees)
            numbers = judged._asdict() | {"stops": stops, "stops_rightly": stops & judged.agrees}
            found.append(torch.stack([numbers[name].double() for name in NUMBERS], -1))
        table = torch.stack(found, 1)
        chosen = table[..., NUMBERS.index("confidence")], table[..., NUMBERS.index("correct")]
        self.sums.calibration.add(*chosen)
        places = oracle_places(torch.stack(agreeing, -1))
        self.sums.oracle += places.cpu().bincount(minlength=len(self.exits))
        return table

    def _rule_numbers(self, part: _Positions, view: View) -> Float[Tensor, "tokens rules 2"]:
        """Give the loss of every rule at some positions, and where it calls a token impossible."""
        found = []
        for name, rule in self.rules.items():
            log_p = log_probabilities(rule.scores(view, self.model)[0])
            loss = losses(log_p, part.targets.to(log_p.device))
            _refuse_nan(loss, name)
            impossible = loss.isinf()
            found.append(torch.stack((loss.masked_fill(impossible, 0), impossible.double()), -1))
        return torch.stack(found, 1)


def _refuse_nan(numbers: Tensor, what: str) -> None:
    if numbers.isnan().any():
        raise ConfigError(
            f"{what} gives NaN instead of scores; load the model in float32 (--dtype float32)"
        )
