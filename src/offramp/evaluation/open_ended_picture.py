"""Draw ways to go on with a text: a panel for each score, a group of bars for each strategy.

In:  an ``OpenEndedReport``. Out: an SVG or PNG file.
Law: one report makes one picture, byte for byte (tests/evaluation/test_open_ended_report.py).
Not here: measuring (offramp.evaluation.open_ended_report).
"""

from pathlib import Path
from typing import Any

from offramp.evaluation.open_ended_report import OpenEndedReport
from offramp.evaluation.picture import FAINT, panels
from offramp.evaluation.resampling import Score

SHOWN = {
    "seq_rep_4": "repeated 4-grams",
    "diversity": "diversity",
    "coherence": "coherence",
    "mauve": "MAUVE",
}
PANEL = (3.4, 3.6)
"""Inches of one panel."""
GROUP = 0.8
"""Width of the bars of one strategy, of the room that they have."""


def draw_open_ended(report: OpenEndedReport, path: Path, *, title: str = "") -> None:
    """Write a picture with 95 % intervals; what people wrote is a line.

    Args:
        report: What was measured.
        path: An .svg or .png file.
        title: A line above the panels.

    Raises:
        ConfigError: The name ends in neither, or matplotlib is missing.
        InputError: The file cannot be written.
    """
    names = [each.name for each in report.ways[0].scores if each.name in SHOWN]
    width, height = PANEL
    with panels(path, len(names), size=(width * len(names), height), title=title) as drawn:
        for panel, name in zip(drawn, names, strict=True):
            _panel(panel, report, name)
        handles, labels = drawn[0].get_legend_handles_labels()
        options = {"ncols": len(labels), "frameon": False, "fontsize": "small"}
        drawn[0].figure.legend(handles, labels, loc="outside lower center", **options)


def _panel(panel: Any, report: OpenEndedReport, name: str) -> None:
    strategies, decodings = report.strategies, report.decodings
    width = GROUP / len(decodings)
    for number, decoding in enumerate(decodings):
        found = {
            strategies.index(way.strategy): _score(way.scores, name)
            for way in report.ways
            if way.decoding == decoding
        }
        places = [place - GROUP / 2 + (number + 0.5) * width for place in found]
        values = [each.value for each in found.values()]
        panel.bar(places, values, width=0.9 * width, color=f"C{number}", label=decoding)
        for place, each in zip(places, found.values(), strict=True):
            if each.low is not None and each.high is not None:
                panel.vlines(place, each.low, each.high, color="black", linewidth=0.8)
    people = [each for each in report.people if each.name == name]
    if people:
        panel.axhline(people[0].value, linestyle=":", color=FAINT, label="people")
    panel.set_axisbelow(True)
    panel.set_xticks(range(len(strategies)), strategies)
    panel.set_title(SHOWN[name], fontsize="small")


def _score(scores: tuple[Score, ...], name: str) -> Score:
    return next(each for each in scores if each.name == name)
