"""Write many texts at a time: whoever comes joins at the next step, whoever ends leaves.

In:  jobs, from asyncio. Out: tickets; a thread of its own computes.
Law: in float32 a text's tokens are those that ``generate`` writes with the same decoding, whatever
     runs beside it and whenever it joined (tests/server/test_batching.py).
Not here: who gets a slot (offramp.server.scheduling); steps (offramp.server.groups); HTTP.

Texts of the same decoding share steps; decodings take turns, a step each. Between two steps a
piece of the waiting prompts is read, so that those being written go on.
"""

import asyncio
import threading
from collections import deque
from contextlib import suppress
from functools import partial
from itertools import chain
from time import monotonic
from typing import Any

import torch

from offramp.blocks.engines import Engine, engine_for, engine_for_many
from offramp.decoding import Autoregressive
from offramp.decoding.protocol import DecodingLoop
from offramp.errors import Busy, ConfigError, InputError, OfframpError
from offramp.models.context import context_of
from offramp.models.multiexit import check_prompt, check_rule
from offramp.server.aside import aside
from offramp.server.groups import Group, fault
from offramp.server.jobs import Counts, Job, Reason, Ticket, Written
from offramp.server.scheduling import Room, admitted
from offramp.server.writing import Writing

LONE_PIECE = 256
"""Tokens of prompts that are read at once while no text is being written."""

News = list[tuple[Ticket, list[Written], Reason | None, OfframpError | None]]


