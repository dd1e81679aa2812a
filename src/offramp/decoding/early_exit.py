"""Leave each token's blocks as soon as an exit is sure.

In:  values that travel with a call of ``generate``. Out: texts, and which exit gave each token.
Law: a rule that never stops writes the text of plain decoding; with ``cache="defer"`` every block's
     cache holds what the whole model would have put there for the same tokens; a text does not
     depend on its batch mates (tests/decoding/test_early_exit.py).
Not here: whether an exit is sure (offramp.decoding.judge); which threshold keeps a
     risk (offramp.evaluation.calibration).
Source: Schuster et al. 2022, "CALM", arXiv:2207.07061 (rules, copied states); Bae et al. 2023,
     "FREE", arXiv:2310.05424, and Chen et al. 2023, "EE-LLM", arXiv:2312.04916 (states filled in
     later). Differs: the prompt always goes through all blocks, so the first new token is the
     last layer's.

A token that left at exit k waits there. The next token that goes on above k takes it along, in the
same products, so blocks above k have seen either all tokens before or none after some point: what
waits is always the end of the text, and the one rule of the cache holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from offramp.blocks.engines import Engine
from offramp.config import ORIGINAL, ExitName
from offramp.decoding.calibrated import CalibratedExit
from offramp.decoding.judge import BY_SCORES, RULES, Judge, Passage
from offramp.decoding.protocol import DecodingRule, LoopModel, StateView, Steps
from offramp.decoding.request import Text
from offramp.decoding.rules import Contrast
from offramp.decoding.steps import climb, embedded, unread
from offramp.errors import ConfigError
from offramp.logits.contrast import check_alpha


@dataclass(frozen=True, kw_only=True)
class EarlyExit:
    """Answer each token from the first exit that is sure enough.

    Attributes:
        rule: How sure an exit is: ``gate`` (learnt, costs one product with a vector),
            ``top_probability``, ``top_gap``, ``entropy`` (1 minus its share of the largest),
            ``saturation`` (cosine with the exit before), ``patience`` (so many exits in a row have
            the same best token), ``fixed`` (leave at the first of ``exits``), ``schedule``.
        threshold: Leave above this confidence, 0 to 1; 1 never stops. One for all exits, or one for
            each by number. None is what ``offramp calibrate`` found for the rule (nobody leaves if
            it found that no threshold keeps its bound), if the exits that it found it for may
            answer, with ``cache="defer"`` and no ``lower``; else, for ``gate``, the thresholds of
            the gates' training, at which they leave too. For ``patience`` the number of exits that
            must agree.
        exits: Which exits may answer; None is those that ``threshold=None`` was calibrated for,
            else all that are attached (of those with a gate, for ``gate``).
        min_exit: No exit below this one answers.
        cache: ``"defer"`` fills blocks that were left out when a later token needs them, exactly;
            ``"copy"`` lets them remember the state of the exit (CALM), which saves time with Llama,
            Mistral, Qwen2 and Qwen3 alone: other families' blocks are run to remember.
        schedule: Pairs (new token, exit), ascending in the first: from that token on the exit
            answers; for ``rule="schedule"``.
        lower: Contrast the exit that answers with this one, where it lies above it (ACD).
        alpha: Of that contrast: a token is plausible from this share of the best probability on.
        engine: What runs the blocks: ``"auto"``, ``"plain"``, ``"packed"`` (the matrices once more
            in memory, for several texts or drafts), ``"family"``, or, with the extra
            ``onnx``, ``"onnxruntime"``, ``"onnxruntime-int8"``, ``"onnxruntime-int4"``.

    Raises:
        ConfigError: A value is unknown or out of range.

    Example:
        >>> EarlyExit(rule="top_gap", threshold=0.8).cache
        'defer'
    """

    rule: str = "gate"
    threshold: float | Mapping[int, float] | None = None
    exits: tuple[int, ...] | None = None
    min_exit: int = 0
    cache: str = "defer"
    schedule: tuple[tuple[int, int], ...] = ()
    lower: int | None = None
    alpha: float = 0.1
    engine: str = "auto"

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ConfigError(f"no rule {self.rule!r}; use one of {', '.join(RULES)}")
        if self.cache not in ("defer", "copy"):
            raise ConfigError(f"cache must be 'defer' or 'copy', got {self.cache!r}")
        if (self.rule == "schedule") != bool(self.schedule):
            raise ConfigError(
                "rule 'schedule' and schedule go together; try rule='schedule', "
                "schedule=((0, 24), (50, 12))"
            )
        steps = [step for step, _ in self.schedule]
        if steps != sorted(set(steps)) or (steps and steps[0] != 0):
            raise ConfigError(f"schedule must begin at token 0 and go up, got tokens {steps}")
        for exit in self._named():
            if not isinstance(exit, int) or exit < 0:
                raise ConfigError(f"exits must be numbers from 0 up, got {exit!r}; try 12")
        check_alpha(self.alpha, minimum_candidates=1)
        self._check_threshold()

    def _check_threshold(self) -> None:
        if self.rule in ("fixed", "schedule"):
            if self.threshold is not None:
                raise ConfigError(f"rule {self.rule!r} has no threshold, got {self.threshold}")
            return
        if self.rule == "patience":
            if not isinstance(self.threshold, int) or self.threshold < 2:
                raise ConfigError(
                    "patience needs how many exits must agree as threshold, at least 2; got "
                    f"{self.threshold!r}"
                )
            return
        if self.threshold is None:
            return
        given = self.threshold if isinstance(self.threshold, Mapping) else {0: self.threshold}
        for value in given.values():
            if not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ConfigError(f"threshold must be from 0 to 1, got {value!r}; try 0.9")

    def check(self, model: LoopModel) -> None:
        """Refuse exits that the model does not have, or gates that nobody trained.

        Raises:
            ConfigError: No exit is left to answer, one is a ``block`` or has no gate, or nothing
                says how sure it must be.
            ExitNotFoundError: An exit does not exist or is not attached.
        """
        model.check_exits(self._named(), attached_only=self.rule == "gate")
        exits = self.answering(model)
        model.refuse_blocks((*exits, *(() if self.lower is None else (self.lower,))))
        if self.rule in (*BY_SCORES, "saturation") and self.thresholds(model) is None:
            raise ConfigError(
                f"rule {self.rule!r} needs a threshold from 0 to 1 where nobody calibrated it; try "
                "0.9"
            )
        if not exits and self.rule == "gate":
            raise ConfigError(
                "no exit of this model has a gate; train them by offramp train --gates, or use "
                "rule='top_gap'"
            )
        if not exits and self.rule != "schedule":
            raise ConfigError(
                f"no exit from {self.min_exit} to {model.depth - 1} may answer; attached: "
                f"{', '.join(map(str, model.exit_numbers)) or 'none'}"
            )
        if isinstance(self.threshold, Mapping):
            missing = [exit for exit in exits if exit not in self.threshold]
            if missing:
                raise ConfigError(f"no threshold for exits {missing}; give one for each")
        if self.rule == "gate":
            missing = [exit for exit in exits if model.exits[str(exit)].gate is None]
            if missing:
                raise ConfigError(
                    f"exits {missing} have no gate; train them by offramp train --gates, or use "
                    "rule='top_gap'"
                )

    def _named(self) -> tuple[int, ...]:
        """Give all exits that are asked for by number."""
        lower = () if self.lower is None else (self.lower,)
        return (*(self.exits or ()), *(exit for _, exit in self.schedule), *lower)

    def answering(self, model: LoopModel) -> tuple[int, ...]:
        """Give the exits below the last that may answer, ascending."""
        if self.rule == "schedule":
            exits = {exit for _, exit in self.schedule}
        elif self.exits is not None:
            exits = set(self.exits)
        elif (found := self._found(model)) is not None and found.thresholds is not None:
            exits = set(found.thresholds)
        else:
            exits = {
                exit
                for exit in model.exit_numbers
                if self.rule != "gate" or model.exits[str(exit)].gate is not None
            }
        lowest = max(self.min_exit, 1 if self.rule == "saturation" else 0)  # one state before it
        return tuple(sorted(exit for exit in exits if lowest <= exit < model.depth))

    def calibrated(self, model: LoopModel) -> Mapping[int, float] | None:
        """Give the thresholds that were found for some exits together, if these are they."""
        found, exits = self._found(model), self.answering(model)
        if found is None:
            return None
        if found.thresholds is None:
            return dict.fromkeys(exits, 1.0)
        return found.thresholds if tuple(found.thresholds) == exits else None

    def _found(self, model: LoopModel) -> CalibratedExit | None:
        """Give what calibration promised for a call like this one, if its exits may answer."""
        promised = self.threshold is None and self.cache == "defer" and self.lower is None
        if not promised or model.calibration is None:
            return None
        found = model.calibration.early_exit_by(self.rule)
        if found is not None and found.thresholds and min(found.thresholds) < self.min_exit:
            return None
        return found

    def thresholds(self, model: LoopModel) -> float | Mapping[int, float] | None:
        """Give what is asked for, else what was found; None leaves it to the gates."""
        return self.calibrated(model) if self.threshold is None else self.threshold

    def steps(self, model: LoopModel, engine: Engine) -> Steps:
        """Begin to write on an engine."""
        return _Loop(self, model, engine)


class _Loop:
    def __init__(self, plan: EarlyExit, model: LoopModel, engine: Engine) -> None:
        self.plan, self.model, self.engine = plan, model, engine
        self.exits = plan.answering(model)
        self.judge = Judge(
            model,
            engine,
            rule=plan.rule,
            exits=self.exits,
            threshold=plan.thresholds(model),
            schedule=plan.schedule,
        )
        self.depth = engine.anatomy.depth
        stops = {*self.exits, self.depth}
        if plan.lower is not None:
            stops.add(plan.lower)
        self.stops = sorted(stops - {0})

    def read(self, texts: Sequence[Text], counts: Sequence[int]) -> None:
        """Run the prompts through all blocks; the last layer answers those that are through."""
        self._step(texts, unread(texts, counts), whole=True)

    def step(self, texts: Sequence[Text]) -> None:
        """Add a token to each text.

        Tokens that wait at exit 0 are embedded once more: families that count places find where
        the new one stands by what the first block has seen.
        """
        waiting = [len(text.kept.get(0, ())) for text in texts]
        tokens = [text.tokens[-count - 1 :] for text, count in zip(texts, waiting, strict=True)]
        self._step(texts, tokens)

    def _step(
        self, texts: Sequence[Text], tokens: Sequence[Sequence[int]], *, whole: bool = False
    ) -> None:
        """Take the next tokens up, text by text as far as it must go, and answer each."""
        states = torch.split(embedded(self.engine, texts, tokens), [len(each) for each in tokens])
        going = [
            Passage(text, each if whole else each[-1:])
            for text, each in zip(texts, states, strict=True)
        ]
        at = 0
        self._note(going, 0)
        for stop in self.stops:
            if at == 0 and 0 in self.exits and not whole:
                going = self._leave(going, 0)
            if not going:
                return
            self._climb(going, at, stop)
            self._note(going, stop)
            at = stop
            if stop < self.depth and stop in self.exits and not whole:
                going = self._leave(going, stop)
        through = [each for each in going if each.text.read]
        if through:
            self._answer(through, self.depth, [1.0] * len(through))

    def _climb(self, going: Sequence[Passage], start: int, stop: int) -> None:
        """Take passages up, with what waits at ``start`` for the same texts."""
        for each in going:
            older = each.text.kept.pop(start, None)
            if older is not None:
                each.states = torch.cat((older, each.states))
        counts = [len(each.states) for each in going]
        states = torch.cat([each.states for each in going])
        texts = [each.text for each in going]
        states = climb(self.engine, states, (start, stop), texts, counts)[stop]
        for each, part in zip(going, torch.split(states, counts), strict=True):
            each.states = part

    def _note(self, going: Sequence[Passage], exit: int) -> None:
        """Keep the newest token's states at the exits that an answer will be made from."""
        for each in going:
            each.kept[exit] = each.states[-1:]

    def _leave(self, going: list[Passage], exit: int) -> list[Passage]:
        """Answer the texts that are sure here; give those that go on."""
        if not going:
            return going
        sure, confidence = self.judge.sure(going, exit)
        leaving = [each for each, yes in zip(going, sure, strict=True) if yes]
        if leaving:
            found = [value for value, yes in zip(confidence, sure, strict=True) if yes]
            self._rest(leaving, exit)
            self._answer(leaving, exit, found)
        return [each for each, yes in zip(going, sure, strict=True) if not yes]

    def _rest(self, leaving: Sequence[Passage], exit: int) -> None:
        """Leave the blocks above: remember the states there, or let them wait."""
        if self.plan.cache == "copy":
            pieces = [(each.text.row, len(each.states)) for each in leaving]
            states = torch.cat([each.states for each in leaving])
            run = self.engine.copy_up(states, exit, pieces)
            for each in leaving:
                each.text.run += run * len(each.states)
            return
        for each in leaving:
            older = each.text.kept.get(exit)
            parts = [each.states] if older is None else [older, each.states]
            each.text.kept[exit] = torch.cat(parts)

    def _answer(self, going: Sequence[Passage], exit: int, confidence: Sequence[float]) -> None:
        """Choose the next token of each text from one exit, contrasted where that is asked for."""
        name: ExitName = ORIGINAL if exit == self.depth else exit
        rule: DecodingRule | None = None
        lower = self.plan.lower
        if lower is not None and lower < exit:
            rule = Contrast(upper=name, lower=lower, alpha=self.plan.alpha)
        said = [each.said for each in going if each.said is not None]
        if rule is None and exit < self.depth and len(said) == len(going):
            scores = torch.stack(said)
        else:
            wanted = (exit,) if rule is None else (exit, int(lower or 0))
            states = {each: torch.cat([one.kept[each] for one in going]) for each in wanted}
            view: StateView = self.model.view_of(self.engine, states)
            scores = view.logits(name) if rule is None else rule.scores(view, self.model)
        for row, each in enumerate(going):
            token = each.text.pick(scores[row])
            each.text.score(token, scores[row])
            each.text.add(token, exit=exit, confidence=confidence[row])
