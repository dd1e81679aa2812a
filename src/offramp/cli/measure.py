"""Load a model and a text, measure, and show what was found.

In:  checked settings. Out: a table or JSON on stdout, and a picture if it was asked for.
Law: what can be refused is refused before the first token is read; the numbers are the library's
     (tests/cli/test_evaluate.py).
Not here: the numbers (offramp.evaluation), the table (offramp.cli.table).
"""

from offramp.cli.evaluate import Evaluation
from offramp.cli.loading import Loaded, load
from offramp.cli.quiet import memory_named, quiet
from offramp.cli.rule import read_rule
from offramp.cli.show import progress, show_json
from offramp.cli.spread_evaluation import spread_sums
from offramp.cli.table import show_report
from offramp.cli.texts import batched, check_readable, read_rows
from offramp.config import parse_exits
from offramp.evaluation.exits import ExitMeter
from offramp.evaluation.picture import check_picture, draw
from offramp.evaluation.report import Report
from offramp.models.multiexit import check_rule


def measure(settings: Evaluation) -> None:
    """Measure and show.

    Raises:
        OfframpError: Something was asked for that cannot be done.
    """
    if settings.picture is not None:
        check_picture(settings.picture)
    check_readable(settings.data)
    memory = memory_named(device=settings.device, batch_size=settings.batch_size)
    with quiet(verbose=settings.verbose), memory:
        loaded, report = _measured(settings)
    title = f"{loaded.name} on {settings.data}"
    if settings.json:
        facts = {"model": loaded.name, "data": settings.data, "split": settings.split}
        dtype = str(loaded.model.dtype).removeprefix("torch.")
        show_json({**facts, "dtype": dtype, **report.as_json()})
    else:
        show_report(report, title=title)
    if settings.picture is not None:
        draw(report, settings.picture, title=title)


def _measured(settings: Evaluation) -> tuple[Loaded, Report]:
    exits = None if settings.exits is None else parse_exits(settings.exits)
    rule, name = read_rule(settings)
    loaded = load(
        settings.model, dtype=settings.dtype, device=settings.device, exits=settings.exits_from
    )
    loaded.model.check_exits(exits or (), attached_only=False)
    if rule is not None:
        check_rule(loaded.model, rule)
    rows, collate = read_rows(settings, loaded)
    meter = ExitMeter(loaded.model, exits=exits, rules={} if rule is None else {name: rule})
    total = meter.nothing()
    with progress(len(rows), unit="rows") as advance:
        if settings.spread.on_ray:
            parts = spread_sums(settings, rows)
        else:
            batches = batched(rows, collate, settings.batch_size, loaded)
            parts = (meter.count(batch) for batch in batches)
        for part in parts:
            total.merge(part)
            advance(part.means.rows)
    return loaded, meter.report(total)
