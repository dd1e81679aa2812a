"""Show a report as a table on stdout."""

import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from offramp.cli.show import show_text
from offramp.evaluation.report import ExitReport, Report, RuleReport

WIDE = 160
"""Columns of text where stdout is no terminal, so that no line is broken."""

LEGEND = (
    "nats: cross-entropy per token of the text; right: % of tokens whose best token is the next "
    "one of the text",
    "agrees: % whose best token is the last layer's, give or take 95 % over rows; top 5: the last "
    "layer's is among the best five",
    "KL: of the last layer from the exit, nats; ECE: % between the best token's probability and "
    "how often it is the next token of the text",
    "first: % of tokens whose answer is the final one from this exit on; so far: all exits up to "
    "here",
)
GATE_LEGEND = (
    "stops: % of tokens at which the gate stops; of these % agree (precise), of those that agree % "
    "(found)"
)


def console_of() -> Console:
    """Give what writes tables on stdout; they are never broken where stdout is no terminal."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDE, highlight=False)


def show_report(report: Report, *, title: str) -> None:
    """Print the exits, then the ways to decode, and what the columns mean."""
    console = console_of()
    gates = any(each.gate for each in report.exits)
    show_text(
        f"{title}: {report.tokens} tokens in {report.rows} rows; mean oracle depth "
        f"{report.mean_oracle_depth:.2f} of {report.depth} blocks"
    )
    names = ["exit", "reads", "nats", "+/-", "perplexity", "right", "agrees", "+/-", "top 5"]
    names += ["KL", "ECE", "first", "so far", *(("stops", "precise", "found") if gates else ())]
    console.print(table_of(names, [_exit_cells(each, gates=gates) for each in report.exits]))
    if report.rules:
        names = ["decoding", "nats", "+/-", "perplexity", "impossible", "nats of the rest"]
        console.print(table_of(names, [_rule_cells(each) for each in report.rules]))
    for line in (*LEGEND, *((GATE_LEGEND,) if gates else ())):
        show_text(line)


def table_of(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Make a table of cells; the first column holds names."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for place, name in enumerate(names):
        words = name in ("reads", "decoding") or place == 0
        table.add_column(name, justify="left" if words else "right", no_wrap=words)
    for row in rows:
        table.add_row(*row)
    return table


def _exit_cells(each: ExitReport, *, gates: bool) -> list[str]:
    cells = [
        str(each.exit),
        each.projection or "",
        f"{each.cross_entropy:.3f}",
        _number(each.cross_entropy_margin, ".3f"),
        f"{each.perplexity:.4g}",
        _percent(each.accuracy),
        _percent(each.agreement),
        _percent(each.agreement_margin),
        _percent(each.agreement_top5),
        f"{each.divergence:.3f}",
        _percent(each.calibration_error),
        _percent(each.oracle_share),
        _percent(each.oracle_cumulative),
    ]
    if not gates:
        return cells
    gate = each.gate
    shares = (None,) * 3 if gate is None else (gate.stops, gate.precision, gate.recall)
    return [*cells, *map(_percent, shares)]


def _rule_cells(each: RuleReport) -> list[str]:
    return [
        each.decoding,
        f"{each.cross_entropy:.3f}",
        _number(each.cross_entropy_margin, ".3f"),
        f"{each.perplexity:.4g}",
        _percent(each.impossible),
        _number(each.cross_entropy_possible, ".3f"),
    ]


def _percent(share: float | None) -> str:
    return _number(None if share is None else 100 * share, ".1f")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