class Batching:
    """Writes texts of one model.

    Args:
        model: A causal language model with exits.
        room: How many texts at a time, and how many may wait.
        engine: What runs the blocks where a decoding leaves it open.

    Raises:
        ConfigError: The model reads an encoder, or the engine does not fit.
    """

    def __init__(self, model: Any, *, room: Room | None = None, engine: str = "auto") -> None:
        if model.config.is_encoder_decoder:
            raise ConfigError(
                f"{model.config.model_type} reads a source with an encoder; texts are written "
                "together for causal language models only"
            )
        self._model, self.room, self._engine = model, room or Room(), engine
        self._engines: dict[str, Engine] = {}
        aside(partial(self._engine_of, engine))
        self._device = next(model.parameters()).device
        self._changed = threading.Condition()
        self._waiting: list[Writing] = []
        self._groups: deque[Group] = deque()
        self._closing = self._stopped = False
        self._seconds = 1.0
        self._thread = threading.Thread(target=self._work, name="offramp-writer", daemon=True)
        self._thread.start()

    async def submit(self, job: Job) -> Ticket:
        """Begin a text, or queue it; see ``Writers``."""
        loop = self._checked(job)
        context = context_of(self._model.config) or self.room.longest
        most = min(len(job.prompt) + job.max_new_tokens, context, self.room.longest)
        with self._changed:
            if self._closing:
                raise Busy("the server is closing; try another", retry_after=self._seconds)
            if len(self._waiting) >= self.room.waiting:
                delay = max(1.0, self._seconds * len(self._waiting) / self.room.slots)
                raise Busy(
                    f"{len(self._waiting)} texts are waiting for {self.room.slots} slots; try "
                    f"again in {delay:.0f} seconds",
                    retry_after=delay,
                )
            writing = Writing(
                job=job,
                loop=loop,
                ticket=Ticket(on_cancel=self._wake),
                home=asyncio.get_running_loop(),
                most=most,
            )
            self._waiting.append(writing)
            self._changed.notify_all()
        return writing.ticket

    def counts(self) -> Counts:
        """Tell how busy the writers are."""
        with self._changed:
            running = len(self._running())
            return Counts(
                running=running, waiting=len(self._waiting), free=self.room.slots - running
            )

    async def close(self, *, grace: float) -> None:
        """Take no more jobs, write on for ``grace`` seconds, then cancel what is left."""
        await asyncio.to_thread(self._close, grace)

    def _close(self, grace: float) -> None:
        with self._changed:
            self._closing = True
            self._changed.wait_for(lambda: not self._waiting and not self._groups, grace)
            for each in chain(self._waiting, self._running()):
                each.ticket.cancelled = True
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    def _checked(self, job: Job) -> DecodingLoop:
        """Refuse what the model cannot follow, and give the loop that decodes."""
        check_prompt(self._model, torch.tensor(job.prompt))
        vocab = self._model.get_input_embeddings().num_embeddings
        if not all(0 <= token < vocab for token in job.prompt):
            raise InputError(f"the prompt has tokens that are not ids from 0 to {vocab - 1}")
        if len(job.prompt) >= self.room.longest:
            raise InputError(
                f"the prompt has {len(job.prompt)} tokens, and there is room for "
                f"{self.room.longest}; shorten it"
            )
        rule = job.decoding
        if rule is not None:
            check_rule(self._model, rule)
        return rule if isinstance(rule, DecodingLoop) else Autoregressive(target=rule)

    def _running(self) -> list[Writing]:
        return [each for group in self._groups for each in group.writings]

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _engine_of(self, name: str) -> Engine:
        name = self._engine if name == "auto" else name
        if name not in self._engines:
            anatomy = self._model.anatomy
            with torch.no_grad():
                self._engines[name] = (
                    engine_for_many(anatomy) if name == "auto" else engine_for(anatomy, name)
                )
        return self._engines[name]

    def _work(self) -> None:
        """Write until stopped; nothing that goes wrong leaves a text without an end."""
        with torch.no_grad():
            while self._wait():
                try:
                    self._round()
                except Exception as error:
                    self._fail(fault(error))

    def _wait(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._groups or self._stopped)
            return bool(self._waiting or self._groups)

    def _fail(self, error: OfframpError) -> None:
        with self._changed:
            lost, self._groups = self._running(), deque()
            for each in lost:
                each.error = error
            self._tell(lost)
            self._changed.notify_all()

    def _round(self) -> None:
        """Let texts in, and go on with the group whose turn it is."""
        self._tell_all()
        self._admit()
        if not self._groups:
            return
        writes = any(group.writes for group in self._groups)
        group = self._groups[0]
        group.advance(self.room.piece if writes else max(LONE_PIECE, self.room.piece))
        with self._changed:
            self._groups.rotate(-1)
        self._tell_all()

    def _admit(self) -> None:
        """Give free slots to those who wait."""
        with self._changed:
            sizes = [each.most for each in self._running()]
            chosen = admitted([each.most for each in self._waiting], sizes, self.room)
            begun = [self._waiting.pop(place) for place in reversed(chosen)][::-1]
            for each in begun:
                try:
                    group = self._group_of(each.loop)
                    each.begin(group.engine, self._device)
                except Exception as error:
                    each.error = fault(error)
                    self._tell([each])
                else:
                    group.writings.append(each)
                    if group not in self._groups:
                        self._groups.append(group)

    def _group_of(self, loop: DecodingLoop) -> Group:
        """Give the group of a decoding, made anew where nobody else is decoded so."""
        for group in self._groups:
            if group.loop == loop:
                return group
        engine = self._engine_of(loop.engine)
        return Group(loop, engine, self._model)

    def _tell_all(self) -> None:
        """Hand over what is new, and let those go that have ended."""
        with self._changed:
            ended = [each for each in self._waiting if each.ticket.cancelled]
            self._waiting = [each for each in self._waiting if not each.ticket.cancelled]
            everyone = ended + self._running()
            gone = set(self._tell(everyone))
            for group in self._groups:
                group.writings = [each for each in group.writings if each not in gone]
            self._groups = deque(group for group in self._groups if group.writings)
            if gone:
                self._changed.notify_all()

    def _tell(self, writings: list[Writing]) -> list[Writing]:
        """Hand over what is new of some texts; give those that have ended."""
        news: dict[asyncio.AbstractEventLoop, News] = {}
        ended = []
        for each in writings:
            reason = each.ending
            fresh = each.news()
            if reason is not None:
                ended.append(each)
                self._seconds += 0.1 * (monotonic() - each.since - self._seconds)
            if fresh or reason is not None:
                news.setdefault(each.home, []).append((each.ticket, fresh, reason, each.error))
        for home, some in news.items():
            with suppress(RuntimeError):  # the reader's loop is closed: nobody reads any more
                home.call_soon_threadsafe(partial(_hand_over, some))
        return ended


def _hand_over(news: News) -> None:
    """Put tokens into their tickets, in the asyncio loop that these are used in."""
    for ticket, fresh, reason, error in news:
        for written in fresh:
            ticket.put(written)
        if reason is not None:
            ticket.end(reason, error)
