"""Generate and put each result where it belongs.

In:  checked settings, prompts and a display. Out: text or JSON on stdout, or lines of a file.
Law: after an interruption the output file holds whole lines only, and the same command goes on
     from there, whoever does the work (tests/cli/test_killed.py, tests/cli/test_spread.py).
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, runtime_checkable

from offramp.cli.answers import Result
from offramp.cli.output import Interrupted, ResultFile, key_of
from offramp.cli.parquet import SUFFIX, check_parquet, is_finished, journal_of, write_parquet
from offramp.cli.prompts import Prompt
from offramp.cli.quiet import memory_named, quiet
from offramp.cli.seq2seq_answers import AnyAnswers, answers_of
from offramp.cli.settings import Display, Settings
from offramp.cli.show import progress, remark, show_json, show_text
from offramp.cli.spread_answers import spread_answers
from offramp.cli.spreading import Spread


@runtime_checkable
class Answering(Protocol):
    """Who answers, one batch of prompts after the other."""

    def facts(self) -> dict[str, object]:
        """Name all that decides the texts."""

    def batches(self) -> list[range]:
        """Cut the prompts into batches."""

    def results(self, batches: Iterable[range]) -> Iterator[tuple[range, list[Result]]]:
        """Answer batches, in order."""

    def stream(self) -> None:
        """Show a text while it is made."""


def run(
    settings: Settings,
    prompts: Collection[Prompt],
    display: Display,
    *,
    spread: Spread | None = None,
) -> None:
    """Answer all prompts.

    Raises:
        OfframpError: Something was asked for that cannot be done.
        Interrupted: Ctrl-C, with an output file to go on from.
    """
    memory = memory_named(device=settings.device, batch_size=settings.batch_size)
    chosen = spread or Spread()
    if display.output is not None and display.output.suffix == SUFFIX:
        check_parquet(display.output)
    with quiet(verbose=display.verbose), memory, _answering(settings, prompts, chosen) as answers:
        _run(answers, prompts, display)


@contextmanager
def _answering(
    settings: Settings, prompts: Collection[Prompt], chosen: Spread
) -> Iterator[Answering]:
    if chosen.on_ray:
        with spread_answers(settings, prompts, chosen) as answers:
            yield answers
    else:
        yield _Here(answers_of(settings, list(prompts)))


class _Here:
    """Answers of this process."""

    def __init__(self, answers: AnyAnswers) -> None:
        self.facts, self.batches, self.stream = answers.facts, answers.batches, answers.stream
        self._answers = answers

    def results(self, batches: Iterable[range]) -> Iterator[tuple[range, list[Result]]]:
        for batch in batches:
            yield batch, list(self._answers.answer(batch))


def _run(answers: Answering, prompts: Collection[Prompt], display: Display) -> None:
    if display.stream:
        answers.stream()
    elif display.output is None:
        _to_stdout(answers, count=len(prompts), as_json=display.json)
    elif display.output.suffix == SUFFIX:
        _to_parquet(answers, prompts, display, display.output)
    else:
        new = _to_file(answers, _keys(answers, prompts), display, display.output)
        _summarise(display.output, total=len(prompts), new=new, as_json=display.json)


def _keys(answers: Answering, prompts: Collection[Prompt]) -> list[str]:
    facts = answers.facts()
    return [key_of(prompt.content, facts) for prompt in prompts]


def _to_stdout(answers: Answering, *, count: int, as_json: bool) -> None:
    with progress(count) as advance:
        for batch, results in answers.results(answers.batches()):
            for index, result in zip(batch, results, strict=True):
                if as_json:
                    show_json({"index": index, **asdict(result)})
                else:
                    show_text(result.text if index == 0 else f"\n{result.text}")
            advance(len(batch))


def _to_file(answers: Answering, keys: list[str], display: Display, path: Path) -> int:
    """Write what is missing; give how many that were."""
    with ResultFile(path, keys, overwrite=display.overwrite) as file:
        before = len(file.finished)
        missing = [
            batch
            for batch in answers.batches()
            if not all(index in file.finished for index in batch)
        ]
        try:
            with progress(len(keys), done=before) as advance:
                for batch, results in answers.results(missing) if missing else ():
                    found = {
                        index: asdict(result)
                        for index, result in zip(batch, results, strict=True)
                        if index not in file.finished
                    }
                    file.append(found)
                    advance(len(found))
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted: {len(file.finished)} of {len(keys)} results are in {path}; the "
                "same command goes on from there"
            ) from None
    return len(keys) - before


def _to_parquet(
    answers: Answering, prompts: Collection[Prompt], display: Display, path: Path
) -> None:
    """Write JSON lines beside the file, and the file once all are there."""
    keys, new = _keys(answers, prompts), 0
    if display.overwrite or not is_finished(path, keys):
        lines = journal_of(path)
        new = _to_file(answers, keys, display, lines)
        write_parquet(lines, path)
    _summarise(path, total=len(keys), new=new, as_json=display.json)


def _summarise(path: Path, *, total: int, new: int, as_json: bool) -> None:
    if as_json:
        show_json({"output": str(path), "results": total, "new": new})
    else:
        remark(f"{total} results in {path}, {new} of them new")
