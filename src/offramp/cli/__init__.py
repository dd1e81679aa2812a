"""The command line: one app, verbs as commands.

In:  arguments. Out: results on stdout, the rest on stderr, and an exit code.
Law: a mistake of the user is one line on stderr and exit code 2, Ctrl-C one line and 130, a reader
     that goes away no line and 1; anything else is a bug of ours (tests/cli/test_main.py).
Not here: what the commands do (offramp.cli.generate and the like).
"""

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Annotated, Any

import typer

from offramp.cli import (
    calibrate,
    distill,
    evaluate,
    export,
    finetune,
    generate,
    lm_eval,
    models,
    pretrain,
    serve,
    trace,
    train,
)
from offramp.cli.output import Interrupted
from offramp.cli.show import remark, show_text
from offramp.errors import OfframpError
from offramp.version import __version__

USER_ERROR, BROKEN_PIPE, INTERRUPTED = 2, 1, 130

app = typer.Typer(
    name="offramp",
    help="Language models that answer from any of their layers.",
    epilog="Example: offramp generate 'What is a ferry?' --exit 18",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("generate", epilog=generate.EXAMPLE)(generate.generate)
app.command("evaluate", epilog=evaluate.EXAMPLE)(evaluate.evaluate)
app.command("calibrate", epilog=calibrate.EXAMPLE)(calibrate.calibrate)
app.command("train", epilog=train.EXAMPLE)(train.train)
app.command("pretrain", epilog=pretrain.EXAMPLE)(pretrain.pretrain)
app.command("finetune", epilog=finetune.EXAMPLE)(finetune.finetune)
app.command("distill-data", epilog=distill.EXAMPLE)(distill.distill_data)
app.command("lm-eval", epilog=lm_eval.EXAMPLE, context_settings=lm_eval.CONTEXT)(lm_eval.lm_eval)
app.command("export", epilog=export.EXAMPLE)(export.export)
app.command("serve", epilog=serve.EXAMPLE)(serve.serve)
app.command("trace", epilog=trace.EXAMPLE)(trace.trace)
app.command("models", epilog=models.MODELS_EXAMPLE)(models.models)
app.command("version", epilog=models.VERSION_EXAMPLE)(models.version)


def _show_version(wanted: bool) -> bool:
    if wanted:
        show_text(f"offramp {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and leave with its exit code.

    Args:
        arguments: What follows ``offramp``; by default that of this process.

    Raises:
        SystemExit: Always; 0 if all went well.
    """
    sys.exit(_code_of(arguments))


def _code_of(arguments: Sequence[str] | None) -> int:
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an odd character must not end a long run
    try:
        given = sys.argv[1:] if arguments is None else arguments
        code: Any = app(given or ["--help"], prog_name="offramp", standalone_mode=False)
        sys.stdout.flush()
    except OfframpError as error:
        return _refused(str(error))
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "offramp"
        return _refused(f"{error.format_message()} (see {command} --help)")
    except Interrupted as stop:
        remark(str(stop))
        return INTERRUPTED
    except KeyboardInterrupt:  # before typer listens for it
        code = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return BROKEN_PIPE
    except OSError as error:
        _give_up_unwritten()
        return _refused(f"{error}; make room or name another file")
    if code == INTERRUPTED:  # how typer tells a Ctrl-C
        remark("interrupted")
    return int(code or 0)


def _give_up_unwritten() -> None:
    """Let what a full disk did not take go nowhere: Python would try again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refused(message: str) -> int:
    remark(f"error: {message}")
    return USER_ERROR
