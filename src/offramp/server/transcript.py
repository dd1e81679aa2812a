"""Make a text of tokens while they come: its characters, up to a stop string.

In:  tokens. Out: pieces of text with the tokens that gave them, then how it ended.
Law: pieces joined are the decoded tokens up to the stop string that is whole first, wherever it
     lies between tokens; nothing of it is ever shown (tests/server/test_transcript.py).
Not here: where the tokens come from (offramp.server.reading), what pieces look like to a client
     (offramp.server.openai_shapes).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from offramp.server.jobs import Written
from offramp.server.spelling import Spelling, Vocabulary

Ending = Literal["stop", "length"]


@dataclass
class Token:
    """A token that a text is made of.

    Attributes:
        written: What the writer said of it.
        start: Where its text begins, in characters of the whole text.
        text: What it added; empty where a character was not whole yet.
    """

    written: Written
    start: int
    text: str


@dataclass(frozen=True)
class Piece:
    """What can be shown next.

    Attributes:
        text: New characters.
        tokens: The tokens whose text is shown by now.
    """

    text: str
    tokens: tuple[Token, ...]


class Transcript:
    """One text while it is written.

    Attributes:
        count: Tokens that were written, the one that ended the text included.
        ending: How the text ended; None before it has.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        stop: Sequence[str],
        silent: frozenset[int],
        tells_end: bool = False,
    ) -> None:
        """Begin with no text.

        Args:
            vocabulary: Of the model.
            stop: Strings that end the text and are no part of it.
            silent: Tokens that end the text and are no part of it.
            tells_end: Give such a token out as the last one, without text.
        """
        self.count = 0
        self.ending: Ending | None = None
        self._spelling = Spelling(vocabulary)
        self._stop, self._silent, self._tells_end = tuple(stop), silent, tells_end
        self._end: tuple[Written, ...] = ()
        self._text = ""  # held back: it may turn out to begin a stop string
        self._shown = 0  # characters that were given out
        self._tokens: list[Token] = []

    def add(self, written: Written) -> Piece:
        """Add a token and give what can be shown; sets ``ending`` where a stop string is whole."""
        self.count += 1
        silent = written.token in self._silent
        self._end = (written,) if silent and self._tells_end else ()
        if silent:
            return Piece("", ())
        new = self._spelling.add(written.token)
        self._tokens.append(Token(written, self._shown + len(self._text), new))
        self._text += new
        return self._look()

    def end(self, ending: Ending) -> Piece:
        """End the text and give what was held back, unless a stop string has ended it."""
        if self.ending is not None:
            return Piece("", ())
        last = self._spelling.rest()
        if self._tokens:
            self._tokens[-1].text += last
        self._text += last
        piece = self._look()
        if self.ending is not None:
            return piece
        self.ending = ending
        rest = self._given(len(self._text), everything=True)
        ends = tuple(Token(each, self._shown, "") for each in self._end)
        return Piece(piece.text + rest.text, piece.tokens + rest.tokens + ends)

    def _look(self) -> Piece:
        """Give what no stop string can take back."""
        found = [at for at in map(self._text.find, self._stop) if at >= 0]
        if found:
            self.ending = "stop"
            return self._cut(min(found))
        held = max((_overlap(self._text, each) for each in self._stop), default=0)
        return self._given(len(self._text) - held)

    def _given(self, length: int, *, everything: bool = False) -> Piece:
        """Give so many characters, and the tokens that lie in them."""
        text, self._text = self._text[:length], self._text[length:]
        self._shown += length
        done = [
            each
            for each in self._tokens
            if everything or (each.text and each.start + len(each.text) <= self._shown)
        ]
        count = 1 + self._tokens.index(done[-1]) if done else 0
        tokens, self._tokens = self._tokens[:count], self._tokens[count:]
        return Piece(text, tuple(tokens))

    def _cut(self, length: int) -> Piece:
        """Give what lies before a stop string."""
        end = self._shown + length
        kept = [each for each in self._tokens if each.start < end]
        if kept:
            kept[-1].text = kept[-1].text[: end - kept[-1].start]
        text, self._text, self._tokens = self._text[:length], "", []
        self._shown = end
        return Piece(text, tuple(kept))


def _overlap(text: str, stop: str) -> int:
    """Give how many of the last characters of a text begin a stop string."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
