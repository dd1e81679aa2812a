"""Send events while they come, and stop as soon as the client has left.

In:  async iterators and the connection. Out: a response of server-sent events.
Law: whatever ends a response, its source is closed before the request is done
     (tests/server/test_serving.py).
Not here: what the events say (offramp.server.openai).
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from fastapi.responses import Response
from starlette.types import Message, Receive, Scope, Send

T = TypeVar("T")
LEFT = 499
"""The status that is noted where a client left before its answer (that of nginx)."""
DONE = "[DONE]"


async def unless_left(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """Do some work, and cancel it once the client has left.

    Args:
        receive: Of the connection, whose body was read.
        work: To do.

    Returns:
        Its result, or None if the client left first.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(_left(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for each in (task, gone):
            each.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait({each})


async def _left(receive: Receive) -> None:
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            return


class EventStream(Response):
    """Server-sent events of JSON objects, with a last one that says ``[DONE]``.

    Args:
        source: Of the objects; it is closed when the response ends, however it ends.
    """

    media_type = "text/event-stream"

    def __init__(self, source: AsyncGenerator[Mapping[str, Any], None]) -> None:
        self.source = source
        self.status_code = 200
        self.background = None
        self.body = b""
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all events, unless the client leaves."""
        await unless_left(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": 200, "headers": self.raw_headers},
        )
        async with aclosing(self.source) as source:
            async for each in source:
                await send(_event(json.dumps(each, ensure_ascii=False, allow_nan=False)))
        await send(_event(DONE, more=False))


def _event(data: str, *, more: bool = True) -> Message:
    body = f"data: {data}\n\n".encode()
    return {"type": "http.response.body", "body": body, "more_body": more}


async def merged(
    sources: Sequence[AsyncGenerator[T, None]],
) -> AsyncGenerator[tuple[int, T | None], None]:
    """Give what several sources give, as it comes, with the number of the source.

    After its last, None is given for each source. All are closed when this is.
    """
    if len(sources) == 1:
        async with aclosing(sources[0]) as source:
            async for each in source:
                yield 0, each
        yield 0, None
        return
    queue: asyncio.Queue[tuple[int, T | None] | BaseException] = asyncio.Queue()

    async def pump(place: int) -> None:
        try:
            async with aclosing(sources[place]) as source:
                async for each in source:
                    queue.put_nowait((place, each))
            queue.put_nowait((place, None))
        except Exception as error:
            queue.put_nowait(error)

    tasks = [asyncio.create_task(pump(place)) for place in range(len(sources))]
    try:
        running = len(tasks)
        while running:
            found = await queue.get()
            if isinstance(found, BaseException):
                raise found
            running -= found[1] is None
            yield found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
