"""Read pairs of sources and targets.

In:  a file of JSON lines. Out: pairs, each with a name of its place for messages.
Law: nothing is skipped: a line that cannot be used ends in one line of text that names it
     (tests/evaluation/test_pairs.py).
Not here: writing texts for them (offramp.evaluation.seq2seq).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offramp.errors import InputError
from offramp.models.files import json_of

JSON_LINE = '{"source": "text", "target": "text"}, with more references as "targets": ["text"]'


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A source, and what may be written for it.

    Attributes:
        source: What is read.
        references: At least one, the target first.
        place: Where it came from, such as ``"pairs.jsonl, line 3"``.
    """

    source: str
    references: tuple[str, ...]
    place: str


def read_pairs(path: Path, *, limit: int | None = None) -> list[Pair]:
    """Read pairs, at least one.

    Args:
        path: A file of JSON lines with ``source`` and ``target``, ``targets`` or both; other keys
            are ignored.
        limit: Stop after so many; None reads all.

    Raises:
        InputError: The file cannot be read, holds nothing, or a line cannot be used.
    """
    found = []
    for place, line in _lines(path):
        found.append(_pair(line, place))
        if len(found) == limit:
            break
    return found


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Give each line with the name of its place; only a newline ends a line."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror or error}; name a file of pairs"
        ) from None
    if not data.strip():
        raise InputError(f"{path} holds no pair; write one a line: {JSON_LINE}")
    lines = data.removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").split(b"\n")
    for number, line in enumerate(lines, start=1):
        yield f"{path}, line {number}", line


def _pair(line: bytes, place: str) -> Pair:
    try:
        found = json_of(line.decode())
    except ValueError as error:  # of UTF-8, too
        raise InputError(f"{place}: not JSON ({error}); write {JSON_LINE}") from None
    if not isinstance(found, dict) or "source" not in found:
        raise InputError(f'{place}: there is no "source", got {_shown(found)}; write {JSON_LINE}')
    more = found.get("targets", [])
    if not isinstance(more, list):
        raise InputError(f'{place}: "targets" must be a list, got {_shown(more)}')
    references = ([found["target"]] if "target" in found else []) + more
    if not references:
        raise InputError(f'{place}: there is no "target", got {_shown(found)}; write {JSON_LINE}')
    for each in (found["source"], *references):
        if not isinstance(each, str) or not each.strip():
            raise InputError(
                f"{place}: a source or target is {_shown(each)}; write a text of at least one word"
            )
    return Pair(source=found["source"], references=tuple(dict.fromkeys(references)), place=place)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
