"""Put texts into the two shapes in which OpenAI gives them.

In:  pieces of texts and how they ended. Out: JSON of choices.
Law: the pieces of a stream, joined, are the whole answer (tests/server/test_openai.py).
Not here: the answer around the choices (offramp.server.openai_answers).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from offramp.decoding.request import Likely
from offramp.server.spelling import Vocabulary
from offramp.server.told import (
    chat_logprobs,
    completion_logprobs,
    echo_logprobs,
    exits_told,
    prompt_told,
)
from offramp.server.transcript import Ending, Piece, Token


@runtime_checkable
class Shape(Protocol):
    """How choices look."""

    @property
    def prefix(self) -> str:
        """How ids of answers begin."""

    def kind(self, *, stream: bool) -> str:
        """Name the object."""

    def before(self, place: int) -> dict[str, Any] | None:
        """Give the choice of a first event, before there is a token; None for no such event."""

    def part(self, place: int, piece: Piece, ending: Ending | None) -> dict[str, Any]:
        """Give the choice of an event."""

    def whole(self, place: int, text: str, tokens: Sequence[Token], ending: Ending) -> Any:
        """Give the choice of an answer that is no stream."""


@dataclass(frozen=True, kw_only=True)
class ChatShape:
    """A conversation's answer.

    Attributes:
        vocabulary: Of the model.
        logprobs: Whether log-probabilities are told.
    """

    vocabulary: Vocabulary
    logprobs: bool

    prefix = "chatcmpl"

    def kind(self, *, stream: bool) -> str:
        """Name the object."""
        return "chat.completion.chunk" if stream else "chat.completion"

    def before(self, place: int) -> dict[str, Any] | None:
        """Give the choice of a first event: who speaks."""
        delta = {"role": "assistant", "content": ""}
        return {"index": place, "delta": delta, "logprobs": None, "finish_reason": None}

    def part(self, place: int, piece: Piece, ending: Ending | None) -> dict[str, Any]:
        """Give the choice of an event."""
        delta = {"content": piece.text} if piece.text else {}
        told = self._told(piece.tokens) if piece.tokens else None
        return {"index": place, "delta": delta, "logprobs": told, "finish_reason": ending}

    def whole(self, place: int, text: str, tokens: Sequence[Token], ending: Ending) -> Any:
        """Give the choice of an answer that is no stream."""
        message = {"role": "assistant", "content": text, "refusal": None}
        told = self._told(tokens)
        return {"index": place, "message": message, "logprobs": told, "finish_reason": ending}

    def _told(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        return chat_logprobs(tokens, self.vocabulary) if self.logprobs else None


@dataclass(frozen=True, kw_only=True)
class Echo:
    """A prompt that is given back before the text.

    Attributes:
        text: Its characters.
        tokens: Its tokens.
        likely: How likely all but the first were, where log-probabilities are told.
    """

    text: str
    tokens: Sequence[int]
    likely: Sequence[Likely] = ()


@dataclass(frozen=True, kw_only=True)
class CompletionShape:
    """A text that goes on.

    Attributes:
        vocabulary: Of the model.
        logprobs: Whether log-probabilities are told.
        echo: For each choice what is put before it; empty where nothing is.
    """

    vocabulary: Vocabulary
    logprobs: bool
    echo: Sequence[Echo] = ()

    prefix = "cmpl"

    def kind(self, *, stream: bool) -> str:
        """Name the object."""
        return "text_completion"

    def before(self, place: int) -> dict[str, Any] | None:
        """Give the choice of a first event: the prompt, where it is given back."""
        if not self._prompt(place):
            return None
        return {
            "index": place,
            "text": self._prompt(place),
            "logprobs": self._echoed(place),
            "finish_reason": None,
        }

    def part(self, place: int, piece: Piece, ending: Ending | None) -> dict[str, Any]:
        """Give the choice of an event."""
        told = self._told(place, piece.tokens) if piece.tokens else None
        return {"index": place, "text": piece.text, "logprobs": told, "finish_reason": ending}

    def whole(self, place: int, text: str, tokens: Sequence[Token], ending: Ending) -> Any:
        """Give the choice of an answer that is no stream."""
        text = self._prompt(place) + text
        told, echoed = self._told(place, tokens), self._echoed(place)
        if told is not None and echoed is not None:
            told = {name: [*echoed[name], *told[name]] for name in told}
        return {"index": place, "text": text, "logprobs": told, "finish_reason": ending}

    def _prompt(self, place: int) -> str:
        return self.echo[place].text if self.echo else ""

    def _told(self, place: int, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        return completion_logprobs(tokens, self.vocabulary, offset=len(self._prompt(place)))

    def _echoed(self, place: int) -> dict[str, Any] | None:
        if not self.logprobs or not self.echo:
            return None
        echo = self.echo[place]
        return echo_logprobs(echo.tokens, echo.likely, self.vocabulary)


@dataclass(frozen=True, kw_only=True)
class Extra:
    """What is told beside OpenAI's fields, if it was asked for.

    Attributes:
        tokens: Whether the exits of tokens are told.
        begun: When the request came, by ``time.perf_counter``.
        prompts: For each choice the tokens of its prompt, where these are told, too.
        vocabulary: Of the model.
    """

    tokens: bool
    begun: float
    vocabulary: Vocabulary
    prompts: Sequence[Sequence[int]] = field(default_factory=tuple)

    def before(self, place: int) -> list[dict[str, Any]]:
        """Say what a prompt consists of, if that was asked for."""
        if not self.tokens or not self.prompts:
            return []
        return prompt_told(self.prompts[place], self.vocabulary)

    def of(
        self, told: Sequence[dict[str, Any]], tokens: Sequence[Token], *, now: float
    ) -> dict[str, Any]:
        """Give what is added to a choice.

        Args:
            told: Tokens that stand before, in our form.
            tokens: New ones.
            now: By ``time.perf_counter``.
        """
        if not self.tokens:
            return {}
        seconds = round(now - self.begun, 6)
        return {"offramp": {"tokens": [*told, *exits_told(tokens)], "seconds": seconds}}
