"""What the HTTP side asks for and gets: one text to write, and its tokens as they come.

In:  a ``Job``. Out: a ``Ticket``, which is iterated over in asyncio while a thread writes.
Law: a ticket ends exactly once, with a reason, after its last token (tests/server/test_jobs.py).
Not here: who writes (offramp.server.batching); what OpenAI calls these things
     (offramp.server.app and its parts).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from offramp.decoding.protocol import DecodingLoop, DecodingRule
from offramp.errors import Busy as Busy
from offramp.errors import ConfigError, InputError, OfframpError

Reason = Literal["stop", "length", "cancelled", "error"]
"""Why a text ended: at a stop token, at its longest, because it was cancelled, by a fault."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One text to write.

    Attributes:
        prompt: Token ids, at least one.
        max_new_tokens: At least 1; a text also ends where the model's positions do.
        decoding: ``Contrast``, ``DoLa``, ``FixedExit``, ``EarlyExit``, ``SelfSpeculation``, ...;
            None is the base's own head.
        temperature: 0 is greedy.
        top_p: The smallest set of tokens with this probability together is drawn from; above 0
            to 1.
        top_k: Only so many best tokens are drawn from; 0 is off.
        seed: Of this text alone: the same seed gives the same text whatever runs beside it. None
            is another one each time.
        stop_tokens: The text ends with one of these.
        logprobs: None: no log-probabilities; n: that of the token and those of the n best.

    Raises:
        ConfigError: A number is out of range.
        InputError: The prompt is empty.

    Example:
        >>> Job(prompt=(5, 3), max_new_tokens=8).temperature
        0.0
    """

    prompt: tuple[int, ...]
    max_new_tokens: int
    decoding: DecodingRule | DecodingLoop | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop_tokens: frozenset[int] = frozenset()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        if not self.prompt:
            raise InputError("the prompt has no tokens; give at least one")
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature must be 0 or more, got {self.temperature}; try 0.7")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be above 0 to 1, got {self.top_p}; try 0.95")
        if self.top_k < 0:
            raise ConfigError(f"top_k must be 0 (off) or more, got {self.top_k}; try 50")
        if self.logprobs is not None and self.logprobs < 0:
            raise ConfigError(f"logprobs must be 0 or more, got {self.logprobs}; try 5")


@dataclass(frozen=True, kw_only=True)
class Written:
    """One new token.

    Attributes:
        token: Its id.
        exit: The exit that gave it; L is the whole model.
        confidence: How sure that exit was, 0 to 1; 1 where nobody was asked.
        logprob: Its log-probability before temperature and cuts, where asked for.
        best: The best tokens with theirs, best first, where asked for.
    """

    token: int
    exit: int
    confidence: float
    logprob: float | None = None
    best: tuple[tuple[int, float], ...] = ()


class Ticket:
    """A text being written; used from one asyncio loop.

    Iterating gives each ``Written`` once. Whoever writes calls ``put`` and ``end``, in that loop.

    Attributes:
        reason: Why the text ended, set when the iteration has ended.
        error: What went wrong, with the reason ``"error"``.

    Args:
        on_cancel: Is called once, at the first ``cancel`` of a text that has not ended.

    Example:
        >>> async def told():
        ...     ticket = Ticket()
        ...     ticket.put(Written(token=7, exit=30, confidence=1.0))
        ...     ticket.end("stop")
        ...     return [each.token async for each in ticket], ticket.reason
        >>> asyncio.run(told())
        ([7], 'stop')
    """

    def __init__(self, *, on_cancel: Callable[[], None] | None = None) -> None:
        self.reason: Reason | None = None
        self.error: OfframpError | None = None
        self.cancelled = False
        self._on_cancel = on_cancel
        self._queue: asyncio.Queue[Written | None] = asyncio.Queue()
        self._ending: tuple[Reason, OfframpError | None] | None = None

    def __aiter__(self) -> AsyncIterator[Written]:
        return self

    async def __anext__(self) -> Written:
        if self.reason is not None:
            raise StopAsyncIteration
        written = await self._queue.get()
        if written is not None:
            return written
        assert self._ending is not None
        self.reason, self.error = self._ending
        raise StopAsyncIteration

    def cancel(self) -> None:
        """Ask that no more be written; the iteration ends within a step. A second time is none."""
        if self.cancelled or self._ending is not None:
            return
        self.cancelled = True
        if self._on_cancel is not None:
            self._on_cancel()

    def put(self, written: Written) -> None:
        """Hand over a token; nothing once the text has ended."""
        if self._ending is None:
            self._queue.put_nowait(written)

    def end(self, reason: Reason, error: OfframpError | None = None) -> None:
        """Say that no token will follow; only the first time counts."""
        if self._ending is None:
            self._ending = reason, error
            self._queue.put_nowait(None)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How busy the writers are.

    Attributes:
        running: Texts that have a slot.
        waiting: Texts that wait for one.
        free: Slots that nobody has.
    """

    running: int
    waiting: int
    free: int


class Writers(Protocol):
    """What the HTTP side sees of those who write."""

    async def submit(self, job: Job) -> Ticket:
        """Begin a text, or queue it.

        Raises:
            Busy: The queue is full.
            ConfigError: The model cannot follow the job's decoding.
            ExitNotFoundError: The decoding asks for an exit that the model does not have.
            InputError: The prompt does not fit the model's positions.
        """

    def counts(self) -> Counts:
        """Tell how busy they are."""

    async def close(self, *, grace: float) -> None:
        """Take no more jobs, write on for ``grace`` seconds, then cancel what is left."""
