"""Read texts while they are written, and count.

In:  tickets of a writer. Out: pieces of text, or all of each text.
Law: whatever ends a reading, its writer is told to stop (tests/server/test_serving.py).
Not here: how pieces are sent (offramp.server.events).
"""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from offramp.server.errors import Refusal, closing, refusal_of
from offramp.server.events import merged
from offramp.server.jobs import Ticket
from offramp.server.metrics import ModelMetrics
from offramp.server.transcript import Ending, Piece, Token, Transcript


@dataclass
class Reading:
    """A text that a writer is at work on, and what is read of it.

    Attributes:
        ticket: Where its tokens come from.
        transcript: What was read so far.
        prompt: Tokens of its prompt.
        seen: Exits of its tokens, the one that ended it included.
    """

    ticket: Ticket
    transcript: Transcript
    prompt: int
    seen: list[int] = field(default_factory=list)

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """Give piece after piece; the writer is told to stop if nobody reads on.

        Raises:
            Refusal: The writer has failed, or the server is shutting down.
        """
        try:
            async for written in self.ticket:
                self.seen.append(written.exit)
                piece = self.transcript.add(written)
                if piece.text or piece.tokens:
                    yield piece
                if self.transcript.ending is not None:
                    return
        finally:
            self.ticket.cancel()
        piece = self.transcript.end(self._ending())
        if piece.text or piece.tokens:
            yield piece

    def _ending(self) -> Ending:
        reason = self.ticket.reason
        if reason in ("stop", "length"):
            return reason
        if reason == "cancelled":
            raise closing()
        if self.ticket.error is None:
            raise Refusal(500, "this text could not be finished; ask again")
        raise refusal_of(self.ticket.error)


async def watched(
    readings: Sequence[Reading], watch: ModelMetrics, *, begun: float
) -> AsyncGenerator[tuple[int, Piece | None], None]:
    """Read several texts as they come; None is given after the last piece of each.

    Args:
        readings: Of the texts.
        watch: Counts.
        begun: When the request came, by ``time.perf_counter``.

    Raises:
        Refusal: See ``Reading.pieces``.
    """
    before: dict[int, float] = {}
    try:
        async with aclosing(merged([each.pieces() for each in readings])) as pieces:
            async for place, piece in pieces:
                if piece is not None:
                    now = time.perf_counter()
                    watch.seen(now - before.get(place, begun), place in before)
                    before[place] = now
                yield place, piece
    finally:
        for each in readings:
            each.ticket.cancel()  # of one that nobody has begun to read
            watch.ended(
                prompt=each.prompt,
                exits=each.seen,
                ending=each.transcript.ending or each.ticket.reason or "cancelled",
            )


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A text that has ended.

    Attributes:
        text: All of it.
        tokens: Its tokens.
        ending: How it ended.
    """

    text: str
    tokens: Sequence[Token]
    ending: Ending


async def gathered(
    readings: Sequence[Reading], watch: ModelMetrics, *, begun: float
) -> list[Whole]:
    """Wait for texts to end.

    Args:
        readings: Of the texts.
        watch: Counts.
        begun: When the request came, by ``time.perf_counter``.

    Raises:
        Refusal: See ``Reading.pieces``.
    """
    parts: list[list[Piece]] = [[] for _ in readings]
    async with aclosing(watched(readings, watch, begun=begun)) as pieces:
        async for place, piece in pieces:
            if piece is not None:
                parts[place].append(piece)
    found = []
    for reading, part in zip(readings, parts, strict=True):
        assert reading.transcript.ending is not None
        found.append(
            Whole(
                text="".join(each.text for each in part),
                tokens=[token for each in part for token in each.tokens],
                ending=reading.transcript.ending,
            )
        )
    return found
