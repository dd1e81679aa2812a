"""Measure every exit of a model on a text, all in one pass of the base.

In:  a model with exits and batches of tokens with labels. Out: a ``Report``.
Law: the numbers are those of the whole tables of scores, [tokens, V] for each exit, of which only a
     chunk of positions of one exit and of the last layer exists at a time; they depend neither on
     batches, chunks nor padding (tests/evaluation/test_exits.py).
Not here: what is counted (offramp.evaluation.tally), the text (offramp.training.data).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from offramp.config import ORIGINAL, ExitName
from offramp.decoding.protocol import DecodingRule
from offramp.errors import InputError
from offramp.evaluation.reading import CHUNK, Batch, Positions, Reader, check_chunk, refuse_nan
from offramp.evaluation.report import NUMBERS, RULE_NUMBERS, Named, Report, Sums, report_of
from offramp.evaluation.tally import Last, judge, log_probabilities, losses, oracle_places
from offramp.models.multiexit import check_rule
from offramp.models.view import View


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
    meter = ExitMeter(model, exits=exits, rules=rules, chunk=chunk)
    total = meter.nothing()
    for batch in batches:
        total.merge(meter.count(batch))
        advance(len(batch["input_ids"]))
    return meter.report(total)


class ExitMeter:
    """Counts what exits say about batches, each for itself, so that many can share the work.

    Args:
        model: See ``measure_exits``.
        exits: As well.
        rules: As well.
        chunk: As well.

    Raises:
        ConfigError: ``chunk`` is below 1.
        ExitNotFoundError: The model does not have an exit.
    """

    def __init__(
        self,
        model: Any,
        *,
        exits: Iterable[int] | None = None,
        rules: Mapping[str, DecodingRule] | None = None,
        chunk: int = CHUNK,
    ) -> None:
        check_chunk(chunk)
        rules = rules or {}
        self.model, self.rules, self.chunk = model, rules, chunk
        self.depth: int = model.depth
        chosen = model.exit_numbers if exits is None else exits
        numbers = tuple(sorted(set(chosen))) or tuple(range(1, self.depth))
        self.exits: tuple[ExitName, ...] = (*numbers, ORIGINAL)
        asked = set(numbers)
        for rule in rules.values():
            check_rule(model, rule)
            asked.update(exit for exit in rule.exits(model) if exit != ORIGINAL)
        self.reader = Reader(model, asked)
        self.projections = self.reader.projections

    def nothing(self) -> Sums:
        """Give the sums of no batch."""
        return Sums.none(len(self.exits))

    def count(self, batch: Batch) -> Sums:
        """Run one batch and count its positions.

        Raises:
            ConfigError: An exit gives NaN.
        """
        with self.reader.reading():
            return self._count(batch)

    def report(self, sums: Sums) -> Report:
        """Turn the sums into what is reported.

        Raises:
            InputError: Nothing was counted.
        """
        if not sums.means.tokens:
            raise InputError(
                "the text has no token to predict: every label is -100 or every row a single "
                "token; give longer texts"
            )
        named = tuple(map(self._named, self.exits))
        return report_of(sums, exits=named, rules=tuple(self.rules), depth=self.depth)

    def _count(self, batch: Batch) -> Sums:
        total = self.nothing()
        positions = self.reader.run(batch)
        sums = torch.zeros(len(batch["labels"]), len(self.exits), len(NUMBERS), dtype=torch.float64)
        rule_sums = torch.zeros(len(sums), len(self.rules), len(RULE_NUMBERS), dtype=torch.float64)
        for part in positions.chunks(self.chunk):
            view = self.reader.view(part)
            rows = part.rows.cpu()
            sums.index_add_(0, rows, self._numbers(part, view, total).cpu())
            if self.rules:
                rule_sums.index_add_(0, rows, self._rule_numbers(part, view).cpu())
        tokens = positions.rows.cpu().bincount(minlength=len(sums))
        total.means.add(sums, tokens)
        total.rule_means.add(rule_sums, tokens)
        return total

    def _named(self, exit: ExitName) -> Named:
        gate = self._gate(exit)
        return Named(
            exit=exit,
            projection=None if exit == ORIGINAL else self.projections[exit].mode.short,
            threshold=None if gate is None else float(gate.threshold),
        )

    def _gate(self, exit: ExitName) -> Any:
        return None if exit == ORIGINAL else getattr(self.projections[exit], "gate", None)

    def _numbers(
        self, part: Positions, view: View, total: Sums
    ) -> Float[Tensor, "tokens exits numbers"]:
        """Judge every exit at some positions; exits one after the other, for the memory."""
        last = Last.of(view.logits(ORIGINAL)[0])
        targets = part.targets.to(last.best.device)
        found, agreeing = [], []
        for exit in self.exits:
            said = last.log_p
            if exit != ORIGINAL:
                said = log_probabilities(view.logits(exit)[0].to(said.device))
            judged = judge(said, last, targets)
            refuse_nan(judged.loss, f"exit {exit}")
            stops = torch.zeros_like(judged.agrees)
            if (gate := self._gate(exit)) is not None:
                state = part.of(part.states[exit])[0]  # type: ignore[index]
                stops = gate.leaves(gate.confidence(state)).to(said.device)
            agreeing.append(judged.agrees)
            numbers = judged._asdict() | {"stops": stops, "stops_rightly": stops & judged.agrees}
            found.append(torch.stack([numbers[name].double() for name in NUMBERS], -1))
        table = torch.stack(found, 1)
        chosen = table[..., NUMBERS.index("confidence")], table[..., NUMBERS.index("correct")]
        total.calibration.add(*chosen)
        places = oracle_places(torch.stack(agreeing, -1))
        total.oracle += places.cpu().bincount(minlength=len(self.exits))
        return table

    def _rule_numbers(self, part: Positions, view: View) -> Float[Tensor, "tokens rules 2"]:
        """Give the loss of every rule at some positions, and where it calls a token impossible."""
        found = []
        for name, rule in self.rules.items():
            log_p = log_probabilities(rule.scores(view, self.model)[0])
            loss = losses(log_p, part.targets.to(log_p.device))
            refuse_nan(loss, name)
            impossible = loss.isinf()
            found.append(torch.stack((loss.masked_fill(impossible, 0), impossible.double()), -1))
        return torch.stack(found, 1)
