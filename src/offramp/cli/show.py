"""Show results on stdout, progress and remarks on stderr."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def show_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on one line, at once."""
    readable = sys.stdout.encoding.lower() in ("utf-8", "utf8")
    show_text(json.dumps(value, ensure_ascii=not readable))


def show_text(text: str) -> None:
    """Print text on stdout, at once, so that whoever reads the pipe need not wait."""
    print(text, flush=True)  # noqa: T201 - the command line is what prints


def remark(text: str) -> None:
    """Print one line on stderr."""
    typer.echo(" ".join(line.strip() for line in text.splitlines()), err=True)


@contextmanager
def progress(
    total: int, *, done: int = 0, unit: str = "prompts"
) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr if there is more than one thing to do and somebody to see it.

    Args:
        total: How many there are to do.
        done: How many were finished before.
        unit: What they are, in the plural.

    Yields:
        A function to call with how many were finished since.
    """
    bar = Progress(
        TextColumn(unit),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        redirect_stdout=sys.stdout.isatty(),  # else results would be drawn on stderr
        disable=total < 2 or not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task(unit, total=total, completed=done)
        yield lambda count: bar.advance(task, count)
