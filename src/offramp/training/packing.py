"""Turn rows of text, pairs or conversations into rows of tokens and labels.

In:  rows of columns, a tokenizer. Out: tokens, and labels that are -100 where nothing is learned.
Law: packing loses no token and changes no order; labels hide exactly the prompt or the turns of
     others (tests/training/test_data.py).
Not here: where rows come from (offramp.training.sources), their order (offramp.training.data).
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from offramp.errors import InputError, first_line
from offramp.logits.labels import NO_LABEL
from offramp.training.formats import Row, Rows, columns_of

MESSAGES = "messages"
TOGETHER = 32
"""Documents that are encoded at a time, which the tokenizer does in parallel."""
Tokens = dict[str, list[int]]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of columns.

    Attributes:
        text: Documents.
        prompt: First parts of pairs.
        completion: Second parts of pairs, which are learned.
    """

    text: str
    prompt: str
    completion: str

    def kind(self, row: Row) -> str:
        """Tell ``"pair"``, ``"conversation"`` or ``"text"``, the first that the columns allow.

        Raises:
            InputError: None of them.
        """
        if {self.prompt, self.completion} <= row.keys():
            return "pair"
        if MESSAGES in row:
            return "conversation"
        if self.text in row:
            return "text"
        found = columns_of(row)
        raise InputError(
            f"cannot tell what to learn: found the columns {found}, looked for {self.prompt} and "
            f"{self.completion}, {MESSAGES}, or {self.text}; name the columns to use"
        )


def tokens_of(
    rows: Rows, tokenizer: Any, *, columns: Columns, block_size: int, apart: bool = False
) -> Iterator[Tokens]:
    """Give rows of ``input_ids`` and ``labels``, of at most ``block_size`` tokens.

    Args:
        rows: Places and columns; the first row decides what all of them are.
        tokenizer: Encodes.
        columns: Their names.
        block_size: Documents are packed into blocks of it; pairs and conversations are cut.
        apart: For an encoder-decoder: ``input_ids`` is the prompt, ``labels`` the completion, each
            encoded and cut for itself; only pairs will do.

    Raises:
        InputError: A row that cannot be used.
    """
    first = next(rows, None)
    if first is None:
        return
    place, row = first
    try:
        kind = columns.kind(row)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    rows = chain([first], rows)
    if apart and kind != "pair":
        raise InputError(
            f"{place}: an encoder-decoder learns from pairs, and this is a {kind}; name the "
            f"columns of both parts, or call them {columns.prompt} and {columns.completion}"
        )
    if apart:
        pairs = (_pair_apart(row, tokenizer, columns, place) for place, row in rows)
        yield from _cut(pairs, block_size, learned_from=0)
    elif kind == "text":
        texts = (text_of(row, columns.text, place) for place, row in rows)
        for block in _packed(_documents(texts, tokenizer), block_size):
            yield {"input_ids": block, "labels": list(block)}
    elif kind == "pair":
        yield from _cut((_pair(row, tokenizer, columns, place) for place, row in rows), block_size)
    else:
        yield from _cut((_turns(row, tokenizer, place) for place, row in rows), block_size)


def _value(row: Row, column: str, place: str) -> Any:
    if column not in row:
        found = columns_of(row)
        raise InputError(f"{place}: no column {column}, found {found}; give every row the same")
    return row[column]


def text_of(row: Row, column: str, place: str) -> str:
    """Give the document of a row; none is empty.

    Args:
        row: Columns.
        column: Name of that of documents.
        place: Of the row, for messages.

    Raises:
        InputError: There is no such column, or it holds something else.
    """
    text = _value(row, column, place)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise InputError(f"{place}: {column} must be a text, got a {type(text).__name__}")
    return text


def encode(tokenizer: Any, texts: list[str], *, special: bool) -> list[list[int]]:
    """Give the tokens of texts, with the tokenizer's special tokens or without."""
    found: list[list[int]] = tokenizer(texts, add_special_tokens=special, verbose=False)[
        "input_ids"
    ]
    return found


def _documents(texts: Iterator[str], tokenizer: Any) -> Iterator[list[int]]:
    """Encode documents, with the end token between two of them."""
    end = tokenizer.eos_token_id
    last: int | None = end
    written = (text for text in texts if text)
    while batch := list(islice(written, TOGETHER)):
        for document in encode(tokenizer, batch, special=True):
            if end is not None and last != end:
                yield [end]
            yield document
            last = document[-1] if document else last


