"""Draw a trace by matplotlib: heat map, agreement curves, histogram of exits.

In:  a trace. Out: figures of matplotlib, or a file with all three.
Law: one trace makes one picture, byte for byte (tests/trace/test_figures.py).

Matplotlib is imported where it draws, since only the extra ``eval`` brings it.
"""

import math
import warnings
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from offramp.errors import ConfigError, InputError
from offramp.trace.sight import (
    MEANINGS,
    agreement,
    check_measure,
    largest,
    left_at,
    mean_divergence,
    settled,
    value_of,
)
from offramp.trace.values import Traced
from offramp.trace.wording import exit_label, shown
from offramp.whole import write_whole

FORMATS = (".svg", ".png")
MOST_WORDS = 600
"""Cells of a heat map that have room for their token; larger maps show colours only."""

WIDEST = 60.0
"""Inches: a map of more positions gets thinner columns instead."""

LETTERS = 8


def check_figures() -> None:
    """Refuse to draw where matplotlib is missing.

    Raises:
        ConfigError: It is.
    """
    if find_spec("matplotlib") is None:
        raise ConfigError(
            "pictures of a trace need matplotlib, which is not installed; run pip install "
            "'offramp[eval]'"
        )


def heat_map(traced: Traced, *, measure: str = "probability", panel: Any = None) -> Any:
    """Draw depth against position.

    Args:
        traced: What was traced.
        measure: What is shown: probability, entropy, divergence or agreement.
        panel: An axes of matplotlib to draw on; None makes a figure.

    Returns:
        The figure.

    Raises:
        ConfigError: There is no such measure, or matplotlib is missing.
    """
    name = check_measure(measure)
    across, down = len(traced.positions), len(traced.exits)
    panel = panel or _panel(min(2 + 0.75 * across, WIDEST), 1.2 + 0.32 * down)
    most = largest(traced, name)
    rows = [
        [min(value_of(position.said[place], name), most) for position in traced.positions]
        for place in range(down)
    ]
    bright = name in ("probability", "agreement")
    colours = "viridis" if bright else "viridis_r"
    image = panel.imshow(
        rows, aspect="auto", origin="lower", cmap=colours, vmin=0, vmax=most, interpolation="none"
    )
    panel.set_yticks(range(down), [exit_label(each.exit) for each in traced.exits])
    panel.set_ylabel("exit")
    words = [_words(shown(position.token)) for position in traced.positions]
    if across * down <= MOST_WORDS:
        panel.set_xticks(range(across), words, rotation=45, ha="right", fontsize="small")
        for each in panel.get_xticklabels():
            each.set_parse_math(False)
        _write(panel, traced, rows, most, bright=bright)
    else:
        panel.set_xlabel("position")
    bar = panel.figure.colorbar(image, ax=panel, pad=0.01)
    bar.set_label(name)
    panel.set_title(MEANINGS[name], fontsize="small", loc="left")
    return panel.figure


def agreement_curves(traced: Traced, *, panel: Any = None) -> Any:
    """Draw how often each exit agrees with the last layer, and how far it is from it.

    Args:
        traced: What was traced.
        panel: An axes of matplotlib to draw on; None makes a figure.

    Returns:
        The figure.

    Raises:
        ConfigError: Matplotlib is missing.
    """
    panel = panel or _panel(6.0, 3.6)
    places = range(len(traced.exits))
    panel.plot(
        places, [100 * agreement(traced, each) for each in places], marker="o", label="agrees"
    )
    reached = [
        100
        * sum(settled(position) <= place for position in traced.positions)
        / max(len(traced.positions), 1)
        for place in places
    ]
    panel.plot(places, reached, linestyle=":", color="0.5", label="so do all exits above")
    panel.set_ylim(0, 103)
    panel.set_ylabel("% of positions")
    _name_exits(panel, traced)
    other = panel.twinx()
    apart = [mean_divergence(traced, each) for each in places]
    other.plot(places, apart, color="C1", marker=".", label="KL")
    if all(math.isfinite(each) for each in apart):
        other.set_ylim(bottom=0)
    other.set_ylabel("KL from the last layer (nats)", color="C1")
    panel.legend(frameon=False, fontsize="small", loc="center left")
    return panel.figure


