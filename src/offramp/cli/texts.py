"""Read a text that is measured, in its own order, and cut it into batches.

In:  the options that name it. Out: rows of tokens, batches.
Not here: what is trained on (offramp.cli.rows), reading itself (offramp.training.data).
"""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from offramp.cli.encoding import block_size_of, check_tokens
from offramp.cli.loading import Loaded
from offramp.cli.quiet import data_bars_on_terminals_only
from offramp.errors import ConfigError


@runtime_checkable
class TextChoice(Protocol):
    """Which text; each name is the option of the same name."""

    @property
    def data(self) -> str:
        """A source."""

    @property
    def split(self) -> str:
        """A part of it."""

    @property
    def limit(self) -> int | None:
        """Stop after about so many tokens."""

    @property
    def block_size(self) -> int | None:
        """Longest row."""


def check_readable(data: str) -> None:
    """Refuse to read what needs an extra that is not installed.

    Raises:
        ConfigError: It is not.
    """
    if find_spec("datasets") is None:
        raise ConfigError(
            f"reading --data {data} needs datasets, which is not installed; run "
            "pip install 'offramp[eval]'"
        )


def read_rows(chosen: TextChoice, loaded: Loaded, *, source: str | None = None) -> tuple[Any, Any]:
    """Read and encode a text, in its own order; give its rows and what pads them.

    Args:
        chosen: The options.
        loaded: The model that reads it.
        source: A file to read in place of ``chosen.data``.
    """
    # It imports datasets, which only an extra brings.
    from offramp.training.data import Collator, DataSettings, load_rows  # noqa: PLC0415

    settings = DataSettings(
        source=source or chosen.data,
        split=chosen.split,
        block_size=block_size_of(loaded, chosen.block_size),
        limit=chosen.limit,
        shuffle=False,
        apart=loaded.model.config.is_encoder_decoder,
    )
    with data_bars_on_terminals_only():
        return load_rows(settings, loaded.tokenizer), Collator(loaded.tokenizer)


def batched(rows: Any, collate: Any, size: int, loaded: Loaded) -> Iterator[Mapping[str, Tensor]]:
    """Cut rows into batches.

    Raises:
        CheckpointError: The tokenizer is not the model's own.
    """
    for first in range(0, len(rows), size):
        last = min(first + size, len(rows))
        batch: Mapping[str, Tensor] = collate([rows[place] for place in range(first, last)])
        check_tokens(int(batch["input_ids"].max()), loaded)
        yield batch
