"""Turn tokens into text while they come, never showing half a character.

In:  token ids, one after the other. Out: the text that each adds.
Law: the pieces joined are the decoded whole, for tokenizers of bytes and of words; no piece ends in
     half a character (tests/server/test_spelling.py).
Not here: stop strings (offramp.server.transcript).

A character of several bytes may need several tokens, so whatever decodes to U+FFFD at the end is
held back. Tokens are decoded together with those before them, since some decoders treat the first
token of a text differently.
"""

import json
import re
from functools import cached_property
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

from offramp.errors import CheckpointError

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_BYTES = {letter: byte for byte, letter in bytes_to_unicode().items()}
"""The letters by which tokenizers of bytes write them."""


class Vocabulary:
    """What single tokens of a tokenizer look like.

    Attributes:
        tokenizer: Of transformers.
        size: Tokens that the model knows; ids are below it.
    """

    def __init__(self, tokenizer: Any, *, size: int) -> None:
        self.tokenizer, self.size = tokenizer, size
        self._special = frozenset(tokenizer.all_special_ids)

    def raw(self, token: int) -> bytes:
        """Give the bytes of a token; of one that stands for half a character that half."""
        name = self.tokenizer.convert_ids_to_tokens(token)
        if name is None:  # models may have more rows than their tokenizer has tokens
            return b""
        if token in self._special:
            return str(name).encode()
        found = BYTE.fullmatch(name)
        if found and self.runs:
            return bytes([int(found[1], 16)])
        if self._is_bytes and all(letter in _BYTES for letter in name):
            return bytes(_BYTES[letter] for letter in name)
        return str(name).replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()

    def text(self, token: int) -> str:
        """Give a token as text, U+FFFD for what is no character by itself."""
        return self.raw(token).decode("utf-8", errors="replace")

    def decode(self, tokens: list[int]) -> str:
        """Give the text of tokens, without special ones."""
        text: str = self.tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Give the tokens of a text.

        Args:
            text: Any.
            special: Add the tokens that the tokenizer puts around a text.

        Raises:
            CheckpointError: The tokenizer is not the model's own.
        """
        tokens = list(self.tokenizer(text, add_special_tokens=special)["input_ids"])
        if max(tokens, default=0) >= self.size:
            raise CheckpointError(
                f"the tokenizer gives token {max(tokens)}, its model knows {self.size} tokens; "
                "give the model its own tokenizer"
            )
        return tokens

    def is_open(self, token: int, *, after: bool = False) -> bool:
        """Tell whether a run of bytes, which must end before any of it can be read, goes on.

        Args:
            token: A byte goes on; so does a special token, which is left out of the text.
            after: Whether it was going on before.
        """
        if token in self._special:
            return after
        name = self.tokenizer.convert_ids_to_tokens(token) if self.runs else None
        return name is not None and BYTE.fullmatch(name) is not None

    @cached_property
    def runs(self) -> bool:
        """Whether the tokenizer falls back to tokens of single bytes, read run by run."""
        known: int | None = self.tokenizer.convert_tokens_to_ids("<0x00>")
        return known is not None and known != self.tokenizer.unk_token_id

    @cached_property
    def _is_bytes(self) -> bool:
        core = getattr(self.tokenizer, "backend_tokenizer", None)
        if core is None or not hasattr(core, "to_str"):
            return False
        return '"ByteLevel"' in json.dumps(json.loads(core.to_str())["decoder"])


class Spelling:
    """One text while its tokens come.

    Example:
        >>> from offramp.models.shipped import load_elmer
        >>> _, tokenizer = load_elmer("elmer-g2p")
        >>> spelling = Spelling(Vocabulary(tokenizer, size=len(tokenizer)))
        >>> ids = tokenizer("light", add_special_tokens=False)["input_ids"]
        >>> "".join([*map(spelling.add, ids), spelling.rest()])
        'l i g h t'
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._tokens: list[int] = []  # those that are decoded: the last that were shown, and newer
        self._fresh = 0  # where the newer ones begin
        self._shown = 0  # characters of these tokens that were given out
        self._open = False  # in a run of bytes

    def add(self, token: int) -> str:
        """Add a token; give the text that is certain by now."""
        self._tokens.append(token)
        self._open = self._vocabulary.is_open(token, after=self._open)
        if self._open:
            return ""
        text = self._vocabulary.decode(self._tokens)
        whole = text.rstrip(UNKNOWN)
        new = whole[self._shown :]
        self._shown = max(self._shown, len(whole))
        if len(whole) == len(text):
            self._advance()
        return new

    def rest(self) -> str:
        """Give what was held back, at the end of the text."""
        new = self._vocabulary.decode(self._tokens)[self._shown :]
        self._tokens, self._fresh, self._shown, self._open = [], 0, 0, False
        return new

    def _advance(self) -> None:
        """Forget tokens that newer ones no longer depend on."""
        newest = self._tokens[self._fresh :]
        alone = self._vocabulary.decode(newest)
        if alone:
            self._tokens, self._shown = newest, len(alone)
        self._fresh = len(self._tokens)
