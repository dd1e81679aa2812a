"""The picture is there, says what was measured, and is the same each time."""

import math
import sys
from dataclasses import replace
from importlib.machinery import PathFinder

import pytest

from offramp.errors import ConfigError, InputError
from offramp.evaluation.picture import draw
from offramp.evaluation.report import ExitReport, Report, RuleReport


def an_exit(exit, agreement, perplexity):
    return ExitReport(
        exit=exit,
        projection=None if exit == "original" else "direct",
        cross_entropy=math.log(perplexity),
        cross_entropy_margin=0.1,
        perplexity=perplexity,
        accuracy=0.2,
        agreement=agreement,
        agreement_margin=0.05,
        agreement_top5=min(1.0, agreement + 0.1),
        divergence=1.0,
        calibration_error=0.1,
        oracle_share=0.5,
        oracle_cumulative=agreement,
        gate=None,
    )


@pytest.fixture
def report():
    rule = RuleReport(
        decoding="contrast original:2 alpha 0.1",
        cross_entropy=3.0,
        cross_entropy_margin=0.1,
        perplexity=20.0,
        impossible=0.0,
        cross_entropy_possible=3.0,
    )
    exits = (an_exit(2, 0.4, 300.0), an_exit(3, 0.7, 60.0), an_exit("original", 1.0, 15.0))
    return Report(tokens=100, rows=4, depth=4, mean_oracle_depth=3.0, exits=exits, rules=(rule,))


def test_an_svg_names_both_panels_and_every_way_to_decode(report, tmp_path):
    draw(report, tmp_path / "out.svg", title="tiny")

    text = (tmp_path / "out.svg").read_text("utf-8")
    for words in ("agrees with the last layer", "perplexity", "of 4", report.rules[0].decoding):
        assert words in text
    assert "tiny" in text


@pytest.mark.parametrize("name", ["out.svg", "out.png"])
def test_one_report_makes_one_picture(report, tmp_path, name):
    draw(report, tmp_path / name)
    first = (tmp_path / name).read_bytes()

    draw(report, tmp_path / name)

    assert (tmp_path / name).read_bytes() == first
    assert first.startswith({"svg": b"<?xml", "png": b"\x89PNG"}[name[-3:]])


def test_what_is_infinite_or_unknown_is_drawn_without_a_warning(report, tmp_path):
    rule = replace(report.rules[0], perplexity=math.inf, cross_entropy=math.inf, impossible=0.2)
    first = replace(report.exits[0], perplexity=math.inf, agreement_margin=None)
    odd = replace(report, rules=(rule,), exits=(first, *report.exits[1:]))

    draw(odd, tmp_path / "out.svg")

    assert "infinite" in (tmp_path / "out.svg").read_text("utf-8")


def test_another_format_is_refused(report, tmp_path):
    with pytest.raises(ConfigError, match=r"\.svg or \.png, got .*out\.gif"):
        draw(report, tmp_path / "out.gif")


def test_a_folder_that_is_missing_is_refused(report, tmp_path):
    with pytest.raises(InputError, match=r"no folder .*none; make it first"):
        draw(report, tmp_path / "none" / "out.svg")
    (tmp_path / "taken.svg").mkdir()
    with pytest.raises(InputError, match="not a regular file"):
        draw(report, tmp_path / "taken.svg")


def test_a_missing_matplotlib_says_what_to_install(report, tmp_path, monkeypatch):
    def find(name, *rest, real=PathFinder.find_spec):
        return None if name == "matplotlib" else real(name, *rest)

    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    monkeypatch.setattr(PathFinder, "find_spec", find)

    with pytest.raises(ConfigError, match=r"pip install 'offramp\[eval\]'"):
        draw(report, tmp_path / "out.svg")
