"""Keep results in a file of JSON lines that any later run can continue.

In:  results in batches. Out: a file in which each finished prompt has exactly one whole line.
Law: whatever is killed at whatever moment, the next run drops a cut last line, skips what is
     finished and ends with the file of a run that was never disturbed; a file of other settings or
     prompts is never touched (tests/cli/test_output.py, tests/cli/test_killed.py).
Not here: what a result is (offramp.cli.answers).

A line starts with its index and its key, a hash of prompt and settings, so that even a line that
was cut off tells whether it is ours.
"""

import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from offramp.errors import InputError
from offramp.models.files import json_of

KEY_LETTERS = 16
NEXT = "add --overwrite to start anew, or name another --output"


def key_of(prompt: object, settings: Mapping[str, Any]) -> str:
    """Hash what decides a result: the prompt and every setting.

    Example:
        >>> key_of("Hello", {"seed": 1}) == key_of("Hello", {"seed": 2})
        False
    """
    text = json.dumps([prompt, settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LETTERS]


def check_output(path: Path, *, inputs: Collection[Path]) -> None:
    """Refuse a path that cannot become an output file, before anything is loaded.

    Args:
        path: Where results shall go.
        inputs: Files that the prompts come from.

    Raises:
        InputError: Its folder is missing, it is no regular file, or it holds the prompts.
    """
    try:
        if not path.parent.is_dir():
            raise InputError(
                f"cannot write {path}: there is no folder {path.parent}; make it first"
            )
        if path.exists() and not path.is_file():
            raise InputError(
                f"cannot write {path}: it is not a regular file; name another --output"
            )
        if path.exists() and any(each.exists() and path.samefile(each) for each in inputs):
            raise InputError(f"--output {path} is the file of prompts; name another --output")
    except OSError as error:
        raise _unwritable(path, error) from None


class Interrupted(Exception):  # noqa: N818 - nothing went wrong
    """Ctrl-C while results were written; the message says how to go on."""


class ResultFile:
    """An output file, open and locked until the ``with`` ends.

    Attributes:
        path: Where it is.
        finished: Indices of the prompts that have their line.
    """

    def __init__(self, path: Path, keys: Sequence[str], *, overwrite: bool) -> None:
        """Open the file, drop a cut last line and see what is finished.

        Args:
            path: The file, made if missing.
            keys: The key of each prompt, by index.
            overwrite: Throw away what is there.

        Raises:
            InputError: The file cannot be written, is in use, or was made with other settings or
                prompts.
        """
        self.path = path
        self.finished: set[int] = set()
        self._keys = keys
        try:
            self._file = _opened(path)
        except OSError as error:
            raise _unwritable(path, error) from None
        try:
            self._end = 0 if overwrite else self._read()
            os.ftruncate(self._file, self._end)
        except OSError as error:
            os.close(self._file)
            raise _unwritable(path, error) from None
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> "ResultFile":
        """Give the open file."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file, which also unlocks it."""
        os.close(self._file)

    def append(self, results: Mapping[int, Mapping[str, Any]]) -> None:
        """Write results by index, all or none, and wait until the disk has them.

        Raises:
            InputError: They cannot be written; the file is as it was before.
        """
        rest = memoryview(
            "".join(
                f"{_head(index, self._keys[index])}, {json.dumps(result, ensure_ascii=False)[1:]}\n"
                for index, result in results.items()
            ).encode()
        )
        before, after = self._end, self._end + len(rest)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
            self._end = after
            self.finished.update(results)
            os.fsync(self._file)
        except OSError as error:
            self._end = before
            os.ftruncate(self._file, before)
            self.finished.difference_update(results)
            raise InputError(
                f"cannot write {self.path}: {error.strerror or error}; it holds "
                f"{len(self.finished)} results, make room and the same command goes on from there"
            ) from None
        except BaseException:  # Ctrl-C: what is whole stays
            if os.fstat(self._file).st_size == after:
                self._end = after
                self.finished.update(results)
            os.ftruncate(self._file, self._end)
            raise

    def _read(self) -> int:
        """Note what is finished and give where the last whole line ends."""
        with open(self._file, "rb", closefd=False) as file:
            data = file.read()
        *lines, tail = data.split(b"\n")
        for number, line in enumerate(lines, start=1):
            self.finished.add(self._index_of(line, number))
        if tail and not self._is_ours(tail):
            raise InputError(
                f"{self.path}, line {len(lines) + 1}: cut off, and not of this run; {NEXT}"
            )
        return len(data) - len(tail)

    def _index_of(self, line: bytes, number: int) -> int:
        place = f"{self.path}, line {number}"
        try:
            found = json_of(line)
            index, key = found["index"], found["key"]
        except (ValueError, LookupError, TypeError):
            raise InputError(f"{place}: not a result of offramp generate; {NEXT}") from None
        if not isinstance(index, int) or not 0 <= index < len(self._keys):
            raise InputError(
                f"{place}: made for prompt {index!r}, but now there are {len(self._keys)} prompts, "
                f"counted from 0; {NEXT}"
            )
        if index in self.finished:
            raise InputError(f"{place}: prompt {index} is there twice; {NEXT}")
        if key != self._keys[index]:
            raise InputError(
                f"{place}: made with another prompt or other settings ({_told(found)}); {NEXT}"
            )
        return index

    def _is_ours(self, tail: bytes) -> bool:
        """Tell whether a cut line is the beginning of one that is still missing."""
        return any(
            head.startswith(tail) or tail.startswith(head)
            for index, key in enumerate(self._keys)
            if index not in self.finished
            for head in (_head(index, key).encode(),)
        )


def _opened(path: Path) -> int:
    """Open and lock a file, leaving no descriptor behind where that fails."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise InputError(
                f"cannot write {path}: it is not a regular file; name another --output"
            )
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _sync_folder(path.parent)
    except BlockingIOError:
        os.close(file)
        raise InputError(
            f"{path} is being written by another offramp; wait for it, or name another --output"
        ) from None
    except BaseException:
        os.close(file)
        raise
    return file


def _sync_folder(folder: Path) -> None:
    """Make the disk keep the name of a new file, too, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _head(index: int, key: str) -> str:
    return f'{{"index": {index}, "key": "{key}"'


def _told(result: Mapping[str, Any]) -> str:
    told = {name: result.get(name) for name in ("model", "decoding", "prompt")}
    text = ", ".join(f"{name} {value!r}" for name, value in told.items())
    return text if len(text) <= 160 else f"{text[:157]}..."


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(f"cannot write {path}: {error.strerror or error}; name another --output")
