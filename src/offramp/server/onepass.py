"""Write in one pass for all who wait: ELMER models, batched.

In:  sources and how they are written. Out: texts.
Law: a text is the one that its source gets alone; what is drawn at random is written alone, by its
     own seed (tests/server/test_generate.py).
Not here: writing (offramp.evaluation.seq2seq, offramp.models.elmer.writing).
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from offramp.decoding.oneshot import OneShot
from offramp.errors import Busy
from offramp.evaluation.seq2seq import Writer, WriteSettings, Written
from offramp.server.aside import aside

TOGETHER, WAITING = 16, 256
"""Texts that are written at a time, and that may wait."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """How some texts are written.

    Attributes:
        decoding: Settings of one pass.
        max_new_tokens: Longest text; None is what the canvas has room for.
        seed: Of draws.
    """

    decoding: OneShot
    max_new_tokens: int | None = None
    seed: int = 0

    @property
    def shared(self) -> bool:
        """Whether others with the same wish may be written along: nothing is drawn."""
        return not self.decoding.temperature


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    texts: tuple[str, ...]
    wish: Wish
    found: "asyncio.Future[list[Written]]"


class OnePass:
    """Writes for several clients; used from one asyncio loop, computes in a thread of its own.

    Args:
        model: An ELMER model.
        tokenizer: Of the model, for the use of this alone.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._queue: list[_Waiting] = []
        self._runner: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="one-pass")

    @property
    def waiting(self) -> int:
        """Texts that wait."""
        return sum(len(each.texts) for each in self._queue)

    async def write(self, texts: Sequence[str], wish: Wish) -> list[Written]:
        """Write a text for each source.

        Raises:
            Busy: Too many wait already.
            InputError: A source has no tokens, or more than the model reads.
            ConfigError: The model lacks what is wished for.
        """
        if self.waiting + len(texts) > WAITING:
            raise Busy(
                f"{self.waiting} texts are waiting for {WAITING} places; ask again in a second",
                retry_after=1.0,
            )
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._writer(wish).batches, texts)
        mine = _Waiting(texts=tuple(texts), wish=wish, found=loop.create_future())
        self._queue.append(mine)
        if self._runner is None or self._runner.done():
            self._runner = loop.create_task(self._run())
        try:
            return await mine.found
        finally:
            if mine in self._queue:
                self._queue.remove(mine)

    def close(self) -> None:
        """Write no more than what is being written."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        """Write until nobody waits."""
        loop = asyncio.get_running_loop()
        while self._queue:
            batch = self._taken()
            texts = [text for each in batch for text in each.texts]
            writer = self._writer(batch[0].wish)
            try:
                rows = await loop.run_in_executor(
                    self._thread, aside, partial(writer.write_all, texts)
                )
            except Exception as error:
                for each in batch:
                    if not each.found.done():
                        each.found.set_exception(error)
                continue
            for each in batch:
                mine, rows = rows[: len(each.texts)], rows[len(each.texts) :]
                if not each.found.done():
                    each.found.set_result(mine)

    def _taken(self) -> list[_Waiting]:
        """Take the longest waiting from the queue, with others who wish the same."""
        first = self._queue[0]
        batch, count = [first], len(first.texts)
        for each in self._queue[1:]:
            if first.wish.shared and each.wish == first.wish and count < TOGETHER:
                batch.append(each)
                count += len(each.texts)
        self._queue = [each for each in self._queue if each not in batch]
        return batch

    def _writer(self, wish: Wish) -> Writer:
        settings = WriteSettings(
            batch_size=TOGETHER,
            max_new_tokens=wish.max_new_tokens,
            decoding=wish.decoding,
            seed=wish.seed,
        )
        return Writer(self._model, self._tokenizer, settings)
