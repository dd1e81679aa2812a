"""Write texts batch by batch, into memory or into a file that a later run goes on with.

In:  batches that can be written when asked for. Out: all texts by index.
Law: after an interruption the file holds whole lines only, and the same command goes on from there;
     a batch of which a text is missing is written as a whole, so that its texts are the same in
     every run (tests/cli/test_seq2seq.py, tests/cli/test_open_ended.py).
Not here: the file itself (offramp.cli.output).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from offramp.cli.output import Interrupted, ResultFile
from offramp.cli.show import progress, remark

Text = TypeVar("Text")


@dataclass(frozen=True, kw_only=True)
class Batch(Generic[Text]):
    """Texts that are written together.

    Attributes:
        indices: Of the texts among all.
        write: Writes them, in this order.
    """

    indices: tuple[int, ...]
    write: Callable[[], Sequence[Text]]


@dataclass(frozen=True, kw_only=True)
class Kept(Generic[Text]):
    """The file that texts are kept in.

    Attributes:
        path: Where it is.
        keys: What decides each text, hashed, by index.
        line: Gives what is written down of a text, by its index.
        read: Gives the text that was written down.
        overwrite: Throw away what is there.
        silent: Say nothing when it is done.
    """

    path: Path
    keys: Sequence[str]
    line: Callable[[int, Text], Mapping[str, Any]]
    read: Callable[[Mapping[str, Any]], Text]
    overwrite: bool
    silent: bool


Writing = Callable[[Sequence[Batch[Text]]], Iterable[Sequence[Text]]]
"""Gives the texts of batches, in order; as a rule it calls what each batch brings."""


def here(batches: Sequence[Batch[Text]]) -> Iterator[Sequence[Text]]:
    """Write batches one after the other, in this process."""
    return (batch.write() for batch in batches)


def write_texts(
    batches: Iterable[Batch[Text]],
    *,
    total: int,
    kept: Kept[Text] | None,
    writing: Writing[Text] = here,
) -> dict[int, Text]:
    """Write what is missing, and give all texts by index.

    Args:
        batches: Of all texts.
        total: How many texts there are.
        kept: Where they are kept; None keeps them in memory only.
        writing: Writes the batches of which a text is missing.

    Raises:
        InputError: The file cannot be written, or is another run's.
        Interrupted: Ctrl-C, with a file to go on from.
    """
    found: dict[int, Text] = {}
    if kept is not None:
        _with_file(lambda: _work(batches, found, writing), found, total, kept)
        return found
    with progress(total, unit="texts") as advance:
        for batch in _work(batches, found, writing):
            found.update(batch)
            advance(len(batch))
    return found


def _with_file(
    work: Callable[[], Iterator[dict[int, Text]]],
    found: dict[int, Text],
    total: int,
    kept: Kept[Text],
) -> None:
    with ResultFile(kept.path, kept.keys, overwrite=kept.overwrite) as file:
        before = len(file.finished)
        if before:
            found.update(_read_back(kept))
        try:
            with progress(total, done=before, unit="texts") as advance:
                for batch in work():
                    file.append({index: kept.line(index, batch[index]) for index in batch})
                    found.update(batch)
                    advance(len(batch))
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted: {len(file.finished)} of {total} texts are in {kept.path}; the same "
                "command goes on from there"
            ) from None
    if not kept.silent:
        remark(f"{total} texts in {kept.path}, {total - before} of them new")


def _work(
    batches: Iterable[Batch[Text]], found: Mapping[int, Text], writing: Writing[Text]
) -> Iterator[dict[int, Text]]:
    """Write each batch of which a text is missing; give the missing ones."""
    missing = [each for each in batches if not all(index in found for index in each.indices)]
    if not missing:
        return
    for batch, texts in zip(missing, writing(missing), strict=True):
        new = dict(zip(batch.indices, texts, strict=True))
        yield {index: text for index, text in new.items() if index not in found}


def _read_back(kept: Kept[Text]) -> Iterator[tuple[int, Text]]:
    """Read texts of an earlier run, which ``ResultFile`` has found to be of this one."""
    for line in kept.path.read_bytes().splitlines():
        told = json.loads(line)
        yield told["index"], kept.read(told)
