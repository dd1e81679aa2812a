"""Show systems side by side as tables on stdout."""

from collections.abc import Sequence
from pathlib import Path

from offramp.cli.show import show_text
from offramp.cli.table import console_of, table_of
from offramp.evaluation.latency import Ratio
from offramp.evaluation.resampling import Difference, Score
from offramp.evaluation.seq2seq_report import Seq2SeqReport

FORMS = {"points": (1.0, ".2f", ""), "share": (100.0, ".2f", " %"), "ratio": (1.0, ".3f", "")}
"""Factor, format and unit after the name, of each way to count."""


def show_systems(report: Seq2SeqReport, *, title: str) -> None:
    """Print scores, differences, exits and times, and the flavour of each score.

    Args:
        report: What was measured.
        title: What it was measured on.
    """
    console, names = console_of(), short_names([each.name for each in report.systems])
    show_text(f"{title}: {report.rows} pairs")
    console.print(_scores(report, names))
    for name, system in zip(names, report.systems, strict=True):
        if system.against_first is not None:
            show_text(f"{name} less {names[0]}")
            console.print(differences_table(system.against_first))
    columns = ["model", "decoding", "parameters", "unfinished %"]
    console.print(table_of(columns, _facts(report, names)))
    if any(each.one_pass for each in report.systems):
        console.print(_one_pass(report, names))
    if any(each.pace for each in report.systems):
        console.print(_paces(report, names))
    _legend(report)


def short_names(names: Sequence[str]) -> list[str]:
    """Give the last part of each name, if that tells them apart.

    Args:
        names: Folders or hub names.

    Example:
        >>> short_names(["models/bart", "models/elmer"])
        ['bart', 'elmer']
        >>> short_names(["a/model", "b/model"])
        ['a/model', 'b/model']
    """
    short = [Path(each).name or each for each in names]
    return short if len(set(short)) == len(short) else list(names)


def _scores(report: Seq2SeqReport, names: Sequence[str]) -> object:
    columns = ["score", *(part for name in names for part in (name, "+/-"))]
    rows = [
        [
            titled(scores[0]),
            *(cell for each in scores for cell in (value_cell(each), margin_cell(each))),
        ]
        for scores in zip(*(each.scores for each in report.systems), strict=True)
    ]
    return table_of(columns, rows)


def differences_table(differences: Sequence[Difference]) -> object:
    """Make a table of how scores differ.

    Args:
        differences: Of one system from another.
    """
    columns = ["score", "difference", "from", "to", "p"]
    return table_of(
        columns,
        [
            [
                titled(each),
                value_cell(each),
                _counted(each, each.low),
                _counted(each, each.high),
                "" if each.p_value is None else f"{each.p_value:.3f}",
            ]
            for each in differences
        ],
    )


def _facts(report: Seq2SeqReport, names: Sequence[str]) -> list[list[str]]:
    return [
        [name, each.decoding, f"{each.parameters:,}", f"{100 * each.unfinished:.1f}"]
        for name, each in zip(names, report.systems, strict=True)
    ]


def _one_pass(report: Seq2SeqReport, names: Sequence[str]) -> object:
    depth = max(max(each.one_pass.exits) for each in report.systems if each.one_pass)
    columns = ["model", *(f"exit {exit} %" for exit in range(1, depth + 1))]
    columns += ["mean exit", "canvas", "used %", "run %"]
    rows = []
    for name, system in zip(names, report.systems, strict=True):
        found = system.one_pass
        if found is None:
            continue
        tokens = max(sum(found.exits.values()), 1)
        shares = [
            f"{100 * found.exits[exit] / tokens:.1f}" if exit in found.exits else ""
            for exit in range(1, depth + 1)
        ]
        rest = [f"{found.mean_exit:.2f}", f"{found.canvas_length:.1f}"]
        rows.append([name, *shares, *rest, f"{100 * found.used:.1f}", f"{100 * found.run:.1f}"])
    return table_of(columns, rows)


def _paces(report: Seq2SeqReport, names: Sequence[str]) -> object:
    size = next(each.pace.batch_size for each in report.systems if each.pace)
    columns = ["model", "ms alone", "95 % below", "times faster"]
    columns += [f"texts/s at {size}", "tokens/s", "times faster"]
    rows = []
    for name, system in zip(names, report.systems, strict=True):
        pace = system.pace
        if pace is not None:
            alone = [f"{1000 * pace.latency:.1f}", f"{1000 * pace.latency_slow:.1f}"]
            full = [f"{pace.throughput:.2f}", f"{pace.tokens_per_second:.1f}"]
            rows.append(
                [name, *alone, _ratio(pace.latency_ratio), *full, _ratio(pace.throughput_ratio)]
            )
    return table_of(columns, rows)


def _legend(report: Seq2SeqReport) -> None:
    if report.samples:
        show_text(
            f"+/-, from, to: 95 % of {report.samples} draws of rows (seed {report.seed}), the same "
            "for both models; p: twice the share of draws with the other sign"
        )
    show_text("unfinished: % of the texts that were cut off before their end")
    if any(each.one_pass for each in report.systems):
        show_text(
            "used: % of a canvas that became tokens; run: % of the layers' positions that were run"
        )
    if any(each.pace for each in report.systems):
        show_text(
            "alone: one source at a time; text to text, models in turn; times faster than the "
            "first model, with the interval of the median ratio"
        )
    show_flavours(report.systems[0].scores)


def show_flavours(scores: Sequence[Score]) -> None:
    """Print what must be known to get the same numbers again, scores of one flavour together.

    Args:
        scores: Of one system.
    """
    found: dict[str, list[str]] = {}
    for each in scores:
        found.setdefault(each.flavour, []).append(_named(each))
    for flavour, names in found.items():
        show_text(f"{', '.join(names)}: {flavour}")


def _named(score: Score | Difference) -> str:
    return score.name.replace("_", " ")


def titled(score: Score | Difference) -> str:
    """Name a score, with the unit that it is shown in."""
    return _named(score) + FORMS[score.unit][2]


def _counted(score: Score | Difference, value: float | None) -> str:
    factor, form, _ = FORMS[score.unit]
    return "" if value is None else format(factor * value, form)


def value_cell(score: Score | Difference) -> str:
    """Show a number in its unit."""
    return _counted(score, score.value)


def margin_cell(score: Score) -> str:
    """Show half the interval of a score."""
    half = None if score.low is None or score.high is None else (score.high - score.low) / 2
    return _counted(score, half)


def _ratio(ratio: Ratio) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"
