"""Read rows from files, each with the name of its place.

In:  a file, the length to read of it, a name for the column of texts. Out: rows as dictionaries.
Law: nothing is skipped: a row that cannot be read ends in one line of text that names its file and
     line; only what says nothing is passed over, which are blank lines, the marks between batches
     of self-generated text, and its last line where the writer was cut off
     (tests/training/test_formats.py).
Not here: finding files (offramp.training.sources).

These formats are not left to `datasets`: its messages name no line, it guesses types from the first
rows, and it reads words such as "NA" as missing. Text and JSON lines are read up to the length that
the file had when it was named, so a file that grows meanwhile gives the same rows again.
"""

import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.csv
import pyarrow.parquet

from offramp.errors import InputError, first_line
from offramp.models.files import json_of

Row = Mapping[str, Any]
Rows = Iterator[tuple[str, Row]]
"""The place of a row, for messages, and its columns."""

PIECE = 1 << 20
"""A text file is one document; a longer one is read as several of about this many bytes."""
LONGEST_CELL = 1 << 26
"""The longest row of a CSV file, in bytes."""
BATCH = b'{"batch": '
"""How each line of self-generated text begins."""


def _lines(path: Path, size: int) -> Iterator[bytes]:
    """Give the lines, with their ends, of the first ``size`` bytes."""
    with path.open("rb") as file:
        while size > 0 and (line := file.readline(size)):
            size -= len(line)
            yield line


def _decoded(data: bytes, path: Path, number: int) -> str:
    """Decode what begins at a line."""
    try:
        return data.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        number += data.count(b"\n", 0, error.start)
        found = data[error.start : error.start + 1]
        raise InputError(
            f"{path}, line {number}: not UTF-8, found {found!r}; convert it to UTF-8"
        ) from None


def _read_text(path: Path, size: int, text: str) -> Rows:
    """Read documents as a column named ``text``."""
    piece, first = bytearray(), 1
    for number, line in enumerate(_lines(path, size), start=1):
        piece += line
        if len(piece) >= PIECE:
            yield _document(piece, path, first, text)
            piece, first = bytearray(), number + 1
    if piece:
        yield _document(piece, path, first, text)


def _document(piece: bytearray, path: Path, line: int, text: str) -> tuple[str, Row]:
    written = _decoded(bytes(piece), path, line).replace("\r\n", "\n")
    return f"{path}, line {line}", {text: written}


def _read_json(path: Path, size: int, text: str) -> Rows:
    """Read one object a line, or a list of objects."""
    self_text = False
    for number, line in enumerate(_lines(path, size), start=1):
        place = f"{path}, line {number}"
        self_text = self_text or line.startswith(BATCH)
        if number == 1 and line.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
            yield from _read_list(path)
            return
        if not line.strip():
            continue
        try:
            row = _parsed(_decoded(line, path, number), place)
        except InputError:
            if self_text and not line.endswith(b"\n"):
                return  # its writer was cut off, or is in the middle of this line
            raise
        if not {"end"} <= row.keys() <= {"batch", "end"}:
            yield place, row


def _read_list(path: Path) -> Rows:
    text = _decoded(path.read_bytes(), path, 1)
    try:
        found = json_of(text)
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        raise InputError(
            f"{path}, line {line}: not JSON ({first_line(error)}); write a list of objects"
        ) from None
    for number, row in enumerate(found, start=1):
        place = f"{path}, item {number}"
        yield place, _object(row, place)


def _parsed(line: str, place: str) -> Row:
    try:
        return _object(json_of(line), place)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        shown = repr(line.rstrip() if len(line) <= 60 else f"{line[:57]}...")
        raise InputError(
            f"{place}: not JSON ({first_line(error)}), got {shown}; write one object a line"
        ) from None


def _object(found: Any, place: str) -> Row:
    if not isinstance(found, dict):
        raise InputError(
            f"{place}: got a {type(found).__name__}; write an object with named columns"
        )
    return found


def _read_parquet(path: Path, size: int, text: str) -> Rows:
    with pyarrow.parquet.ParquetFile(path) as file:
        yield from _tables(path, file.iter_batches(batch_size=256))


def _read_csv(path: Path, size: int, text: str) -> Rows:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        names = next(csv.reader(file), [])
    with pyarrow.csv.open_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=LONGEST_CELL),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pyarrow.string())
        ),
    ) as tables:
        yield from _tables(path, tables)


def _tables(path: Path, tables: Any) -> Rows:
    number = 0
    for table in tables:
        for row in table.to_pylist():
            number += 1
            yield f"{path}, row {number}", row


READERS: Mapping[str, Callable[[Path, int, str], Rows]] = {
    ".txt": _read_text,
    ".jsonl": _read_json,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
}


def columns_of(row: Row) -> str:
    """Name a row's columns for a message, on one line.

    Example:
        >>> columns_of({"target": "b", "source": "a"})
        'source, target'
    """
    return ", ".join(sorted(" ".join(str(name).split()) for name in row)) or "none"
