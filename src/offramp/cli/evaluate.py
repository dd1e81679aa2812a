"""``offramp evaluate``: how good every exit is on a text.

Only this module and what it imports first is read for ``--help``; torch and transformers come
with offramp.cli.measure.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from offramp.cli import options
from offramp.cli.generate import logs_disabled
from offramp.cli.settings import ExitChoice

EXAMPLE = "Example: offramp evaluate --data held-out.txt --limit 20000 --picture exits.svg"
TEXT = "Text"

Data = Annotated[
    str,
    typer.Option(
        metavar="SOURCE",
        help="Text that nothing was trained on: a file (.txt, .jsonl, .json, .parquet, .csv), a "
        "folder of them, or a data set of the hub.",
        rich_help_panel=TEXT,
    ),
]
Split = Annotated[
    str,
    typer.Option(metavar="NAME", help="Part of a data set or of a folder.", rich_help_panel=TEXT),
]
Limit = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Stop reading after about N tokens; all by default.",
        rich_help_panel=TEXT,
    ),
]
BlockSize = Annotated[
    int | None,
    typer.Option(
        min=2,
        metavar="N",
        help="Longest row, in tokens; by default 512, or the model's context if that is shorter.",
        rich_help_panel=TEXT,
    ),
]
Exits = Annotated[
    str | None,
    typer.Option(
        metavar="EXITS",
        help="Measure these exits only, such as 6;12 (in quotes); one that is not attached is read "
        "directly.",
        rich_help_panel=options.EXITS,
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(min=1, metavar="N", help="Rows at a time.", rich_help_panel=options.MACHINE),
]
Picture = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Draw agreement and perplexity by exit: an .svg or .png file. Needs the extra eval.",
        rich_help_panel=options.RESULTS,
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="One JSON object instead of the table; shares are from 0 to 1, infinite is null.",
        rich_help_panel=options.RESULTS,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Evaluation(ExitChoice):
    """What is measured on which text; each field is the option of the same name."""

    data: str
    split: str
    limit: int | None
    block_size: int | None
    exits: str | None
    batch_size: int
    picture: Path | None
    json: bool
    verbose: bool


def evaluate(  # noqa: PLR0913 - one parameter for each option
    *,
    data: Data,
    split: Split = "train",
    limit: Limit = None,
    block_size: BlockSize = None,
    model: options.Model = None,
    exits_from: options.ExitsFrom = None,
    exits: Exits = None,
    contrast: options.ContrastPair = None,
    alpha: options.Alpha = None,
    exit: options.Exit = None,
    dola: options.Dola = None,
    batch_size: BatchSize = 8,
    dtype: options.DtypeName = options.Dtype.auto,
    device: options.Device = "auto",
    picture: Picture = None,
    json: Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Measure every exit on held-out text, in one pass of the model.

    For each exit: cross-entropy and perplexity, agreement with the last layer,
    KL(last || exit), calibration (its best token's probability against being
    the next token of the text), and the share of tokens at which it is the
    first whose answer stays. --contrast, --exit and --dola add the perplexity
    of that way to decode. Results go to stdout.
    """
    chosen = Evaluation(
        model=model,
        exits_from=exits_from,
        dtype=dtype.value,
        device=device,
        contrast=contrast,
        alpha=alpha,
        exit=exit,
        dola=dola,
        data=data,
        split=split,
        limit=limit,
        block_size=block_size,
        exits=exits,
        batch_size=batch_size,
        picture=picture,
        json=json,
        verbose=verbose,
    )
    # --help and the errors above need no torch, which takes seconds to import.
    with logs_disabled(not verbose):
        from offramp.cli.measure import measure  # noqa: PLC0415

    measure(chosen)
