"""Give rows of tokens to train on, from any source, and pad them into batches.

In:  the name of a source, a tokenizer. Out: a data set of ``input_ids`` and ``labels``.
Law: rows are the same whether streamed or stored, and the same in every run with one seed
     (tests/training/test_data.py).
Not here: reading (offramp.training.sources), encoding and packing (offramp.training.packing).

Stored rows are kept in the cache of `datasets`, never beside the source, under a name that changes
with the source, the tokenizer and the settings.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import datasets
import torch
from datasets.fingerprint import Hasher
from jaxtyping import Int
from torch import Tensor

from offramp.errors import ConfigError, InputError, OfframpError
from offramp.logits.labels import NO_LABEL
from offramp.training.formats import Rows
from offramp.training.packing import Columns, Tokens, tokens_of
from offramp.training.sources import Files, Hub, open_source
from offramp.version import __version__

SHUFFLED_TOGETHER = 2048
"""Rows that are held to be shuffled, of a stream."""
BOTH = ("input_ids", "labels")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What to train on, and how it is cut into rows.

    Attributes:
        source: A file (.txt, .jsonl, .json, .parquet, .csv), several files, a folder of them, or a
            data set of the hub as ``owner/name`` or ``owner/name:config``.
        split: Part of the data set; a folder's files belong to the split that their names say.
        text: Column of documents. A text file is one document.
        prompt: Column of prompts, texts or lists of tokens.
        completion: Column of what is learned after each prompt, texts or lists of tokens.
        streaming: Read while training, for sources larger than the disk.
        block_size: Longest row, in tokens; at least 2.
        limit: Stop after about this many tokens; None reads all.
        seed: Decides the order of rows.
        shuffle: Whether rows are shuffled: all of them, or a stream's next 2,048.
        apart: Keep prompts and completions apart, for encoder-decoders.

    Raises:
        ConfigError: A setting is out of its range.
    """

    source: str | Sequence[str]
    split: str = "train"
    text: str = "text"
    prompt: str = "prompt"
    completion: str = "completion"
    streaming: bool = False
    block_size: int = 512
    limit: int | None = None
    seed: int = 0
    shuffle: bool = True
    apart: bool = False

    def __post_init__(self) -> None:
        if self.block_size < 2:
            raise ConfigError(f"block_size must be at least 2, got {self.block_size}; try 512")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit must be at least 1, got {self.limit}; None reads all")
        for name in ("source", "split", "text", "prompt", "completion"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty; give it a name")


Cut: TypeAlias = Callable[[Rows, Any, DataSettings], Iterator[Tokens]]
"""Makes rows of tokens of a source's rows, with a tokenizer."""


def cut_by_kind(rows: Rows, tokenizer: Any, settings: DataSettings) -> Iterator[Tokens]:
    """Cut documents, pairs or conversations, whichever the first row is; see ``load_rows``."""
    return tokens_of(
        rows,
        tokenizer,
        columns=Columns(text=settings.text, prompt=settings.prompt, completion=settings.completion),
        block_size=settings.block_size,
        apart=settings.apart,
    )


@dataclass(frozen=True, kw_only=True)
class _Maker:
    """Makes the rows, as often as wanted; can be sent to another process."""

    settings: DataSettings
    source: Files | Hub
    tokenizer: Any
    cut: Cut
    columns: tuple[str, ...]

    @property
    def features(self) -> datasets.Features:
        """Give the types of the columns."""
        tokens = datasets.List(datasets.Value("int32"))
        return datasets.Features(dict.fromkeys(self.columns, tokens))

    def __call__(self) -> Iterator[Tokens]:
        settings, read = self.settings, 0
        for row in self.cut(self.source.rows(settings.text), self.tokenizer, settings):
            yield row
            read += len(row[self.columns[-1]])
            if settings.limit is not None and read >= settings.limit:
                return
        if not read:
            raise InputError(f"{settings.source} holds nothing to train on; write some text there")


def load_rows(
    settings: DataSettings,
    tokenizer: Any,
    *,
    cut: Cut = cut_by_kind,
    columns: Sequence[str] = BOTH,
) -> datasets.Dataset | datasets.IterableDataset:
    """Give the rows of a source, encoded and cut.

    Documents are joined, with the tokenizer's end token between them, and cut into blocks; pairs
    and conversations are a row each, with loss on completions and answers only.

    Args:
        settings: The source, and how it is cut.
        tokenizer: Of the model that is trained.
        cut: Makes other rows than these; something that can be pickled.
        columns: What its rows hold; the last one's tokens count for the limit.

    Returns:
        Rows of ``input_ids`` and ``labels``, lists of equal length; a label is the token of its
        own position, or -100 where nothing is learned. With ``apart`` the labels are the
        completion, of its own length.

    Raises:
        InputError: The source cannot be read, or holds nothing to learn. A stream says so when the
            row is reached.
        ConfigError: A split of files that have none.
    """
    source = open_source(settings.source, split=settings.split, streaming=settings.streaming)
    make = _Maker(
        settings=settings, source=source, tokenizer=tokenizer, cut=cut, columns=tuple(columns)
    )
    if settings.streaming:
        next(make())
        rows = datasets.IterableDataset.from_generator(make, features=make.features)
        more = {"buffer_size": SHUFFLED_TOGETHER}
    else:
        rows, more = _stored(make), {}
    return rows.shuffle(seed=settings.seed, **more) if settings.shuffle else rows


def _stored(make: _Maker) -> datasets.Dataset:
    settings = replace(make.settings, seed=0, shuffle=False)
    rows = (settings, make.source.stamp, make.tokenizer, make.cut, make.columns)
    name = Hasher.hash((*rows, __version__))
    try:
        return datasets.Dataset.from_generator(make, features=make.features, fingerprint=name)
    except datasets.exceptions.DatasetGenerationError as error:
        cause = error.__cause__
        if isinstance(cause, OfframpError):
            raise cause from None
        if isinstance(cause, OSError):
            place = datasets.config.HF_DATASETS_CACHE
            raise InputError(
                f"cannot keep the rows in {place}: {cause.strerror or cause}; make room, or name "
                "another folder by HF_DATASETS_CACHE"
            ) from None
        raise


class Collator:
    """Pads rows on the right into one batch.

    Args:
        tokenizer: Gives the padding token; its end token, or 0, if it has none.
        multiple_of: Lengths are rounded up to a multiple of it.

    Raises:
        ConfigError: ``multiple_of`` is below 1.
    """

    def __init__(self, tokenizer: Any, *, multiple_of: int = 1) -> None:
        if multiple_of < 1:
            raise ConfigError(f"multiple_of must be at least 1, got {multiple_of}; try 8")
        known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        self.pad = next(token for token in known if token is not None)
        self.multiple_of = multiple_of

    def __call__(
        self, rows: Sequence[Mapping[str, Sequence[int]]]
    ) -> dict[str, Int[Tensor, "batch seq"]]:
        """Give ``input_ids``, ``attention_mask`` and ``labels``, which are -100 where padded."""
        tokens = [row["input_ids"] for row in rows]
        return {
            "input_ids": self._padded(tokens, self.pad),
            "attention_mask": self._padded([[1] * len(row) for row in tokens], 0),
            "labels": self._padded([row["labels"] for row in rows], NO_LABEL),
        }

    def _padded(self, rows: Sequence[Sequence[int]], filler: int) -> Int[Tensor, "batch seq"]:
        width = -(-max(map(len, rows)) // self.multiple_of) * self.multiple_of
        return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows])
