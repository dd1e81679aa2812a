"""Decode by our own loop: one token at a time, or drafted by an exit and checked by the rest.

In:  values that travel with a call of ``generate``. Out: the same text as without drafts, sooner.
Law: offramp.decoding.loop.
Not here: drafts themselves (offramp.decoding.drafts).
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from offramp.blocks.engines import Engine
from offramp.blocks.machine import machine_facts
from offramp.decoding.calibrated import Calibrated
from offramp.decoding.drafts import (
    LONGEST_AUTO,
    DrafterDrafts,
    DraftSource,
    ExitDrafts,
    LookupDrafts,
    Patience,
)
from offramp.decoding.loop import checked_steps, deepest
from offramp.decoding.protocol import DecodingRule, LoopModel, Steps
from offramp.errors import ConfigError

DRAFTER: Literal["drafter"] = "drafter"
"""Names the trained drafter where an exit may draft, too."""

TIMED_ON = ("processor", "device", "dtype")
"""What must be the same for settings that were the fastest elsewhere to be taken."""


@dataclass(frozen=True, kw_only=True)
class Autoregressive:
    """Write token by token, by offramp's own loop, which is leaner than that of transformers.

    Attributes:
        target: ``Contrast``, ``DoLa`` or ``FixedExit``; None is the base's own head.
        engine: What runs the blocks: ``"auto"``, ``"plain"``, ``"packed"`` (the matrices once more
            in memory, for several texts or drafts), ``"family"``, or, with the extra
            ``onnx``, ``"onnxruntime"``, ``"onnxruntime-int8"``, ``"onnxruntime-int4"``.

    Raises:
        ConfigError: ``target`` is no rule that gives scores.

    Example:
        >>> Autoregressive().engine
        'auto'
    """

    target: DecodingRule | None = None
    engine: str = "auto"

    def __post_init__(self) -> None:
        _check_target(self.target)

    def check(self, model: LoopModel) -> None:
        """Refuse exits that the model does not have."""
        _check_exits(model, self.target)

    def steps(self, model: LoopModel, engine: Engine) -> Steps:
        """Begin to write on an engine."""
        return checked_steps(model, engine, rule=self.target)


@dataclass(frozen=True, kw_only=True)
class SelfSpeculation:
    """Draft with an early exit or the trained drafter, check with the rest: the same text, sooner.

    Attributes:
        draft_exit: The exit that drafts, or ``"drafter"``, the model's trained drafter. None is the
            drafter, too; but with nothing given at all, settings are those that ``offramp
            calibrate`` found to be fastest, if it found any; it times the engine of ``"auto"``.
        draft_length: Tokens of a draft at most; ``"auto"`` drafts on as long as the draft is more
            likely right than ``surest``.
        surest: See ``draft_length``; 0 to 1.
        draft_vocabulary: Ids that an exit may draft, such as the most frequent; None is all. A
            trained drafter has its own.
        lookup: Copy up to so many tokens from the text itself where its last three words stood
            before; 0 is never.
        target: ``Contrast``, ``DoLa`` or ``FixedExit``: its text is what is written; None is the
            base's own.
        engine: What runs the blocks: ``"auto"``, ``"plain"``, ``"packed"`` (the matrices once more
            in memory, for several texts or drafts), ``"family"``, or, with the extra
            ``onnx``, ``"onnxruntime"``, ``"onnxruntime-int8"``, ``"onnxruntime-int4"``.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> SelfSpeculation(draft_exit=12, draft_length=3).draft_length
        3
    """

    draft_exit: int | Literal["drafter"] | None = None
    draft_length: int | Literal["auto"] = "auto"
    surest: float = 0.4
    draft_vocabulary: tuple[int, ...] | None = None
    lookup: int = 0
    target: DecodingRule | None = None
    engine: str = "auto"

    def __post_init__(self) -> None:
        _check_target(self.target)
        if isinstance(self.draft_exit, str) and self.draft_exit != DRAFTER:
            raise ConfigError(
                f"draft_exit must be an exit number or {DRAFTER!r}, got {self.draft_exit!r}; try 12"
            )
        if self.draft_length != "auto" and not (
            isinstance(self.draft_length, int) and self.draft_length >= 1
        ):
            raise ConfigError(
                f"draft_length must be 'auto' or at least 1, got {self.draft_length!r}; try 2"
            )
        if not 0 <= self.surest <= 1:
            raise ConfigError(f"surest must be from 0 to 1, got {self.surest}; try 0.4")
        if self.lookup < 0:
            raise ConfigError(f"lookup must be 0 or more tokens, got {self.lookup}; try 4")
        if self.draft_vocabulary is not None and not self.draft_vocabulary:
            raise ConfigError("draft_vocabulary is empty; give ids, or None for all")
        if self.draft_vocabulary is not None and self.exit is None:
            raise ConfigError("the trained drafter has its own vocabulary; leave draft_vocabulary")

    def check(self, model: LoopModel) -> None:
        """Refuse exits that the model does not have, or an exit that cannot draft.

        Raises:
            ConfigError: No trained drafter, or the exit does not lie below what it drafts for.
            ExitNotFoundError: An exit does not exist or is not attached.
        """
        settled = self.settled(model)
        if settled is not self:
            return settled.check(model)
        _check_exits(model, self.target)
        top = deepest(model, self.target)
        if self.exit is None:
            if model.drafter is None:
                raise ConfigError(
                    "this model has no trained drafter; name an exit that drafts, such as "
                    f"draft_exit={max(1, model.depth // 3)}"
                )
            if top < model.depth:
                raise ConfigError("the drafter reads the last layer; name a draft_exit instead")
            return
        model.check_exits((self.exit,), attached_only=False)
        model.refuse_blocks((self.exit,))
        if not 0 < self.exit < top:
            raise ConfigError(
                f"draft_exit must be from 1 to {top - 1}, below what it drafts for; got {self.exit}"
            )

    @property
    def exit(self) -> int | None:
        """The exit that drafts; None is the drafter."""
        return None if isinstance(self.draft_exit, str) else self.draft_exit

    def settled(self, model: LoopModel) -> "SelfSpeculation":
        """Give these settings, or, where all is left open, those fastest on this machine."""
        calibration = model.calibration
        if calibration is None or self != SelfSpeculation():
            return self
        found = calibration.speculation
        if found is None or not found.used or not _timed_here(calibration, model):
            return self
        chosen = replace(
            self,
            draft_exit=found.draft_exit,
            draft_length=found.draft_length,
            surest=found.surest,
            lookup=found.lookup,
        )
        return self if chosen == self else chosen

    def steps(self, model: LoopModel, engine: Engine) -> Steps:
        """Begin to write on an engine.

        Raises:
            ConfigError: On this engine a token's scores depend on how many tokens run with it, so
                that drafts could change the text.
        """
        if not engine.repeatable:
            raise ConfigError(
                f"engine {engine.name!r} rounds states, so drafts could change the text; use "
                "'onnxruntime' or 'onnxruntime-int4', or Autoregressive on this engine"
            )
        source = self.settled(model)._source(model, engine)
        return checked_steps(model, engine, rule=self.target, source=source)

    def _source(self, model: LoopModel, engine: Engine) -> DraftSource:
        auto = self.draft_length == "auto"
        patience = Patience(
            longest=LONGEST_AUTO if self.draft_length == "auto" else self.draft_length,
            surest=self.surest if auto else 0.0,
        )
        source: DraftSource
        if self.exit is None:
            source = DrafterDrafts(model, engine, patience=patience)
        else:
            some: Tensor | None = None
            if self.draft_vocabulary is not None:
                device = next(engine.anatomy.stack.parameters()).device
                some = torch.tensor(self.draft_vocabulary, device=device)
            source = ExitDrafts(model, engine, exit=self.exit, patience=patience, vocabulary=some)
        return LookupDrafts(source, longest=self.lookup) if self.lookup else source


def _timed_here(calibration: Calibrated, model: LoopModel) -> bool:
    """Whether what was timed was timed on a machine like this one, as far as the file says."""
    here = machine_facts(model)
    return all(calibration.machine.get(name, here[name]) == here[name] for name in TIMED_ON)


def _check_target(target: object) -> None:
    if target is not None and not isinstance(target, DecodingRule):
        raise ConfigError(
            f"target must be Contrast, DoLa, FixedExit or None, got {type(target).__name__}"
        )


def _check_exits(model: LoopModel, target: DecodingRule | None) -> None:
    if target is not None:
        exits = target.exits(model)
        model.check_exits(exits, attached_only=target.attached_only)
        model.refuse_blocks(exits)
