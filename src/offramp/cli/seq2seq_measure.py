"""Let models write a text for each source of some pairs, score the texts, and show both.

In:  checked settings. Out: a table or JSON on stdout, and the texts in a file if asked for.
Law: what can be refused is refused before the first text is written; after an interruption the file
     holds whole lines, and the same command goes on from there (tests/cli/test_seq2seq.py).
Not here: scores (offramp.evaluation.text_metrics), the table (offramp.cli.seq2seq_table).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from functools import partial
from typing import Any

from offramp.blocks.machine import machine_facts
from offramp.cli.kept_texts import Batch, Kept, Writing, here, write_texts
from offramp.cli.loading import weights_hash
from offramp.cli.output import check_output, key_of
from offramp.cli.quiet import memory_named, quiet
from offramp.cli.seq2seq_settings import PairsEvaluation
from offramp.cli.seq2seq_table import show_systems
from offramp.cli.seq2seq_writers import load_writers
from offramp.cli.show import progress, show_json
from offramp.cli.spread_evaluation import TextTask, spread_texts
from offramp.evaluation.latency import LEAST_ROUNDS
from offramp.evaluation.pace import Pace, Race
from offramp.evaluation.pairs import Pair, read_pairs
from offramp.evaluation.seq2seq import Writer, Written
from offramp.evaluation.seq2seq_report import Seq2SeqReport, report_of
from offramp.evaluation.text_metrics import TextSettings

TEXTS = tuple(each.name for each in fields(Written))


def measure_pairs(settings: PairsEvaluation) -> None:
    """Write, score and show.

    Raises:
        OfframpError: Something was asked for that cannot be done.
        Interrupted: Ctrl-C, with an output file to go on from.
    """
    scoring = text_settings_of(settings)
    if settings.output is not None:
        check_output(settings.output, inputs=[settings.pairs])
    pairs = read_pairs(settings.pairs, limit=settings.limit)
    memory = memory_named(device=settings.device, batch_size=settings.batch_size)
    with quiet(verbose=settings.verbose), memory:
        writers = load_writers(settings)
        texts = _Texts(writers, pairs, settings)
        written = texts.write()
        paces = _paces(writers, pairs, settings)
    references = [each.references for each in pairs]
    report = report_of(writers, written, references, settings=scoring, paces=paces)
    _show(report, writers, settings)


def text_settings_of(settings: PairsEvaluation) -> TextSettings:
    """Make what is scored.

    Raises:
        ConfigError: There is no such score, or its package is missing.
    """
    given: dict[str, Any] = {
        "stemmer": settings.stemmer,
        "bleu_tokenizer": settings.bleu_tokenizer,
        "lowercase": settings.lowercase,
        "samples": settings.samples,
    }
    if settings.metrics is not None:
        given["metrics"] = tuple(each.strip() for each in settings.metrics.split(","))
    return TextSettings(**{name: value for name, value in given.items() if value is not None})


class _Texts:
    """The texts of some models for some pairs, in memory or in a file that is gone on with."""

    def __init__(
        self, writers: Mapping[str, Writer], pairs: Sequence[Pair], settings: PairsEvaluation
    ) -> None:
        self._writers, self._pairs, self._settings = writers, pairs, settings
        self._sources = [each.source for each in pairs]
        places = [each.place for each in pairs]
        self._batches = {
            name: writer.batches(self._sources, places=places) for name, writer in writers.items()
        }
        self._total = len(writers) * len(pairs)

    def write(self) -> dict[str, list[Written]]:
        """Write what is missing, and give all."""
        settings = self._settings
        kept = None
        if settings.output is not None:
            kept = Kept(
                path=settings.output,
                keys=self._keys(),
                line=self._line,
                read=_written,
                overwrite=settings.overwrite,
                silent=settings.json,
            )
        batches = list(self._work())
        with self._writing(batches) as writing:
            found = write_texts(batches, total=self._total, kept=kept, writing=writing)
        rows = len(self._pairs)
        return {
            name: [found[number * rows + row] for row in range(rows)]
            for number, name in enumerate(self._writers)
        }

    def _work(self) -> Iterator[Batch[Written]]:
        """Give each batch, model after model."""
        for number, (name, writer) in enumerate(self._writers.items()):
            for place, rows in enumerate(self._batches[name]):
                yield Batch(
                    indices=tuple(number * len(self._pairs) + row for row in rows),
                    write=partial(
                        writer.write,
                        [self._sources[row] for row in rows],
                        seed=writer.seed_of(place),
                    ),
                )

    @contextmanager
    def _writing(self, batches: Sequence[Batch[Written]]) -> Iterator[Writing[Written]]:
        """Give what writes batches: this process, or many workers."""
        if not self._settings.spread.on_ray:
            yield here
            return
        tasks = dict(zip((each.indices for each in batches), self._tasks(), strict=True))
        with spread_texts(self._settings, tasks) as writing:
            yield writing

    def _tasks(self) -> Iterator[TextTask]:
        """Give each batch, as a worker needs it."""
        for name, writer in self._writers.items():
            for place, rows in enumerate(self._batches[name]):
                yield name, [self._sources[row] for row in rows], writer.seed_of(place)

    def _keys(self) -> list[str]:
        keys = []
        for name, writer in self._writers.items():
            facts = {
                "model": name,
                "weights": weights_hash(writer.model),
                "decoding": writer.decoding(),
                "max_new_tokens": self._settings.max_new_tokens,
                "max_source_tokens": self._settings.max_source_tokens,
            }
            keys += [key_of([each.source, *each.references], facts) for each in self._pairs]
        return keys

    def _line(self, index: int, text: Written) -> dict[str, Any]:
        number, row = divmod(index, len(self._pairs))
        pair = self._pairs[row]
        return {
            "model": list(self._writers)[number],
            "row": row,
            "source": pair.source,
            "references": pair.references,
            **asdict(text),
        }


def _written(told: Mapping[str, Any]) -> Written:
    """Read a text of an earlier run."""
    values = {name: told[name] for name in TEXTS}
    for name in ("tokens", "exits"):
        values[name] = None if values[name] is None else tuple(values[name])
    return Written(**values)


def _paces(
    writers: Mapping[str, Writer], pairs: Sequence[Pair], settings: PairsEvaluation
) -> dict[str, Pace] | None:
    if settings.time is None:
        return None
    race = Race(writers)
    with progress(settings.time + LEAST_ROUNDS, unit="timed") as advance:
        return race.run([each.source for each in pairs], rows=settings.time, advance=advance)


def _show(report: Seq2SeqReport, writers: Mapping[str, Writer], settings: PairsEvaluation) -> None:
    if settings.json:
        first = next(iter(writers.values()))
        facts = {"pairs": str(settings.pairs), "machine": machine_facts(first.model)}
        show_json({**facts, **report.as_json()})
    else:
        show_systems(report, title=str(settings.pairs))
