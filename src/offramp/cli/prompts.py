"""Read prompts from an argument, a file of lines, JSON lines, Parquet or standard input.

In:  one of the five. Out: prompts, each with a name of its place for messages.
Law: nothing is skipped: a line that cannot be used ends in one line of text that names it
     (tests/cli/test_prompts.py).
Not here: chat templates and tokens (offramp.cli.answers).
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from offramp.cli.parquet import rows_of
from offramp.errors import ConfigError, InputError
from offramp.models.files import json_of

Message = Mapping[str, str]
"""A turn of a conversation: ``role`` and ``content``."""

MARK = b"\xef\xbb\xbf"
"""What some editors write before UTF-8."""

JSON_LINE = '{"prompt": "text"} or {"messages": [{"role": "user", "content": "text"}]}'


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One thing to answer.

    Attributes:
        content: A text, or the messages of a conversation.
        place: Where it came from, such as ``"prompts.txt, line 3"``.
    """

    content: str | tuple[Message, ...]
    place: str


def read_prompts(
    *,
    argument: str | None,
    file: Path | None,
    jsonl: Path | None,
    stdin: Callable[[], bytes] | None,
    parquet: Path | None = None,
) -> list[Prompt]:
    """Read all prompts, at least one.

    Args:
        argument: A prompt.
        file: A file with one prompt a line.
        jsonl: A file with one JSON object a line.
        stdin: Reads standard input, which is one prompt; None if that is a terminal. Called only if
            there is no other source.
        parquet: A file of Parquet with a column ``prompt`` or ``messages``.

    Raises:
        ConfigError: More than one source.
        InputError: No source, or one that cannot be used.

    Example:
        >>> read_prompts(argument="Hello", file=None, jsonl=None, stdin=None)[0].content
        'Hello'
    """
    sources = {
        "a prompt as argument": argument,
        "--file": file,
        "--jsonl": jsonl,
        "--parquet": parquet,
    }
    given = [name for name, value in sources.items() if value is not None]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} exclude each other; keep one of them")
    if argument is not None:
        return [Prompt(content=_checked(argument, "the prompt"), place="the prompt")]
    for path in (file, jsonl, parquet):
        if path is not None:
            return list(_reader(file=file, jsonl=jsonl, parquet=parquet)())
    if stdin is None:
        raise InputError(
            "no prompt: give one as argument, by --file, by --jsonl, by --parquet or through "
            "standard input"
        )
    place = "standard input"
    text = _decoded(stdin(), place).removesuffix("\n")
    return [Prompt(content=_checked(text, place), place=place)]


class PromptFile(Collection[Prompt]):
    """The prompts of a file, which are read anew each time and never all there at once."""

    def __init__(self, *, file: Path | None, jsonl: Path | None, parquet: Path | None) -> None:
        """Read the file once, and refuse what cannot be used.

        Args:
            file: See ``read_prompts``; one of the three is given.
            jsonl: As well.
            parquet: As well.

        Raises:
            InputError: It cannot be used.
        """
        self._read = _reader(file=file, jsonl=jsonl, parquet=parquet)
        self._count = sum(1 for _ in self._read())

    def __iter__(self) -> Iterator[Prompt]:
        """Read them, in order."""
        return self._read()

    def __len__(self) -> int:
        """Count them."""
        return self._count

    def __contains__(self, prompt: object) -> bool:
        """Look for one."""
        return any(each == prompt for each in self)


def _reader(
    *, file: Path | None, jsonl: Path | None, parquet: Path | None
) -> Callable[[], Iterator[Prompt]]:
    if file is not None:
        return partial(_from_lines, file)
    if jsonl is not None:
        return partial(_from_json_lines, jsonl)
    assert parquet is not None
    return partial(_from_parquet, parquet)


def _from_lines(path: Path) -> Iterator[Prompt]:
    for place, line in _lines(path):
        yield Prompt(content=_checked(line, place), place=place)


def _from_json_lines(path: Path) -> Iterator[Prompt]:
    for place, line in _lines(path):
        yield _from_json(line, place)


def _from_parquet(path: Path) -> Iterator[Prompt]:
    for place, row in rows_of(path, columns=("prompt", "messages")):
        yield _prompt_of({name: each for name, each in row.items() if each is not None}, place)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Give each line with the name of its place; only a newline ends a line."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror or error}; name a file of prompts"
        ) from None
    with file:
        if next(iter(file), b"").removeprefix(MARK) in (b"", b"\n") and not file.read(1):
            raise InputError(f"{path} holds no prompt; write one a line")
        file.seek(0)
        for number, line in enumerate(file, start=1):
            place = f"{path}, line {number}"
            bare = line.removeprefix(MARK) if number == 1 else line
            yield place, _decoded(bare.removesuffix(b"\n"), place).removesuffix("\r")


def _decoded(data: bytes, place: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        found = data[error.start : error.start + 1]
        raise InputError(
            f"{place}: not UTF-8, byte {error.start} is {found!r}; convert it to UTF-8"
        ) from None


def _checked(text: str, place: str) -> str:
    if not text.strip():
        raise InputError(f"{place} is empty, got {text!r}; write at least one word")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        wrong = text[error.start]
        raise InputError(f"{place}: {wrong!r} is half a character; write valid UTF-8") from None
    return text


def _from_json(line: str, place: str) -> Prompt:
    """Read one JSON line; keys other than ``prompt`` and ``messages`` are somebody else's."""
    try:
        found = json_of(line)
    except ValueError as error:
        raise InputError(
            f"{place}: not JSON ({error}), got {_shown(line)}; write {JSON_LINE}"
        ) from None
    return _prompt_of(found, place)


def _prompt_of(found: Any, place: str) -> Prompt:
    """Read one object, of a line or a row."""
    if not isinstance(found, dict) or ("prompt" in found) == ("messages" in found):
        raise InputError(f"{place}: got {_shown(found)}; write {JSON_LINE}")
    if "messages" in found:
        return Prompt(content=_messages(found["messages"], place), place=place)
    if not isinstance(found["prompt"], str):
        raise InputError(
            f'{place}: "prompt" must be a text, got {_shown(found["prompt"])}; write {JSON_LINE}'
        )
    return Prompt(content=_checked(found["prompt"], place), place=place)


def _messages(found: Any, place: str) -> tuple[Message, ...]:
    good = isinstance(found, list) and all(
        isinstance(each, dict)
        and each.keys() == {"role", "content"}
        and all(isinstance(value, str) for value in each.values())
        for each in found
    )
    if not good or not found:
        raise InputError(
            f'{place}: "messages" must be a list of objects with the texts "role" and "content", '
            f"got {_shown(found)}; write {JSON_LINE}"
        )
    for number, message in enumerate(found, start=1):
        for part in ("role", "content"):
            _checked(message[part], f"{place}: {part} of message {number}")
    return tuple(found)


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
