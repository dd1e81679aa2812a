"""Load a model and a text, measure, and show what was found.

In:  checked settings. Out: a table or JSON on stdout, and a picture if it was asked for.
Law: what can be refused is refused before the first token is read; the numbers are the library's
     (tests/cli/test_evaluate.py).
Not here: the numbers (offramp.evaluation), the table (offramp.cli.table).
"""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from offramp.cli.encoding import block_size_of, check_tokens
from offramp.cli.evaluate import Evaluation
from offramp.cli.loading import Loaded, load
from offramp.cli.quiet import data_bars_on_terminals_only, quiet
from offramp.cli.rule import read_rule
from offramp.cli.show import progress, show_json
from offramp.cli.table import show_report
from offramp.config import parse_exits
from offramp.errors import ConfigError
from offramp.evaluation.exits import measure_exits
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
    if find_spec("datasets") is None:
        raise ConfigError(
            f"reading --data {settings.data} needs datasets, which is not installed; run "
            "pip install 'offramp[eval]'"
        )
    with quiet(verbose=settings.verbose):
        try:
            loaded, report = _measured(settings)
        except torch.OutOfMemoryError:
            raise ConfigError(
                f"out of memory with --device {settings.device} and --batch-size "
                f"{settings.batch_size}; try a smaller batch, --dtype bfloat16 or --device cpu"
            ) from None
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
    rows, collate = _rows(settings, loaded)
    with progress(len(rows), unit="rows") as advance:
        report = measure_exits(
            loaded.model,
            _batches(rows, collate, settings, loaded),
            exits=exits,
            rules={} if rule is None else {name: rule},
            advance=advance,
        )
    return loaded, report


def _rows(settings: Evaluation, loaded: Loaded) -> tuple[Any, Any]:
    """Read and encode the text, in its own order; give its rows and what pads them."""
    # It imports datasets, which only an extra brings.
    from offramp.training.data import Collator, DataSettings, load_rows  # noqa: PLC0415

    source = DataSettings(
        source=settings.data,
        split=settings.split,
        block_size=block_size_of(loaded, settings.block_size),
        limit=settings.limit,
        shuffle=False,
        apart=loaded.model.config.is_encoder_decoder,
    )
    with data_bars_on_terminals_only():
        return load_rows(source, loaded.tokenizer), Collator(loaded.tokenizer)


def _batches(
    rows: Any, collate: Any, settings: Evaluation, loaded: Loaded
) -> Iterator[Mapping[str, Tensor]]:
    """Cut the rows into batches.

    Raises:
        CheckpointError: The tokenizer is not the model's own.
    """
    for first in range(0, len(rows), settings.batch_size):
        last = min(first + settings.batch_size, len(rows))
        batch: Mapping[str, Tensor] = collate([rows[place] for place in range(first, last)])
        check_tokens(int(batch["input_ids"].max()), loaded)
        yield batch
