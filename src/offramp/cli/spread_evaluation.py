"""Measure exits, and write the texts of pairs, on many workers.

In:  checked options, rows or batches. Out: sums over each batch, or the texts of each.
Law: the numbers and the texts are those of one process (tests/cli/test_spread.py).
Not here: what is counted (offramp.evaluation.exits), who does what when (offramp.scale).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from offramp.cli.evaluate import Evaluation
from offramp.cli.kept_texts import Batch, Writing
from offramp.cli.loading import load
from offramp.cli.quiet import memory_named, quiet
from offramp.cli.rule import read_rule
from offramp.cli.seq2seq_settings import PairsEvaluation
from offramp.cli.seq2seq_writers import load_writers
from offramp.cli.spread_answers import cluster_of
from offramp.cli.texts import batched
from offramp.config import parse_exits
from offramp.evaluation.exits import ExitMeter
from offramp.evaluation.report import Sums
from offramp.evaluation.seq2seq import Written
from offramp.scale.cluster import connected
from offramp.scale.pool import spread

TextTask = tuple[str, list[str], int]
"""A batch: the model's name, its sources, and the seed of its draws."""


def spread_sums(settings: Evaluation, rows: Any) -> Iterator[Sums]:
    """Count what exits say about rows, a batch at a time.

    Args:
        settings: The options.
        rows: Of tokens.

    Raises:
        OfframpError: There are no workers, or one refuses a batch.
    """
    things = partial(_cut, rows, settings.batch_size)
    with connected(cluster_of(settings.spread)) as room:
        yield from spread(room, things, partial(Counter, settings))


@contextmanager
def spread_texts(
    settings: PairsEvaluation, tasks: Mapping[tuple[int, ...], TextTask]
) -> Iterator[Writing[Written]]:
    """Give what writes batches on many workers.

    Args:
        settings: The options.
        tasks: What a worker needs to write a batch, by the batch's indices.

    Raises:
        OfframpError: There are no workers.
    """

    def write(batches: Sequence[Batch[Written]]) -> Iterator[Sequence[Written]]:
        wanted = [tasks[each.indices] for each in batches]
        return spread(room, wanted.copy, partial(TextWriter, settings))

    with connected(cluster_of(settings.spread)) as room:
        yield write


class Counter:
    """What a worker does that counts: it loads the model once."""

    def __init__(self, settings: Evaluation) -> None:
        """Load the model.

        Raises:
            OfframpError: It cannot be loaded.
        """
        self._settings = settings
        with quiet(verbose=False):
            self._loaded = load(
                settings.model,
                dtype=settings.dtype,
                device=settings.device,
                exits=settings.exits_from,
            )
        rule, name = read_rule(settings)
        self._meter = ExitMeter(
            self._loaded.model,
            exits=None if settings.exits is None else parse_exits(settings.exits),
            rules={} if rule is None else {name: rule},
        )

    def __call__(self, rows: list[Any]) -> Sums:
        """Count a batch."""
        from offramp.training.data import Collator  # noqa: PLC0415 - it imports datasets

        settings, loaded = self._settings, self._loaded
        collate = Collator(loaded.tokenizer)
        memory = memory_named(device=settings.device, batch_size=settings.batch_size)
        with quiet(verbose=False), memory:
            (batch,) = batched(rows, collate, len(rows), loaded)
            return self._meter.count(batch)


class TextWriter:
    """What a worker does that writes: it loads the models once."""

    def __init__(self, settings: PairsEvaluation) -> None:
        """Load the models.

        Raises:
            OfframpError: One cannot be loaded.
        """
        self._settings = settings
        with quiet(verbose=False):
            self._writers = load_writers(settings)

    def __call__(self, task: TextTask) -> list[Written]:
        """Write a batch."""
        name, sources, seed = task
        settings = self._settings
        memory = memory_named(device=settings.device, batch_size=settings.batch_size)
        with quiet(verbose=False), memory:
            return self._writers[name].write(sources, seed=seed)


def _cut(rows: Any, size: int) -> Iterator[list[Any]]:
    """Cut rows into batches, the same ones as one process does."""
    for first in range(0, len(rows), size):
        yield [rows[place] for place in range(first, min(first + size, len(rows)))]
