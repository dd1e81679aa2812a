"""``offramp export``: an exit as a model of its own.

Only this module and what it imports first is read for ``--help``; torch and transformers come
with offramp.cli.exporting.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from offramp.cli import options
from offramp.cli.generate import logs_disabled
from offramp.config import ORIGINAL, parse_exit
from offramp.errors import ConfigError
from offramp.models.export_folder import check_export_folder

EXAMPLE = "Example: offramp export my-model --exits-from my-exits --exit 12 --output draft"

Exit = Annotated[
    str,
    typer.Option(
        metavar="EXIT",
        help="Which exit, a number of blocks such as 12; any projection but lens.",
        rich_help_panel=options.EXITS,
    ),
]
Output = Annotated[
    Path,
    typer.Option(metavar="FOLDER", help="Where to write it.", rich_help_panel=options.RESULTS),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Put it in the place of an earlier export; other files are never deleted.",
        rich_help_panel=options.RESULTS,
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="One JSON object: output, model, exit, projection, blocks, base_blocks, dtype, "
        "parameters, seconds.",
        rich_help_panel=options.RESULTS,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Export:
    """What is exported, and where to; each field is the option of the same name."""

    model: str | None
    exits_from: str | None
    exit: int
    output: Path
    overwrite: bool
    dtype: str
    json: bool
    verbose: bool


def export(  # noqa: PLR0913 - one parameter for each option
    named: options.Named = None,
    *,
    exit: Exit,
    output: Output,
    model: options.Model = None,
    exits_from: options.ExitsFrom = None,
    dtype: options.DtypeName = options.Dtype.auto,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Write an exit as a plain checkpoint: the first blocks, the norm, one head.

    transformers loads it without offramp, and it can draft for its base: it is
    an assistant_model there, and a draft model for engines that serve the
    base. It is loaded again and compared with the exit before it is put into
    its folder. Results go to stdout.
    """
    model = options.named_once(named, model)
    number = parse_exit(exit)
    if number == ORIGINAL:
        raise ConfigError("--exit original is the whole model, nothing is cut; try --exit 12")
    check_export_folder(output, overwrite=overwrite)
    chosen = Export(
        model=model,
        exits_from=exits_from,
        exit=number,
        output=output,
        overwrite=overwrite,
        dtype=dtype.value,
        json=json,
        verbose=verbose,
    )
    # --help and the errors above need no torch, which takes seconds to import.
    with logs_disabled(not verbose):
        from offramp.cli.exporting import write_export  # noqa: PLC0415

    write_export(chosen)
