"""Read what ``offramp train`` trains on: sources that are mixed, rows kept back, batches.

In:  the options, and a loaded model. Out: rows, held-out rows, and a function that pads them.
Law: sources are mixed row by row, and no row is both trained on and held out
     (tests/cli/test_train.py).
Not here: reading a source (offramp.training.data).
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor

from offramp.cli.encoding import check_tokens
from offramp.cli.loading import Loaded
from offramp.cli.output import KEY_LETTERS
from offramp.cli.quiet import data_bars_on_terminals_only
from offramp.cli.training import SELF, TRAIN, Texts
from offramp.errors import InputError
from offramp.logits.labels import NO_LABEL
from offramp.training.data import Collator, DataSettings, load_rows


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads the sources for one model.

    Attributes:
        texts: The options.
        loaded: The model.
        seed: Decides the order.
        block_size: Longest row.
        load: Reads one source.
    """

    texts: Texts
    loaded: Loaded
    seed: int
    block_size: int
    load: Callable[[DataSettings, Any], Any] = load_rows

    def named(self) -> dict[str, Any]:
        """Read the sources that the user named, each once, without the model's own text."""
        return {each: self._rows(each) for each in self.texts.data if each != SELF}

    def contents(self, named: Mapping[str, Any]) -> dict[str, str | None]:
        """Give what the sources hold, hashed, so that one that changed since is not taken for it.

        What the model writes itself is decided by the seed.
        """
        found = {f"content of {each}": content_of(rows) for each, rows in named.items()}
        return found | ({"seed of self": str(self.seed)} if SELF in self.texts.data else {})

    def mixed(self, named: Mapping[str, Any], self_text: Path) -> Any:
        """Mix them with the model's own text, in the order that the seed decides."""
        parts = [
            self._own(self_text) if each == SELF else named[each]
            for each in dict.fromkeys(self.texts.data)
        ]
        if len(parts) == 1:
            return parts[0]
        if self.texts.streaming:
            return datasets.interleave_datasets(
                parts, stopping_strategy="all_exhausted_without_replacement"
            )
        return datasets.concatenate_datasets(parts).shuffle(seed=self.seed)

    @cached_property
    def held_out(self) -> Any:
        """Read the source that is held out; None if there is none, or a share of the rows is."""
        held_out, split = self.texts.held_out, self.texts.held_out_split or TRAIN
        if held_out is None or self.texts.held_out_share is not None:
            return None
        return self._load(held_out, split=split, shuffle=False, **self._columns())

    def divided(self, rows: Any) -> tuple[Any, Any]:
        """Give the rows to train on, and those held out or None."""
        held_out, share = self.texts.held_out, self.texts.held_out_share
        if share is None:
            return rows, self.held_out
        kept = round(len(rows) * share)
        if not 0 < kept < len(rows):
            raise InputError(
                f"--held-out {held_out} of {len(rows)} rows leaves {kept} and {len(rows) - kept}; "
                "use another share, more text or a smaller --block-size"
            )
        return rows.select(range(kept, len(rows))), rows.select(range(kept))

    def collate(self) -> Callable[[Sequence[Any]], Mapping[str, Tensor]]:
        """Give what pads rows, and refuses tokens that the model does not know."""
        pad = Collator(self.loaded.tokenizer)

        def padded(rows: Sequence[Any]) -> Mapping[str, Tensor]:
            batch = pad(rows)
            check_tokens(int(batch["input_ids"].max()), self.loaded)
            return batch

        return padded

    def _rows(self, source: str) -> Any:
        texts, columns = self.texts, self._columns()
        return self._load(source, split=texts.split, streaming=texts.streaming, **columns)

    def _columns(self) -> dict[str, str]:
        texts = self.texts
        return {
            "text": texts.text_column,
            "prompt": texts.prompt_column,
            "completion": texts.completion_column,
        }

    def _own(self, path: Path) -> Any:
        return self._load(str(path), streaming=self.texts.streaming)

    def _load(self, source: str, **more: Any) -> Any:
        settings = DataSettings(
            source=source,
            block_size=self.block_size,
            limit=self.texts.limit,
            seed=self.seed,
            apart=self.loaded.model.config.is_encoder_decoder,
            **more,
        )
        with data_bars_on_terminals_only():
            return self.load(settings, self.loaded.tokenizer)


def content_of(rows: Any) -> str | None:
    """Hash what rows hold, in the order of their source; None for none, and for a stream."""
    if rows is None or isinstance(rows, datasets.IterableDataset):
        return None
    tokens, lengths = hashlib.sha256(), hashlib.sha256()
    for column in rows.data.columns:
        for chunk in column.chunks:
            tokens.update(chunk.flatten().to_numpy(zero_copy_only=False))
            lengths.update(chunk.value_lengths().to_numpy(zero_copy_only=False))
    return hashlib.sha256(tokens.digest() + lengths.digest()).hexdigest()[:KEY_LETTERS]


def batches_of(
    rows: Iterable[Any],
    batch_of: Callable[[Sequence[Any]], Mapping[str, Tensor]],
    *,
    size: int,
    device: torch.device,
    tokens: int | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Cut rows into batches.

    Args:
        rows: In the order in which they are taken.
        batch_of: Makes a batch of rows, with ``shift_labels``.
        size: Rows at a time.
        device: Where the batches go.
        tokens: Stop once so many tokens that can be learned were given; None gives all.
    """
    left, given = iter(rows), 0
    while (tokens is None or given < tokens) and (some := list(islice(left, size))):
        batch = {name: each.to(device) for name, each in batch_of(some).items()}
        given += int((batch["shift_labels"] != NO_LABEL).sum())
        yield batch
