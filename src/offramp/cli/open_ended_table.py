"""Show ways to go on with a text as tables on stdout."""

from collections.abc import Mapping, Sequence
from typing import Any

from offramp.cli.seq2seq_table import (
    differences_table,
    margin_cell,
    show_flavours,
    titled,
    value_cell,
)
from offramp.cli.show import show_text
from offramp.cli.table import console_of, table_of
from offramp.evaluation.open_ended_report import OpenEndedReport, WayReport
from offramp.evaluation.resampling import Score

COMPARED = ("seq_rep_4", "diversity", "coherence", "mauve")
"""Scores whose differences are shown; all are in the JSON."""


def show_ways(report: OpenEndedReport, *, title: str, facts: Mapping[str, Any]) -> None:
    """Print scores by strategy, differences from the first decoding, and what the numbers are.

    Args:
        report: What was measured.
        title: Model and data.
        facts: How it was measured.
    """
    console = console_of()
    show_text(
        f"{title}: {report.rows} beginnings of {facts['prompt_words']} words, up to "
        f"{facts['max_new_tokens']} new tokens; {facts['passed_over']} documents were too short"
    )
    columns = ["decoding", *_columns(report.ways[0].scores), "ended %"]
    for strategy in report.strategies:
        ways = [each for each in report.ways if each.strategy == strategy]
        show_text(strategy)
        rows = [[each.decoding, *_cells(each.scores), f"{100 * each.ended:.0f}"] for each in ways]
        console.print(table_of(columns, rows))
        for way in ways:
            _show_differences(way, ways[0])
    show_text("people")
    console.print(table_of(["", *_columns(report.people)], [["people", *_cells(report.people)]]))
    _legend(report)


def _show_differences(way: WayReport, first: WayReport) -> None:
    compared = [each for each in way.against_first or () if each.name in COMPARED]
    if compared:
        show_text(f"{way.strategy}: {way.decoding} less {first.decoding}")
        console_of().print(differences_table(compared))


def _columns(scores: Sequence[Score]) -> list[str]:
    return [name for each in scores for name in (titled(each), "+/-")]


def _cells(scores: Sequence[Score]) -> list[str]:
    return [cell for each in scores for cell in (value_cell(each), margin_cell(each))]


def _legend(report: OpenEndedReport) -> None:
    if report.samples:
        show_text(
            f"+/-, from, to: 95 % of {report.samples} draws of beginnings (seed {report.seed}), "
            "the same for all; p: twice the share of draws with the other sign, each test by itself"
        )
    show_text("ended: % of the texts that ended before the longest length")
    show_flavours(report.ways[0].scores)
