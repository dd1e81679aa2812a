"""Write the grid of a trace as HTML, and what its script reads.

In:  a trace. Out: rows of a table, and JSON that fits into a script element.
Law: whatever a token holds, no tag, attribute or script begins in it (tests/trace/test_page.py).
"""

import json
from collections.abc import Iterator
from html import escape
from typing import Any

from offramp.trace.sight import (
    MEANINGS,
    MEASURES,
    Measure,
    agreement,
    brightness,
    largest,
    left_at,
    settled,
)
from offramp.trace.values import Changed, Position, Said, Token, Traced
from offramp.trace.wording import exit_label, shown


def grid_of(traced: Traced, *, measure: Measure) -> str:
    """Give the table: exits down, positions across.

    Args:
        traced: What was traced.
        measure: What cells are coloured by.
    """
    rows = [f"<thead><tr><th scope=col>exit</th>{''.join(_heads(traced))}</tr></thead>", "<tbody>"]
    most = largest(traced, measure)
    for place in range(len(traced.exits)):
        cells = "".join(
            _cell(traced, (place, column), brightness(position.said[place], measure, most))
            for column, position in enumerate(traced.positions)
        )
        rows.append(f"<tr>{_exit_head(traced, place)}{cells}</tr>")
    if any(each.changed is not None for each in traced.positions):
        cells = "".join(
            _ruled_cell(position.changed, (len(traced.exits), column))
            for column, position in enumerate(traced.positions)
        )
        rows.append(f"<tr><th scope=row>rule</th>{cells}</tr>")
    name = "text" if traced.kind == "canvas" else "next"
    targets = "".join(f"<td class=plain>{_target(each)}</td>" for each in traced.positions)
    rows.append(f"<tr><th scope=row>{name}</th>{targets}</tr></tbody>")
    return f'<table id=grid aria-label="What every exit said">{"".join(rows)}</table>'


def data_of(traced: Traced) -> str:
    """Give the JSON that the script reads, safe inside of a script element."""
    numbers: dict[Token, int] = {}

    def number(token: Token) -> int:
        return numbers.setdefault(token, len(numbers))

    canvas = traced.kind == "canvas"
    content: dict[str, Any] = {
        "exits": [exit_label(each.exit) for each in traced.exits],
        "rule": traced.decoding if any(each.changed for each in traced.positions) else None,
        "placeName": "Place" if canvas else "Position",
        "targetName": "written" if canvas else "next",
        "leftWords": "Here it left the layers; what is above is the same."
        if canvas
        else "Here the gates would let it leave.",
        "most": {each: largest(traced, each) for each in MEASURES},
        "meanings": MEANINGS,
        "positions": [_position(each, number) for each in traced.positions],
    }
    content["words"] = [shown(token) for token in numbers]
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _heads(traced: Traced) -> Iterator[str]:
    for position in traced.positions:
        words = escape(shown(position.token))
        yield f"<th scope=col class=place><small>{position.index}</small>{words}</th>"


def _exit_head(traced: Traced, place: int) -> str:
    each = traced.exits[place]
    share = agreement(traced, place)
    reads = "" if each.projection is None else f' title="{escape(each.projection)}"'
    return (
        f"<th scope=row{reads}><span class=exit>{exit_label(each.exit)}"
        f"<small>{100 * share:.0f} %</small></span><i style=--a:{share:.3f}></i></th>"
    )


def _cell(traced: Traced, place: tuple[int, int], value: float) -> str:
    row, column = place
    position = traced.positions[column]
    said, left = position.said[row], left_at(position)
    kinds = ["same" if said.agrees else "apart"]
    if row >= settled(position):
        kinds.append("settled")
    if left == row:
        kinds.append("left")
    elif left is not None and position.left is not None and row > left:
        kinds.append("after")
    first = place == (len(traced.exits) - 1, 0)
    return (
        f'<td class="{" ".join(kinds)}" style=--v:{value:.3f} tabindex={0 if first else -1}'
        f' data-row={row} data-column={column} title="{escape(_spoken(said))}">'
        f"{escape(shown(said.top[0].token))}</td>"
    )


def _spoken(said: Said) -> str:
    """Say in one line what a cell holds, for readers without scripts."""
    best = ", ".join(f"{shown(each.token)} {100 * each.probability:.1f} %" for each in said.top)
    return f"exit {exit_label(said.exit)}: {best}; entropy {said.entropy:.2f}"


def _ruled_cell(changed: Changed | None, place: tuple[int, int]) -> str:
    if changed is None:
        return "<td class=plain></td>"
    kind = "moved" if changed.changed else "plain"
    return (
        f"<td class={kind} tabindex=-1 data-row={place[0]} data-column={place[1]}>"
        f"{escape(shown(changed.after.token))}</td>"
    )


def _target(position: Position) -> str:
    return "" if position.target is None else escape(shown(position.target))


def _position(position: Position, number: Any) -> dict[str, Any]:
    return {
        "index": position.index,
        "token": number(position.token),
        "target": None if position.target is None else number(position.target),
        "left": left_at(position),
        "said": [_said(each, number) for each in position.said],
        "rule": None if position.changed is None else _rule(position.changed, number),
    }


def _said(said: Said, number: Any) -> list[Any]:
    gate = said.gate
    top = [[number(each.token), each.probability] for each in said.top]
    gated = None if gate is None else [gate.confidence, gate.threshold, gate.leaves]
    return [top, said.entropy, said.divergence, said.agrees, said.target, gated]


def _rule(changed: Changed, number: Any) -> dict[str, Any]:
    listed = changed.plausible
    return {
        "before": [number(changed.before.token), changed.before.probability],
        "after": [number(changed.after.token), changed.after.probability],
        "changed": changed.changed,
        "apart": changed.divergence,
        "target": changed.target,
        "count": changed.num_plausible,
        "plausible": None
        if listed is None
        else [[number(each.token), each.before, each.after] for each in listed],
    }
