"""Find what to train on: files, folders, and data sets of the hub.

In:  what the user named. Out: rows as dictionaries, each with the name of its place, in the order
     of the files.
Law: what cannot be found or read ends in one line of text (tests/training/test_sources.py).
Not here: the formats of files (offramp.training.formats), columns and tokens
     (offramp.training.packing).
"""

import csv
import glob
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow
from datasets.data_files import DataFilesList, get_data_patterns

from offramp.errors import ConfigError, InputError, first_line
from offramp.training.formats import READERS, Rows

HUB_NAME = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.-]+))?")


@dataclass(frozen=True, kw_only=True)
class Files:
    """Local files, each with the length that is read of it.

    Attributes:
        paths: In the order in which they are read.
        sizes: Bytes of each.
        stamp: Differs when a file has been written to.
    """

    paths: tuple[Path, ...]
    sizes: tuple[int, ...]
    stamp: str

    def rows(self, text: str) -> Rows:
        """Read all rows; those of a text file get a column named ``text``."""
        for path, size in zip(self.paths, self.sizes, strict=True):
            try:
                yield from READERS[path.suffix.lower()](path, size, text)
            except InputError:
                raise
            except (OSError, ValueError, csv.Error, pyarrow.ArrowException) as error:
                raise InputError(
                    f"cannot read {path}: {first_line(error)}; name a whole "
                    f"{path.suffix.lower()} file"
                ) from None


@dataclass(frozen=True, kw_only=True)
class Hub:
    """A data set of the hub, or one that `datasets` has saved.

    Attributes:
        name: For messages.
        data: What `datasets` gave.
        stamp: Differs between versions of the data set.
    """

    name: str
    data: Any
    stamp: str

    def rows(self, text: str) -> Rows:
        """Read all rows; columns have names already, so ``text`` makes no difference."""
        with _told(self.name):
            for number, row in enumerate(self.data, start=1):
                yield f"{self.name}, row {number}", row


def open_source(source: str | Sequence[str], *, split: str, streaming: bool) -> Files | Hub:
    """Find what the user named.

    Args:
        source: A file, several files, a folder of files, a folder that `datasets` saved, or a name
            on the hub such as ``owner/name`` or ``owner/name:config``.
        split: Part of a data set or of a folder.
        streaming: Do not download a data set of the hub as a whole.

    Raises:
        InputError: There is no such file or data set, or it cannot be read.
        ConfigError: A split was asked of files that have none.
    """
    if not isinstance(source, str):
        return _files([Path(each).expanduser() for each in source], split)
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder(path, split)
    name = HUB_NAME.fullmatch(source)
    if path.exists() or name is None or path.suffix.lower() in READERS:
        return _files([path], split)
    with _told(source), _uncounted():
        data = datasets.load_dataset(name["name"], name["config"], split=split, streaming=streaming)
    stamp = source if streaming else str(data.cache_files)
    return Hub(name=source, data=data, stamp=stamp)


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Turn whatever a library says about a data set into one line."""
    try:
        yield
    except Exception as error:  # the hub's client, its transport and `datasets` share no base
        raise InputError(
            f"cannot read {name}: {first_line(error)}; name a file or folder, or a data set of the "
            "hub as owner/name or owner/name:config and one of its splits"
        ) from error


@contextmanager
def _uncounted() -> Iterator[None]:
    """Keep `datasets` from reporting to the hub which data set is loaded."""
    before = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    try:
        yield
    finally:
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = before


def _folder(path: Path, split: str) -> Files | Hub:
    """Take the files of a folder that belong to a split, by the rules of `datasets`."""
    if (path / "dataset_dict.json").exists():
        path = path / split
    if (path / "state.json").exists():
        with _told(str(path)):
            data = datasets.load_from_disk(str(path))
        return Hub(name=str(path), data=data, stamp=str(data.cache_files))
    base = glob.escape(str(path))
    try:
        patterns = get_data_patterns(base)
    except FileNotFoundError:  # of `datasets`: no file that is not hidden
        patterns = {split: []}
    if split not in patterns:
        found = ", ".join(map(str, patterns))
        raise InputError(f"{path} has no split {split!r}, its files are named for {found}; use one")
    names = DataFilesList.from_patterns(patterns[split], base_path=base)
    files = sorted({Path(name) for name in names if Path(name).suffix.lower() in READERS})
    if not files:
        raise InputError(f"{path} holds no file that can be read; put {_suffixes()} files there")
    return _files(files, None)


def _files(paths: Sequence[Path], split: str | None) -> Files:
    if split not in (None, "train"):
        raise ConfigError(f"files have no split, got {split!r}; leave it out and name other files")
    sizes, stamps = [], []
    for path in paths:
        try:
            status = path.stat()
            path.open("rb").close()
        except OSError as error:
            raise InputError(
                f"cannot read {path}: {error.strerror or error}; name a file, a folder or a data "
                "set of the hub"
            ) from None
        if path.suffix.lower() not in READERS:
            raise InputError(f"cannot tell what {path} is; name {_suffixes()} files or a folder")
        sizes.append(status.st_size)
        stamps.append(f"{path.resolve()} {status.st_size} {status.st_mtime_ns}")
    return Files(paths=tuple(paths), sizes=tuple(sizes), stamp="\n".join(stamps))


def _suffixes() -> str:
    return ", ".join(READERS)
