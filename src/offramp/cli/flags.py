"""Make a command's options from a class of settings, so that each is described once.

In:  a frozen dataclass with a line on each field in its docstring. Out: a function whose signature
     typer reads.
Law: every field is an option with the field's default and text (tests/cli/test_flags.py).
"""

import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import fields
from enum import StrEnum
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer


def texts_of(settings: type) -> dict[str, str]:
    """Read the description of each field off a class's docstring and those of its bases."""
    found: dict[str, str] = {}
    for kind in reversed(settings.__mro__):
        doc = inspect.getdoc(kind) or ""
        _, _, listed = doc.partition("Attributes:\n")
        name = None
        for line in listed.splitlines():
            if line.strip() and not line.startswith("    "):
                break
            if line.startswith("    ") and line[4:5].strip() and ": " in line:
                name, _, text = line.strip().partition(": ")
                found[name] = text
            elif name and line.strip():
                found[name] += " " + line.strip()
    return found


def with_settings(
    settings: type, *, panels: Mapping[str, str], panel: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for each field of a class of settings.

    Args:
        settings: The class; the command is called with an object of it as ``settings``.
        panels: Where an option stands in the help, by its field.
        panel: Where all others stand.
    """
    texts, hints = texts_of(settings), get_type_hints(settings)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            each
            for name, each in inspect.signature(command).parameters.items()
            if name != "settings"
        ]
        made = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=Annotated[
                    _choice(field.name, hints[field.name]),
                    typer.Option(
                        help=texts[field.name], rich_help_panel=panels.get(field.name, panel)
                    ),
                ],
            )
            for field in fields(settings)
        ]

        def run(**given: Any) -> None:
            chosen = {field.name: given.pop(field.name) for field in fields(settings)}
            plain = {
                name: value.value if isinstance(value, StrEnum) else value
                for name, value in chosen.items()
            }
            command(**given, settings=settings(**plain))

        run.__doc__ = command.__doc__
        run.__name__ = command.__name__
        run.__signature__ = inspect.Signature([*own, *made])  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in [*own, *made]}
        return run

    return decorate


def _choice(name: str, hint: Any) -> Any:
    """Give the type that typer reads: words that are listed become an enumeration."""
    if get_origin(hint) is Literal:
        return StrEnum(name.title(), {word: word for word in get_args(hint)})
    if isinstance(hint, types.UnionType) and type(None) in get_args(hint):
        (inner,) = (each for each in get_args(hint) if each is not type(None))
        return _choice(name, inner) | None
    return hint
