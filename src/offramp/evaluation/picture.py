"""Draw what was measured: exits against agreement, and against perplexity.

In:  a ``Report``. Out: an SVG or PNG file.
Law: one report makes one picture, byte for byte (tests/evaluation/test_picture.py).
Not here: measuring (offramp.evaluation.exits).

Matplotlib is imported where it draws, since only the extra ``eval`` brings it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from offramp.config import ORIGINAL
from offramp.errors import ConfigError, InputError
from offramp.evaluation.report import ExitReport, Report, RuleReport
from offramp.trace.figures import FORMATS, save

SIZE = (9.0, 3.8)
"""Inches, both panels together."""
FAINT = "0.6"


def check_picture(path: Path) -> None:
    """Refuse what could not be drawn, before anything is measured.

    Args:
        path: Where the picture shall go; its folder must exist.

    Raises:
        ConfigError: The name ends in neither .svg nor .png, or matplotlib is missing.
        InputError: The folder is missing, or it is no regular file.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"a picture is .svg or .png, got {str(path)!r}; name it exits.svg")
    if find_spec("matplotlib") is None:
        raise ConfigError(
            f"the picture {path} needs matplotlib, which is not installed; run "
            "pip install 'offramp[eval]'"
        )
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}; make it first")
    if path.exists() and not path.is_file():
        raise InputError(f"cannot write {path}: it is not a regular file; name another file")


def draw(report: Report, path: Path, *, title: str = "") -> None:
    """Write a picture of two panels.

    Args:
        report: What was measured.
        path: An .svg or .png file.
        title: A line above the panels.

    Raises:
        ConfigError: The name ends in neither, or matplotlib is missing.
        InputError: The file cannot be written.
    """
    with panels(path, 2, size=SIZE, title=title) as (left, right):
        _agreement(left, report)
        _perplexity(right, report)
        for panel in (left, right):
            panel.set_xlabel(f"exit (number of blocks, of {report.depth})")


@contextmanager
def panels(
    path: Path, count: int, *, size: tuple[float, float], title: str
) -> Iterator[Sequence[Any]]:
    """Give empty panels side by side, and write them into a file when the block ends.

    Args:
        path: An .svg or .png file.
        count: Panels.
        size: Inches, all panels together.
        title: A line above them.

    Raises:
        ConfigError: The name ends in neither, or matplotlib is missing.
        InputError: The file cannot be written.
    """
    check_picture(path)
    from matplotlib import rc_context  # noqa: PLC0415 - only the extra "eval" has it
    from matplotlib.figure import Figure  # noqa: PLC0415

    with rc_context({"svg.hashsalt": "offramp", "svg.fonttype": "none"}):
        figure = Figure(figsize=size, layout="constrained")
        drawn = figure.subplots(1, count, squeeze=False)[0]
        yield drawn
        for panel in drawn:
            panel.spines[["top", "right"]].set_visible(False)
            panel.grid(axis="y", color="0.9")
        figure.suptitle(title, fontsize="medium")
        save(figure, path)


def _agreement(panel: Any, report: Report) -> None:
    """Draw how often each exit gives the last layer's answer."""
    places = [_place(each, report) for each in report.exits]
    shares = [100 * each.agreement for each in report.exits]
    margins = [100 * (each.agreement_margin or 0) for each in report.exits]
    panel.errorbar(
        places,
        shares,
        yerr=margins,
        marker="o",
        capsize=2,
        label="its best token is the last layer's",
    )
    top = [100 * each.agreement_top5 for each in report.exits]
    panel.plot(places, top, marker=".", label="one of its five best is")
    reached = [100 * each.oracle_cumulative for each in report.exits]
    panel.plot(
        places, reached, linestyle=":", color=FAINT, label="its best is, and of every exit above"
    )
    panel.set_ylim(0, 103)
    panel.set_ylabel("agrees with the last layer (% of tokens)")
    panel.legend(frameon=False, fontsize="small")


def _perplexity(panel: Any, report: Report) -> None:
    """Draw how well each exit predicts the text, and each way to decode as a line."""
    places = [_place(each, report) for each in report.exits]
    panel.plot(places, [each.perplexity for each in report.exits], marker="o")
    for number, rule in enumerate(report.rules):
        _line(panel, rule, f"C{number + 1}")
    panel.set_yscale("log")
    panel.set_ylabel("perplexity of the text (log scale)")


def _line(panel: Any, rule: RuleReport, colour: str) -> None:
    if rule.impossible:
        label = f"{rule.decoding}: infinite"
        panel.plot([], [], linestyle="--", color=colour, label=label)
    else:
        panel.axhline(rule.perplexity, linestyle="--", color=colour, label=rule.decoding)
    panel.legend(frameon=False, fontsize="small")


def _place(each: ExitReport, report: Report) -> int:
    return report.depth if each.exit == ORIGINAL else each.exit
