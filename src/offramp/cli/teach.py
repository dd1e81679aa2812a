"""Run ``offramp train``: load, read, fit, train, and show what was reached.

In:  checked options. Out: a folder of exits, and a table or JSON on stdout.
Law: what can be refused is refused before the first token is written; only the first process
     writes and speaks; a run that is stopped is gone on with by the same command
     (tests/cli/test_train.py).
Not here: the stages themselves (offramp.cli.course), training (offramp.training).
"""

import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import typer
from accelerate import PartialState
from rich import box
from rich.console import Console
from rich.table import Table

from offramp.cli.course import Course
from offramp.cli.journal import SELF_TEXT, START
from offramp.cli.output import Interrupted
from offramp.cli.publish import push
from offramp.cli.quiet import quiet
from offramp.cli.show import show_json, show_text
from offramp.cli.training import Training
from offramp.errors import ConfigError
from offramp.training.checkpoints import last_checkpoint

PATIENCE = timedelta(days=1)
"""How long processes wait for the first one, which may write text for hours."""
INTERRUPTED = 130


def teach(settings: Training) -> None:
    """Train, and show the result.

    Raises:
        OfframpError: Something was asked for that cannot be done.
        Interrupted: Ctrl-C.
    """
    with quiet(verbose=settings.verbose):
        state = join_processes(settings.device)
        try:
            results = Course(settings, state).run()
        except torch.OutOfMemoryError:
            raise ConfigError(
                f"out of memory with --device {settings.device}; try a smaller --batch-size with "
                "more --accumulate, fewer --positions, or --precision bfloat16"
            ) from None
        except KeyboardInterrupt:
            if not state.is_main_process:
                raise typer.Exit(INTERRUPTED) from None
            raise Interrupted(_told(settings.output)) from None
        if state.is_main_process:
            _show(results, as_json=settings.json)
            push(settings.output, settings.push_to_hub, left_out=(f"{SELF_TEXT}*", f"{START}/*"))
        state.wait_for_everyone()
        state.destroy_process_group()


def join_processes(device: str) -> PartialState:
    """Join the other processes, if there are any, on the device asked for.

    Raises:
        ConfigError: There is no such device.
    """
    there = torch.accelerator.is_available()
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda cannot be used here; use cpu or auto")
    return PartialState(cpu=device == "cpu" or not there, timeout=PATIENCE)


def _told(output: Path) -> str:
    last = last_checkpoint(output)
    place = f"from {last}" if last else "with what it has written there"
    return f"interrupted: the same command goes on {place}"


def _show(results: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(results)
        return
    wide = None if sys.stdout.isatty() else 160
    console = Console(file=sys.stdout, width=wide, highlight=False)
    gates = {each["exit"]: each for each in results["gates"] or ()}
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    names = ["exit", "reads", "loss", *(("agrees", "threshold", "precise", "found") * bool(gates))]
    for name in names:
        table.add_column(name, justify="left" if name in ("exit", "reads") else "right")
    losses = results["exit_losses"] or {}
    for exit in {**results["exits"], **losses}:
        cells = [exit, results["exits"].get(exit, ""), _number(losses.get(exit))]
        table.add_row(*cells, *(_gate_cells(gates.get(int(exit))) if gates else ()))
    console.print(table)
    show_text(_summary(results))


def _gate_cells(gate: Mapping[str, Any] | None) -> list[str]:
    if gate is None:
        return [""] * 4
    names = ("agreement", "threshold", "precision", "recall")
    return [_number(gate[name]) for name in names]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _summary(results: Mapping[str, Any]) -> str:
    parts = [results["output"]]
    if results["fitted"]:
        parts.append(f"fitted on {results['fitted']} positions")
    if results["steps"]:
        parts.append(f"{results['steps']} steps, loss {_number(results['loss'])}")
    if results["held_out_loss"] is not None:
        parts.append(f"held-out loss {_number(results['held_out_loss'])}")
    return f"{parts[0]}: {'; '.join(parts[1:])}"