def _packed(documents: Iterable[list[int]], block_size: int) -> Iterator[list[int]]:
    """Cut one stream of tokens into blocks; the last one may be shorter, down to 2 tokens."""
    block: list[int] = []
    for document in documents:
        block += document
        while len(block) >= block_size:
            yield block[:block_size]
            del block[:block_size]
    if len(block) >= 2:
        yield block


def _cut(rows: Iterator[Tokens], block_size: int, *, learned_from: int = 1) -> Iterator[Tokens]:
    """Cut each row; drop those in which nothing to learn is left; a text's first token is none."""
    dropped = kept = 0
    for row in rows:
        labels = row["labels"][:block_size]
        if not row["input_ids"] or all(label == NO_LABEL for label in labels[learned_from:]):
            dropped += 1
            continue
        kept += 1
        yield {"input_ids": row["input_ids"][:block_size], "labels": labels}
    if dropped:
        lost = f"{dropped} of {dropped + kept} rows hold nothing to learn in {block_size} tokens"
        if not kept:
            raise InputError(f"{lost}; make block_size larger")
        _logger.warning("%s and were dropped", lost)


def _pair(row: Row, tokenizer: Any, columns: Columns, place: str) -> Tokens:
    """Encode both parts apart, as the prompt is when the model is used."""
    prompt = _part(row, columns.prompt, tokenizer, place, special=True, ended=False)
    completion = _part(row, columns.completion, tokenizer, place, special=False, ended=True)
    return {"input_ids": prompt + completion, "labels": [NO_LABEL] * len(prompt) + completion}


def _pair_apart(row: Row, tokenizer: Any, columns: Columns, place: str) -> Tokens:
    """Encode both parts with their special tokens, as an encoder and a decoder read them."""
    prompt = _part(row, columns.prompt, tokenizer, place, special=True, ended=None)
    completion = _part(row, columns.completion, tokenizer, place, special=True, ended=True)
    return {"input_ids": prompt, "labels": completion}


def _part(
    row: Row, column: str, tokenizer: Any, place: str, *, special: bool, ended: bool | None
) -> list[int]:
    """Give the tokens of one part of a pair, which may be tokens already.

    A text gets or loses its end token by ``ended``; None leaves it as the tokenizer has it.
    """
    part = _value(row, column, place)
    if isinstance(part, str):
        (tokens,) = encode(tokenizer, [part], special=special) if part or special else [[]]
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        has_end = tokens[-1:] == end != []
        if ended is None or ended == has_end:
            return tokens
        return tokens + end if ended else tokens[:-1]
    if isinstance(part, Sequence) and all(type(each) is int and each >= 0 for each in part):
        return list(part)
    raise InputError(
        f"{place}: {column} must be a text or a list of tokens, got a {type(part).__name__}"
    )


def _turns(row: Row, tokenizer: Any, place: str) -> Tokens:
    """Encode a conversation by the chat template, turn by turn; only answers are learned."""
    turns = _messages(row, place)
    written, ids, labels = "", list[int](), list[int]()
    for number, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        for upto, learned in ((turns[:number], False), (turns[: number + 1], True)):
            text = _template(tokenizer, upto, place, opened=not learned) if upto else ""
            if not text.startswith(written):
                raise InputError(
                    f"{place}: the chat template writes earlier turns anew when a turn is added, "
                    "so the answers cannot be told apart; train on prompt and completion instead"
                )
            (tokens,) = encode(tokenizer, [text[len(written) :]], special=False)
            ids += tokens
            labels += tokens if learned else [NO_LABEL] * len(tokens)
            written = text
    return {"input_ids": ids, "labels": labels}


def _messages(row: Row, place: str) -> list[Mapping[str, Any]]:
    turns = _value(row, MESSAGES, place)
    good = isinstance(turns, Sequence) and all(
        isinstance(turn, Mapping) and isinstance(turn.get("role"), str) and "content" in turn
        for turn in turns
    )
    if not good or isinstance(turns, str):
        raise InputError(
            f'{place}: {MESSAGES} must be a list of objects with "role" and "content", got a '
            f"{type(turns).__name__}"
        )
    return [{key: value for key, value in turn.items() if value is not None} for turn in turns]


def _template(tokenizer: Any, turns: Sequence[Any], place: str, *, opened: bool) -> str:
    if tokenizer.chat_template is None:
        raise InputError(
            f"{place}: the tokenizer has no chat template for {MESSAGES}; use a chat model, or "
            "write prompt and completion"
        )
    try:
        text: str = tokenizer.apply_chat_template(
            turns, add_generation_prompt=opened, tokenize=False
        )
    except Exception as error:  # a template raises what it likes
        raise InputError(
            f"{place}: the chat template refuses these turns: {first_line(error)}; correct them"
        ) from None
    return text
