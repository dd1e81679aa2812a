"""Write what was traced as plain dicts and lists, and read it back.

In:  a ``Traced``, or what somebody calls the JSON of one. Out: the other, or one error.
Law: reading what was written gives the same values; what is missing, unknown, of another type or
     out of range is refused (tests/trace/test_plain.py).
"""

import json
import types
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from offramp.errors import InputError
from offramp.trace.values import Traced

FORMAT, VERSION = "offramp-trace", 1

Kind = TypeVar("Kind", bound=Traced)


def plain_of(traced: Traced) -> dict[str, Any]:
    """Give what was traced as dicts, lists, texts, numbers and None."""
    return {"format": FORMAT, "version": VERSION, **asdict(traced)}


def read_plain(kind: type[Kind], content: Any) -> Kind:
    """Read what ``plain_of`` gave, also after a way through JSON.

    Args:
        kind: ``Traced``, or a subclass without further fields.
        content: From ``plain_of``.

    Raises:
        InputError: It is something else, or of another version.
    """
    header = {name: content.get(name) for name in ("format", "version")} if _is_map(content) else {}
    if header != {"format": FORMAT, "version": VERSION}:
        raise _refused(f"it does not begin with format {FORMAT!r} and version {VERSION}")
    body = {name: value for name, value in content.items() if name not in header}
    traced: Kind = _read(kind, body, "the trace")
    _check(traced)
    return traced


def read_json(kind: type[Kind], text: str | bytes) -> Kind:
    """Read the JSON of a trace.

    Args:
        kind: ``Traced``, or a subclass without further fields.
        text: The JSON.

    Raises:
        InputError: It is no JSON, or not of a trace.
    """
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _refused(f"no JSON: {error}") from None
    return read_plain(kind, content)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _read(kind: Any, value: Any, place: str) -> Any:
    """Turn a plain value into what a type says, or refuse it."""
    if get_origin(kind) in (Union, types.UnionType):
        return _read_union(get_args(kind), value, place)
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise _refused(f"{place} must be a list, got {_brief(value)}")
        item = get_args(kind)[0]
        return tuple(_read(item, each, f"{place}[{n}]") for n, each in enumerate(value))
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise _refused(f"{place} must be one of {get_args(kind)}, got {_brief(value)}")
        return value
    if is_dataclass(kind):
        return _read_fields(kind, value, place)
    good = isinstance(value, (int, float) if kind is float else kind)
    if not good or (isinstance(value, bool) and kind is not bool):
        raise _refused(f"{place} must be {kind.__name__}, got {_brief(value)}")
    return float(value) if kind is float else value


def _read_union(kinds: tuple[Any, ...], value: Any, place: str) -> Any:
    """Read one of several types; of None and one other, say what is wrong with the other."""
    if value is None and type(None) in kinds:
        return None
    rest = [kind for kind in kinds if kind is not type(None)]
    for kind in rest[:-1]:
        try:
            return _read(kind, value, place)
        except InputError:
            continue
    return _read(rest[-1], value, place)


def _read_fields(kind: Any, value: Any, place: str) -> Any:
    hints = _hints(kind)
    given = set(value) if _is_map(value) else set()
    missing, unknown = sorted(hints.keys() - given), sorted(given - hints.keys())
    if missing or unknown:
        raise _refused(f"{place} lacks {missing}, and has {unknown} that nobody knows")
    return kind(**{n: _read(hint, value[n], f"{place}.{n}") for n, hint in hints.items()})


@cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _check(traced: Traced) -> None:
    """Refuse values that each have the right type and together make no trace."""
    exits = [each.exit for each in traced.exits]
    last = -1
    for position in traced.positions:
        if not last < position.index < traced.length:
            raise _refused(
                f"position {position.index} of {traced.length} comes after position {last}"
            )
        last = position.index
        if [said.exit for said in position.said] != exits:
            raise _refused(f"position {last} does not have exactly the exits {exits}")
        for said in position.said:
            shares = [said.target, *(each.probability for each in said.top)]
            if any(share is not None and not 0 <= share <= 1 for share in shares):
                raise _refused(f"a probability at position {last} is not from 0 to 1")
    if not exits or traced.depth < 1:
        raise _refused(f"a model of {traced.depth} blocks has exits {exits}")


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping)


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _refused(why: str) -> InputError:
    return InputError(f"this is no trace of offramp ({why}); make one by offramp trace --json")
