"""Answer as OpenAI does: at once, or event by event.

In:  texts that are being written. Out: a response.
Law: a stream says what the answer at once says (tests/server/test_openai.py).
Not here: what is asked (offramp.server.asking), the shapes of choices
     (offramp.server.openai_shapes).
"""

import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from offramp.errors import OfframpError
from offramp.server.errors import UNEXPECTED, Refusal, refusal_of
from offramp.server.metrics import Metrics, ModelMetrics
from offramp.server.openai_shapes import Extra, Shape
from offramp.server.reading import Reading, gathered, watched
from offramp.server.transcript import Piece

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer to one request.

    Attributes:
        model: Name of the model.
        n: Choices for each prompt.
        readings: The texts, one for each choice.
        shape: How choices look.
        extra: What is told beside.
        usage: Whether a stream counts tokens at its end.
        metrics: Of the server.
    """

    model: str
    n: int
    readings: Sequence[Reading]
    shape: Shape
    extra: Extra
    usage: bool
    metrics: Metrics

    async def whole(self) -> dict[str, Any]:
        """Wait for all texts and give them at once.

        Raises:
            Refusal: A text could not be written.
        """
        choices = []
        found = await gathered(self.readings, self._watch, begun=self.extra.begun)
        for place, each in enumerate(found):
            choice = self.shape.whole(place, each.text, each.tokens, each.ending)
            choices.append(choice | self._extra(self.extra.before(place), each.tokens))
        return self._head(stream=False) | {"choices": choices, "usage": self._usage()}

    async def events(self) -> AsyncGenerator[dict[str, Any], None]:
        """Give the answer event by event; what goes wrong is the last one."""
        head = self._head(stream=True) | ({"usage": None} if self.usage else {})
        try:
            for place in range(len(self.readings)):
                first, told = self.shape.before(place), self.extra.before(place)
                if first is not None:
                    yield head | {"choices": [first | self._extra(told, ())]}
            async with aclosing(
                watched(self.readings, self._watch, begun=self.extra.begun)
            ) as pieces:
                async for place, piece in pieces:
                    yield head | {"choices": [self._event(place, piece)]}
            if self.usage:
                yield head | {"choices": [], "usage": self._usage()}
        except Refusal as error:
            yield _trouble(error)
        except OfframpError as error:
            yield _trouble(refusal_of(error))
        except Exception:
            _LOG.exception("a stream failed")
            yield _trouble(Refusal(500, UNEXPECTED))
        finally:
            for each in self.readings:  # of those that were never looked at
                each.ticket.cancel()

    def _event(self, place: int, piece: Piece | None) -> dict[str, Any]:
        """Give the choice of one event; the last one, without a piece, says how the text ended."""
        ending = self.readings[place].transcript.ending if piece is None else None
        choice = self.shape.part(place, piece or Piece("", ()), ending)
        return choice | self._extra((), () if piece is None else piece.tokens)

    @property
    def _watch(self) -> ModelMetrics:
        return self.metrics.of(self.model)

    def _extra(self, told: Sequence[dict[str, Any]], tokens: Sequence[Any]) -> dict[str, Any]:
        return self.extra.of(told, tokens, now=time.perf_counter())

    def _head(self, *, stream: bool) -> dict[str, Any]:
        return {
            "id": f"{self.shape.prefix}-{uuid4().hex}",
            "object": self.shape.kind(stream=stream),
            "created": int(time.time()),
            "model": self.model,
            "system_fingerprint": None,
        }

    def _usage(self) -> dict[str, Any]:
        """Count tokens; a prompt counts once, whatever the number of its texts."""
        prompt = sum(each.prompt for each in self.readings[:: self.n])
        new = sum(each.transcript.count for each in self.readings)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": new,
            "total_tokens": prompt + new,
        }


def _trouble(error: Refusal) -> dict[str, Any]:
    """Give the event of an error, with the status that it would have had."""
    body = error.body
    return {"error": {**body["error"], "status": error.status_code}}
