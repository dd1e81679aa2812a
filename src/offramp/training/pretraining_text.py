"""Cut documents into rows of whole sentences, and know the tokens of a row.

In:  documents, a tokenizer. Out: rows of at most so many tokens; which tokens are special, begin
     words or end sentences.
Law: no token is lost but special ones that stood in a text, none changes its place, and a sentence
     is cut only where it is longer than a row (tests/training/test_pretraining.py).
Not here: noise (offramp.training.noise), sources (offramp.training.data).
"""

import string
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from offramp.errors import ConfigError
from offramp.training.data import DataSettings, load_rows
from offramp.training.formats import Rows
from offramp.training.noise import Marks, sentence_ends
from offramp.training.packing import TOGETHER, Tokens, encode, text_of

SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？", "।")  # noqa: RUF001 - full width
CLOSING = "\"'”’»)]}*_ \r\n\t"  # noqa: RUF001 - quotes as they are printed
WORD_STARTS = ("Ġ", "Ċ", "ĉ", "▁", " ", "\n", "\t")
"""How pieces begin with a space, a line's end or a tab: byte-level BPE, SentencePiece, letters."""
BETWEEN = "\n\n"
"""What stands between two documents of a row."""
CONTINUED = "##"
"""How pieces begin that follow none, of WordPiece."""


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """What is known of the tokens of a tokenizer.

    Attributes:
        special: Whether a token marks something and is no text; one for unknown words is text.
        word_starts: Whether it begins a word; None: the tokenizer does not tell.
        stops: Those that end a sentence.
        breaks: Those that end a line, of which two end a sentence.
        others: Those that are text.
        before: Special tokens that the tokenizer puts before a text.
        after: And behind it.
        end: The end token.
    """

    special: Bool[Tensor, " vocab"]
    word_starts: Bool[Tensor, " vocab"] | None
    stops: Int[Tensor, " stops"]
    breaks: Int[Tensor, " breaks"]
    others: Int[Tensor, " others"]
    before: tuple[int, ...]
    after: tuple[int, ...]
    end: int

    @property
    def framing(self) -> int:
        """Tokens that a row gets beside its text."""
        return len(self.before) + len(self.target_after)

    @property
    def target_after(self) -> tuple[int, ...]:
        """What stands behind a target, which always ends with the end token."""
        return self.after if self.after[-1:] == (self.end,) else (*self.after, self.end)

    def marks(self, tokens: Int[Tensor, " seq"]) -> Marks:
        """Tell what is known of each token of a text."""
        return Marks(
            special=self.special[tokens],
            word_starts=None if self.word_starts is None else self.word_starts[tokens],
            sentence_ends=sentence_ends(tokens, self.stops, self.breaks),
        )


def lexicon_of(tokenizer: Any) -> Lexicon:
    """Ask a tokenizer about its tokens.

    Args:
        tokenizer: Of the model that is trained.

    Raises:
        ConfigError: It has no end token, or no token that is text.
    """
    size, end = len(tokenizer), tokenizer.eos_token_id
    if end is None:
        raise ConfigError("the tokenizer has no end token, which says where a text ends; set one")
    pieces = [each or "" for each in tokenizer.convert_ids_to_tokens(list(range(size)))]
    texts = tokenizer.batch_decode([[token] for token in range(size)])
    special = torch.tensor([not piece for piece in pieces], dtype=torch.bool)
    marking = [each for each in tokenizer.all_special_ids if each != tokenizer.unk_token_id]
    special[marking] = True
    others = (~special).nonzero()[:, 0]
    if not len(others):
        raise ConfigError("the tokenizer has special tokens only; give one that knows text")
    before, after = _frame(tokenizer, int(others[0]))
    stops = [token for token in others.tolist() if _ends(texts[token])]
    breaks = [token for token in others.tolist() if texts[token].strip(" \r\t") == "\n"]
    return Lexicon(
        special=special,
        word_starts=_word_starts(pieces),
        stops=torch.tensor(stops, dtype=torch.int64),
        breaks=torch.tensor(breaks, dtype=torch.int64),
        others=others[others != (-1 if tokenizer.unk_token_id is None else tokenizer.unk_token_id)],
        before=before,
        after=after,
        end=end,
    )


