"""Score given texts by whatever exits answer.

In:  token ids that are given, and a decoding rule or ``EarlyExit``. Out: for each token that was
     asked about its log-probability, and whether it is the one that greedy decoding would write.
Law: the numbers are those that ``generate`` sees when it is made to write the same text; they
     depend neither on batches, padding nor chunks; no [tokens, V] table exists beyond a chunk
     (tests/evaluation/harness/test_scoring.py).
Not here: what is asked (offramp.evaluation.harness.requests).
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from offramp.blocks.watch import watch
from offramp.config import ORIGINAL, ExitName
from offramp.decoding.early_exit import EarlyExit
from offramp.decoding.protocol import DecodingRule
from offramp.decoding.rules import Contrast
from offramp.evaluation.harness.leaving import Leaving
from offramp.evaluation.harness.settings import Decoding
from offramp.evaluation.reading import CHUNK, Places, Positions, Reader, check_chunk, refuse_nan
from offramp.evaluation.tally import log_probabilities
from offramp.models.multiexit import check_rule
from offramp.models.view import View, keeper


class Scored(NamedTuple):
    """What was found for some tokens, in their order.

    Attributes:
        log_p: Natural logarithm of each one's probability; -inf: it is never written.
        greedy: Whether it is the best one there.
    """

    log_p: Float[Tensor, " tokens"]
    greedy: Bool[Tensor, " tokens"]


class Scorer:
    """One way to answer, on one model."""

    def __init__(self, model: Any, decoding: Decoding, *, chunk: int | None = None) -> None:
        """Take a model with exits.

        Args:
            model: In any mode; it is given back in its own.
            decoding: What answers; None is the base's own head.
            chunk: Positions whose scores exist at a time; None is 128.

        Raises:
            ConfigError: The rule cannot be followed on a given text.
            ExitNotFoundError: The model does not have an exit.
        """
        self.model, self.decoding = model, decoding
        self.chunk = CHUNK if chunk is None else chunk
        check_chunk(self.chunk)
        exits: tuple[ExitName, ...] = (ORIGINAL,)
        self.leaving: Leaving | None = None
        if decoding is not None:
            check_rule(model, decoding)
        if isinstance(decoding, EarlyExit):
            self.leaving = Leaving(model, decoding)
            exits = (*self.leaving.watched, ORIGINAL)
        elif decoding is not None:
            exits = decoding.exits(model)
        numbers = tuple(exit for exit in exits if exit != ORIGINAL)
        self.top = model.depth if ORIGINAL in exits else max(1, *numbers, 1)
        self.reader = Reader(model, numbers)

    def score(
        self, ids: Int[Tensor, "batch seq"], places: Places, *, tokens: Int[Tensor, " tokens"]
    ) -> Scored:
        """Score what follows some positions.

        Args:
            ids: Texts, padded on the right with anything.
            places: The positions, and the token that follows each.
            tokens: How many new tokens come before each of these; below 0: the last layer answers.
                Only early exit asks.
        """
        found = []
        with self.reader.reading():
            with self._blocks_above_left_out():
                positions = self.reader.look({"input_ids": ids.to(self.model.device)}, places)
            counted = torch.split(tokens, self.chunk)
            for part, some in zip(positions.chunks(self.chunk), counted, strict=True):
                found.append(self._part(part, some))
        return Scored(*(torch.cat(each) for each in zip(*found, strict=True)))

    def _blocks_above_left_out(self) -> AbstractContextManager[Any]:
        anatomy = self.model.anatomy
        if self.top == anatomy.depth:
            return nullcontext()
        return watch(anatomy, (), keep=keeper(0), run_head=True, last_block=self.top)

    def _part(self, part: Positions, tokens: Int[Tensor, " tokens"]) -> Scored:
        """Score one chunk; texts that left at different exits are asked about one after another."""
        log_p = torch.empty(len(part.rows), dtype=torch.float64)
        greedy = torch.empty(len(part.rows), dtype=torch.bool)
        for some, rule in self._ways(part, tokens):
            here = part if some is None else part.only(some)
            scores = self._scores(self.reader.view(here), rule)
            wanted = here.targets.to(scores.device)
            said = log_probabilities(scores).gather(-1, wanted[:, None])[:, 0]
            refuse_nan(said, "the last layer" if rule in (None, ORIGINAL) else f"{rule}")
            best = scores.argmax(-1) == wanted
            log_p[slice(None) if some is None else some] = said.double().cpu()
            greedy[slice(None) if some is None else some] = best.cpu()
        return Scored(log_p, greedy)

    def _ways(
        self, part: Positions, tokens: Int[Tensor, " tokens"]
    ) -> Iterator[tuple[Int[Tensor, " some"] | None, Any]]:
        """Give positions with who answers there: an exit, a rule, or None for the base's head."""
        if self.leaving is None:
            yield None, self.decoding
            return
        left = self.leaving.exits_of(part, self.reader, tokens)
        lower = self.leaving.plan.lower
        for exit in sorted(set(left.tolist())):
            name: ExitName = ORIGINAL if exit == self.model.depth else exit
            rule = Contrast(upper=name, lower=lower) if lower is not None and lower < exit else name
            yield (left == exit).nonzero()[:, 0], rule

    def _scores(self, view: View, rule: DecodingRule | ExitName | None) -> Float[Tensor, "_ vocab"]:
        if isinstance(rule, DecodingRule):
            return rule.scores(view, self.model)[0]
        return view.logits(ORIGINAL if rule is None else rule)[0]
