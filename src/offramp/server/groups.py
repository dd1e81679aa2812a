"""Texts of one decoding, which share steps.

In:  texts being written. Out: the same, a piece of a prompt or a token further.
Law: what goes wrong with one text ends that text only; the others go on as if it had not been
     there (tests/server/test_batching.py).
Not here: which group's turn it is (offramp.server.batching).
"""

import logging
from collections.abc import Callable, Sequence

from offramp.blocks.engines import Engine
from offramp.decoding import Autoregressive
from offramp.decoding.drafts import LookupDrafts
from offramp.decoding.loop import checked_steps
from offramp.decoding.protocol import DecodingLoop, LoopModel, Steps
from offramp.decoding.request import Text
from offramp.errors import OfframpError
from offramp.server.scheduling import shared
from offramp.server.writing import Writing

logger = logging.getLogger(__name__)

LOOKED_UP, FEW = 2, 1
"""A text alone in its step is drafted by copying two tokens from where its last three stood before:
three lines are multiplied in hardly more time than one (docs/lab-log.md, 2026-11-22)."""


class Group:
    """Texts of one decoding.

    Attributes:
        loop: The decoding.
        engine: Runs their blocks.
        writings: The texts that have a slot, in the order in which they came.

    Args:
        loop: The decoding.
        engine: Runs the blocks.
        model: Is asked for scores.
    """

    def __init__(self, loop: DecodingLoop, engine: Engine, model: LoopModel) -> None:
        self.loop, self.engine = loop, engine
        self._steps = _steps_of(loop, engine, model)
        self.writings: list[Writing] = []

    @property
    def writes(self) -> bool:
        """Whether a text of it is past its prompt."""
        return any(each.begun.read for each in self.writings)

    def advance(self, budget: int) -> None:
        """Add a token to each text that is past its prompt, then read on in prompts.

        Args:
            budget: Tokens of prompts.
        """
        writing = [each for each in self.writings if each.begun.read]
        if writing:
            self._attempt(writing, self._steps.step)
        reading = [each for each in self.writings if each.ending is None and not each.begun.read]
        if reading:
            left = [len(each.begun.tokens) - each.begun.taken for each in reading]
            counts = {
                id(each.begun): count
                for each, count in zip(reading, shared(left, budget), strict=True)
                if count
            }
            chosen = [each for each in reading if id(each.begun) in counts]
            self._attempt(
                chosen,
                lambda texts: self._steps.read(texts, [counts[id(text)] for text in texts]),
            )

    def _attempt(self, writings: Sequence[Writing], act: Callable[[Sequence[Text]], None]) -> None:
        """Do it for all together; where that fails, go back and do it for each alone."""
        marks = [each.begun.mark() for each in writings]
        try:
            act([each.begun for each in writings])
        except Exception as error:
            if len(writings) == 1:
                writings[0].error = fault(error)
                return
            for each, back in zip(writings, marks, strict=True):
                back()
                self._attempt([each], act)


def _steps_of(loop: DecodingLoop, engine: Engine, model: LoopModel) -> Steps:
    """Begin to decode; without drafts of its own, with those that cost next to nothing."""
    if isinstance(loop, Autoregressive) and engine.repeatable:
        source = LookupDrafts(None, longest=LOOKED_UP, texts=FEW)
        return checked_steps(model, engine, rule=loop.target, source=source)
    return loop.steps(model, engine)


def fault(error: Exception) -> OfframpError:
    """Give an error that a client may see; anything that is not ours is logged and not told.

    Example:
        >>> fault(KeyError("x")).args
        ('this text could not be written: an internal fault; the log of the server has it',)
    """
    if isinstance(error, OfframpError):
        return error
    logger.error("a text could not be written", exc_info=error)
    return OfframpError(
        "this text could not be written: an internal fault; the log of the server has it"
    )
