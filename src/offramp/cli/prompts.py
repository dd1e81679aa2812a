"""Read prompts from an argument, a file of lines, JSON lines or standard input.

In:  one of the four. Out: prompts, each with a name of its place for messages.
Law: nothing is skipped: a line that cannot be used ends in one line of text that names it
     (tests/cli/test_prompts.py).
Not here: chat templates and tokens (offramp.cli.answers).
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offramp.errors import ConfigError, InputError

Message = Mapping[str, str]
"""A turn of a conversation: ``role`` and ``content``."""

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
) -> list[Prompt]:
    """Read all prompts, at least one.

    Args:
        argument: A prompt.
        file: A file with one prompt a line.
        jsonl: A file with one JSON object a line.
        stdin: Reads standard input, which is one prompt; None if that is a terminal. Called only if
            there is no other source.

    Raises:
        ConfigError: More than one source.
        InputError: No source, or one that cannot be used.

    Example:
        >>> read_prompts(argument="Hello", file=None, jsonl=None, stdin=None)[0].content
        'Hello'
    """
    sources = {"a prompt as argument": argument, "--file": file, "--jsonl": jsonl}
    given = [name for name, value in sources.items() if value is not None]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} exclude each other; keep one of them")
    if argument is not None:
        return [Prompt(content=_checked(argument, "the prompt"), place="the prompt")]
    if file is not None:
        return [Prompt(content=_checked(line, place), place=place) for place, line in _lines(file)]
    if jsonl is not None:
        return [_from_json(line, place) for place, line in _lines(jsonl)]
    if stdin is None:
        raise InputError(
            "no prompt: give one as argument, by --file, by --jsonl or through standard input"
        )
    place = "standard input"
    text = _decoded(stdin(), place).removesuffix("\n")
    return [Prompt(content=_checked(text, place), place=place)]


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Give each line with the name of its place; only a newline ends a line."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror or error}; name a file of prompts"
        ) from None
    lines = data.removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").split(b"\n")
    if lines == [b""]:
        raise InputError(f"{path} holds no prompt; write one a line")
    for number, line in enumerate(lines, start=1):
        place = f"{path}, line {number}"
        yield place, _decoded(line, place).removesuffix("\r")


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
        found = json.loads(line)
    except ValueError as error:
        raise InputError(
            f"{place}: not JSON ({error}), got {_shown(line)}; write {JSON_LINE}"
        ) from None
    if not isinstance(found, dict) or ("prompt" in found) == ("messages" in found):
        raise InputError(f"{place}: got {_shown(line)}; write {JSON_LINE}")
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
