"""Show a trace in a terminal: exits down, positions across, as many as fit, then the next ones.

In:  a trace and the width of the terminal. Out: what rich prints.
Law: no line is wider than the terminal; what tokens hold cannot steer it
     (tests/trace/test_table.py).
Not here: printing (offramp.cli.trace).
"""

from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from offramp.trace.sight import (
    MEANINGS,
    Measure,
    agreement,
    brightness,
    check_measure,
    largest,
    left_at,
    settled,
)
from offramp.trace.values import Position, Said, Traced
from offramp.trace.wording import exit_label, fitted, printable, shown

CELL = 9
"""Columns of text for one position, with its mark."""

STEPS = ((38, 34, 72), (58, 82, 139), (33, 145, 140), (110, 205, 100), (253, 231, 60))
"""Colours from 0 to 1: dark to bright and told apart by those who see few colours."""

AGREES, LEAVES = "=", "\u25b8"
LEGEND = (
    "% beside an exit: positions at which it agrees with the last layer",
    f"{AGREES} the last layer's best token; bold: so do all exits below it in the table",
    f"{LEAVES} where its place left the layers, or where the gates would let it",
)


class TraceTable:
    """A trace that rich can print.

    Args:
        traced: What was traced.
        measure: What cells are coloured by: probability, entropy, divergence or agreement.

    Raises:
        ConfigError: There is no such measure.
    """

    def __init__(self, traced: Traced, *, measure: str = "probability") -> None:
        self._traced, self._measure = traced, check_measure(measure)
        self._most = largest(traced, self._measure)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Give blocks of as many positions as fit."""
        label = max(len(name) for name in self._labels())
        room = max(1, (options.max_width - label - 1) // (CELL + 1))
        positions = self._traced.positions
        for start in range(0, len(positions), room):
            yield self._block(positions[start : start + room], label)
            yield Text()
        yield from self._legend()

    def _labels(self) -> list[str]:
        rows = [self._exit_label(place) for place in range(len(self._traced.exits))]
        return [
            "place",
            "token",
            *rows,
            self._target_label(),
            *(("rule",) if self._ruled() else ()),
        ]

    def _exit_label(self, place: int) -> str:
        share = f"{100 * agreement(self._traced, place):.0f}%"
        return f"{exit_label(self._traced.exits[place].exit):<4} {share:>4}"

    def _target_label(self) -> str:
        return "text" if self._traced.kind == "canvas" else "next"

    def _ruled(self) -> bool:
        return any(each.changed is not None for each in self._traced.positions)

    def _block(self, positions: Sequence[Position], label: int) -> Table:
        table = Table(box=None, padding=(0, 1, 0, 0), show_header=False, pad_edge=False)
        for width in (label, *[CELL] * len(positions)):
            table.add_column(width=width, no_wrap=True)
        table.add_row(*_line("place", [str(each.index) for each in positions], "dim"))
        table.add_row(*_line("token", [shown(each.token) for each in positions], "bold"))
        for place in range(len(self._traced.exits)):
            cells = [self._cell(each, place) for each in positions]
            table.add_row(Text(self._exit_label(place), style="cyan"), *cells)
        if self._ruled():
            table.add_row(Text("rule", style="cyan"), *map(_ruled_cell, positions))
        targets = ["" if each.target is None else shown(each.target) for each in positions]
        table.add_row(*_line(self._target_label(), targets, "dim"))
        return table

    def _cell(self, position: Position, place: int) -> Text:
        said = position.said[place]
        mark = LEAVES if left_at(position) == place else (AGREES if said.agrees else " ")
        words = fitted(shown(said.top[0].token), CELL - 1) + mark
        style = _style(said, self._measure, self._most)
        return Text(words, style=style + Style(bold=place >= settled(position)))

    def _legend(self) -> Iterator[RenderableType]:
        bar = Text()
        for step in range(10):
            bar.append("  ", style=Style(bgcolor=_colour(step / 9)))
        shares = self._measure in ("probability", "agreement")
        ends = ("0", "1") if shares else (f"{self._most:.3g}", "0")
        words = Text(f"{self._measure} {ends[0]} ").append_text(bar)
        yield words.append(f" {ends[1]}: {MEANINGS[self._measure]}")
        for line in LEGEND:
            yield Text(line)
        if self._ruled():
            name = printable(str(self._traced.decoding))
            yield Text(f"rule: {name}; reversed where it changed the best token")


def _line(label: str, words: Sequence[str], style: str) -> list[Text]:
    return [Text(label, style="cyan"), *(Text(fitted(each, CELL), style=style) for each in words)]


def _ruled_cell(position: Position) -> Text:
    changed = position.changed
    if changed is None:
        return Text("")
    words = fitted(shown(changed.after.token), CELL - 1) + ("!" if changed.changed else " ")
    return Text(words, style=Style(reverse=changed.changed))


def _style(said: Said, measure: Measure, most: float) -> Style:
    value = brightness(said, measure, most)
    return Style(color="black" if value > 0.55 else "white", bgcolor=_colour(value))


def _colour(value: float) -> str:
    place = min(max(value, 0.0), 1.0) * (len(STEPS) - 1)
    low = min(int(place), len(STEPS) - 2)
    parts = [
        round(one + (other - one) * (place - low))
        for one, other in zip(STEPS[low], STEPS[low + 1], strict=True)
    ]
    return "#{:02x}{:02x}{:02x}".format(*parts)