def _ends(text: str) -> bool:
    """Tell whether a token ends a sentence; closing quotes and brackets behind it belong to it."""
    return text.rstrip(CLOSING).endswith(SENTENCE_ENDS) or text.count("\n") > 1


def _word_starts(pieces: list[str]) -> Bool[Tensor, " vocab"] | None:
    if any(piece.startswith(WORD_STARTS) for piece in pieces):
        return torch.tensor([piece.startswith(WORD_STARTS) for piece in pieces])
    if any(piece.startswith(CONTINUED) for piece in pieces):
        return torch.tensor([not piece.startswith(CONTINUED) for piece in pieces])
    return None


def _frame(tokenizer: Any, token: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Find the special tokens around a text."""
    for letter in (*string.ascii_lowercase, tokenizer.decode([token])):
        (bare,), (framed,) = (encode(tokenizer, [letter], special=each) for each in (False, True))
        for start in range(len(framed) - len(bare) + 1):
            if bare and framed[start : start + len(bare)] == bare:
                return tuple(framed[:start]), tuple(framed[start + len(bare) :])
    raise ConfigError("cannot tell what the tokenizer puts around a text; use another tokenizer")


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """Cuts documents into rows of whole sentences.

    Attributes:
        mix: Whether a row may hold several documents, with a blank line between two; else each
            begins a row.
    """

    mix: bool = True

    def __call__(self, rows: Rows, tokenizer: Any, settings: DataSettings) -> Iterator[Tokens]:
        """Give rows of ``input_ids``, without the special tokens that go around them.

        Raises:
            InputError: A row has no text.
            ConfigError: A row leaves no room for text.
        """
        lexicon = lexicon_of(tokenizer)
        room = settings.block_size - lexicon.framing
        if room < 1:
            raise ConfigError(
                f"block_size {settings.block_size} leaves no room beside the tokenizer's "
                f"{lexicon.framing} special tokens; try 512"
            )
        texts = (text_of(row, settings.text, place) for place, row in rows)
        gap = self._gap(tokenizer, lexicon)
        for block in _packed(_documents(texts, tokenizer, lexicon), room, gap):
            yield {"input_ids": block}

    def _gap(self, tokenizer: Any, lexicon: Lexicon) -> list[int] | None:
        """Give what stands between two documents of a row; None: nothing may."""
        if not self.mix:
            return None
        (found,) = encode(tokenizer, [BETWEEN], special=False)
        known = set(lexicon.others.tolist())
        return [token for token in found if token in known]


def load_blocks(settings: DataSettings, tokenizer: Any, *, mix: bool = True) -> Any:
    """Give rows of whole sentences from any source that ``load_rows`` reads.

    Args:
        settings: The source, and how long a row is, special tokens included.
        tokenizer: Of the model that is trained.
        mix: Whether a row may hold several documents.

    Returns:
        Rows of ``input_ids``, stored or streamed.

    Raises:
        InputError: The source cannot be read, or has no text.
        ConfigError: A row leaves no room for text.
    """
    return load_rows(settings, tokenizer, cut=Sentences(mix=mix), columns=("input_ids",))


def _documents(texts: Iterator[str], tokenizer: Any, lexicon: Lexicon) -> Iterator[list[list[int]]]:
    """Encode documents, and cut them into sentences."""
    written = (text for text in texts if text.strip())
    while batch := list(islice(written, TOGETHER)):
        for tokens in encode(tokenizer, batch, special=False):
            row = torch.tensor(tokens, dtype=torch.int64)
            row = row[~lexicon.special[row]]
            ends = sentence_ends(row, lexicon.stops, lexicon.breaks).nonzero()[:, 0] + 1
            yield [each.tolist() for each in row.tensor_split(ends) if len(each)]


def _packed(
    documents: Iterator[list[list[int]]], room: int, gap: list[int] | None
) -> Iterator[list[int]]:
    """Put sentence after sentence into a row, as long as they fit."""
    block: list[int] = []
    for document in documents:
        if gap is None and block:
            yield block
            block = []
        between = gap or []
        for sentence in document:
            if block and block[-len(between) :] == between:
                between = []
            if block and len(block) + len(between) + len(sentence) > room:
                yield block
                block = []
            block += (between if block else []) + sentence
            between = []
            while len(block) > room:
                yield block[:room]
                block = block[room:]
    if block:
        yield block
