"""Read rows from Parquet, and turn a file of JSON lines into Parquet.

In:  a file. Out: rows one after the other, or another file.
Law: neither ever holds more than a few rows; a file of Parquet appears whole, and holds what the
     JSON lines held (tests/cli/test_parquet.py).
Not here: what a row means (offramp.cli.prompts, offramp.cli.output).

pyarrow is imported where it is used, since only extras bring it.
"""

import json
import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from offramp.cli.output import NEXT
from offramp.errors import ConfigError, InputError, first_line

SUFFIX = ".parquet"
ROWS = 1024
"""Of a group: as many as are in memory at a time."""
NUMBERS = {
    "index": "int64",
    "new_tokens": "int64",
    "canvas_length": "int64",
    "seconds": "float64",
    "mean_exit": "float64",
    "acceptance_rate": "float64",
}
LISTS = ("tokens", "exits")
"""Fields of a result that are lists of numbers; all others are texts."""


def check_parquet(path: Path) -> None:
    """Refuse to begin without what reads and writes Parquet.

    Raises:
        ConfigError: It is not installed.
    """
    if find_spec("pyarrow") is None:
        raise ConfigError(
            f"{path} needs pyarrow, which is not installed; run pip install 'offramp[ray]'"
        )


def rows_of(path: Path, *, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give each row with the name of its place.

    Args:
        path: The file.
        columns: Which are read; others are somebody else's.

    Raises:
        InputError: It cannot be read, has none of these columns, or no row.
    """
    check_parquet(path)
    import pyarrow  # noqa: PLC0415
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415

    try:
        file = ParquetFile(path)
        known = [name for name in columns if name in file.schema_arrow.names]
        if not known or not file.metadata.num_rows:
            raise InputError(
                f"{path} has {file.metadata.num_rows} rows and the columns "
                f"{', '.join(file.schema_arrow.names)}; it needs a row and one of the columns "
                f"{', '.join(columns)}"
            )
        number = 0
        for batch in file.iter_batches(batch_size=ROWS, columns=known):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(
            f"cannot read {path}: {first_line(error)}; name a file of Parquet"
        ) from None


def journal_of(path: Path) -> Path:
    """Name the JSON lines that become a file of Parquet when the last one is there."""
    return path.with_name(f"{path.name}.jsonl")


def is_finished(path: Path, keys: Sequence[str]) -> bool:
    """Tell whether a file of Parquet is there, with these results.

    Args:
        path: The file.
        keys: The key of each result, by index.

    Raises:
        InputError: A file is there, with other results.
    """
    if not path.exists():
        return False
    found = (row["key"] for _, row in rows_of(path, columns=("key",)))
    if all(one == other for one, other in zip_longest(found, keys)):
        return True
    raise InputError(f"{path}: made with other prompts or other settings; {NEXT}")


def write_parquet(lines: Path, path: Path) -> None:
    """Turn results, in JSON lines, into a file of Parquet, which appears whole.

    Args:
        lines: What ``offramp.cli.output`` wrote; it is deleted at the end.
        path: The file to be made.

    Raises:
        InputError: It cannot be written.
    """
    import pyarrow  # noqa: PLC0415
    from pyarrow.parquet import ParquetWriter  # noqa: PLC0415

    partial = path.with_name(f"{path.name}.partial")
    try:
        with lines.open(encoding="utf-8", newline="\n") as file:
            schema = _schema(json.loads(next(file)))
            file.seek(0)
            with ParquetWriter(partial, schema) as writer:
                while rows := [_row(line) for line in islice(file, ROWS)]:
                    writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
        with partial.open("rb") as file_of_bytes:
            os.fsync(file_of_bytes.fileno())
        partial.replace(path)
        lines.unlink()
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; all results are in {lines}, make "
            "room and run the same command again"
        ) from None


def _schema(result: dict[str, Any]) -> Any:
    import pyarrow  # noqa: PLC0415

    kinds = {name: pyarrow.type_for_alias(kind) for name, kind in NUMBERS.items()}
    kinds |= dict.fromkeys(LISTS, pyarrow.list_(pyarrow.int64()))
    return pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in result])


def _row(line: str) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(line)
    if not isinstance(row["prompt"], str):  # the messages of a conversation
        row["prompt"] = json.dumps(row["prompt"], ensure_ascii=False)
    return row