def exit_histogram(traced: Traced, *, panel: Any = None) -> Any:
    """Draw at which exit places left the layers, gates would let them, or answers settled.

    Args:
        traced: What was traced.
        panel: An axes of matplotlib to draw on; None makes a figure.

    Returns:
        The figure.

    Raises:
        ConfigError: Matplotlib is missing.
    """
    panel = panel or _panel(6.0, 3.6)
    last = len(traced.exits) - 1
    counts, title = Counter(map(settled, traced.positions)), "where the best token is final"
    left = [left_at(position) for position in traced.positions]
    if traced.kind == "canvas" or any(each.said[0].gate for each in traced.positions):
        counts = Counter(last if each is None else each for each in left)
        canvas = traced.kind == "canvas"
        title = "where places left" if canvas else "where the gates would let tokens leave"
    panel.bar(range(last + 1), [counts[place] for place in range(last + 1)])
    panel.yaxis.get_major_locator().set_params(integer=True)
    panel.set_ylabel("positions")
    panel.set_title(title, fontsize="small", loc="left")
    _name_exits(panel, traced)
    return panel.figure


def draw(traced: Traced, path: str | Path, *, measure: str = "probability") -> None:
    """Write a file with all three figures.

    Args:
        traced: What was traced.
        path: An .svg or .png file.
        measure: What the heat map shows.

    Raises:
        ConfigError: The name ends in neither, or matplotlib is missing.
        InputError: The file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"a picture is .svg or .png, got {str(path)!r}; name it trace.svg")
    check_figures()
    from matplotlib import rc_context  # noqa: PLC0415 - only the extra "eval" has it
    from matplotlib.figure import Figure  # noqa: PLC0415

    across, down = len(traced.positions), len(traced.exits)
    width, height = min(max(2 + 0.75 * across, 9.0), WIDEST), 1.6 + 0.32 * down
    with rc_context({"svg.hashsalt": "offramp", "svg.fonttype": "none"}):
        figure = Figure(figsize=(width, height + 3.2), layout="constrained")
        parts: Any = figure.subfigures(2, 1, height_ratios=(height, 3.2))
        upper, lower = parts
        heat_map(traced, measure=measure, panel=upper.subplots())
        left, right = lower.subplots(1, 2)
        agreement_curves(traced, panel=left)
        exit_histogram(traced, panel=right)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")  # of a script that the font lacks
            save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write a figure of matplotlib, whole and without a date.

    Args:
        figure: What is drawn.
        path: An .svg or .png file.

    Raises:
        InputError: The file cannot be written.
    """
    kind = path.suffix.lower().removeprefix(".")
    dates = {"Date": None} if kind == "svg" else {}
    try:
        write_whole(path, lambda place: figure.savefig(place, format=kind, metadata=dates))
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; name another file"
        ) from None


def _panel(width: float, height: float) -> Any:
    check_figures()
    from matplotlib.figure import Figure  # noqa: PLC0415 - only the extra "eval" has it

    return Figure(figsize=(width, height), layout="constrained").subplots()


def _write(panel: Any, traced: Traced, rows: Any, most: float, *, bright: bool) -> None:
    """Write each exit's best token into its cell; those that agree with the last layer bold."""
    for across, position in enumerate(traced.positions):
        for down, said in enumerate(position.said):
            light = (rows[down][across] / most > 0.6) == bright
            panel.text(
                across,
                down,
                _words(shown(said.top[0].token)),
                ha="center",
                va="center",
                fontsize=7,
                color="black" if light else "white",
                fontweight="bold" if said.agrees else "normal",
                parse_math=False,
            )


def _words(text: str) -> str:
    return text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}\u2026"


def _name_exits(panel: Any, traced: Traced) -> None:
    names = [exit_label(each.exit) for each in traced.exits]
    panel.set_xticks(range(len(names)), names, fontsize="small")
    panel.set_xlabel(f"exit (number of blocks, of {traced.depth})")
    panel.spines[["top", "right"]].set_visible(False)
