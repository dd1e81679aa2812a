"""Compute beside the thread that writes, in threads that end with their work.

In:  work. Out: what it gives.
Law: no thread but the writer's keeps helpers for its products; turns are taken one at a time, in
     the order in which they were asked for (tests/server/test_aside.py).
Not here: the thread that writes (offramp.server.batching).

A thread that has multiplied keeps OpenMP's helpers until it ends. Once there are more threads of
that kind than processors, GNU's OpenMP lets all of them sleep between two products in place of
waiting awake: the writer then lost up to two thirds of its speed (docs/lab-log.md, 2026-11-22,
"helpers that sleep").
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Thread
from typing import TypeVar

from offramp.errors import Busy

T = TypeVar("T")

WAITING = 8
"""Pieces of work that may wait for their turn."""


def aside(work: Callable[[], T]) -> T:
    """Do it in a thread of its own, and wait.

    Example:
        >>> aside(lambda: 3)
        3
    """
    found: Future[T] = Future()

    def run() -> None:
        try:
            found.set_result(work())
        except BaseException as error:
            found.set_exception(error)

    thread = Thread(target=run, name="aside", daemon=True)  # Ctrl-C does not wait for it
    thread.start()
    thread.join()
    return found.result()


class Turns:
    """Work for several clients, one piece at a time; used from one asyncio loop.

    Args:
        name: Of the work, for those who have to come again.
    """

    def __init__(self, name: str) -> None:
        self._name, self._waiting = name, 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="turns")

    async def take(self, work: Callable[[], T]) -> T:
        """Do it when it is its turn; what is cancelled before is never begun.

        Raises:
            Busy: Too many wait already.
        """
        if self._waiting >= WAITING:
            raise Busy(
                f"{WAITING} {self._name} wait already; ask again in a second", retry_after=1.0
            )
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, aside, work)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Begin no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
