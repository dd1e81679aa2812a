"""The gates of ``offramp finetune``: train them on a fine-tuned ELMER model, and show what they do.

In:  a model and pairs. Out: the model with gates, their numbers for JSON and as a table.
Law: the model's other weights stay what they are (tests/cli/test_finetune_gates.py).
Not here: training them (offramp.training.canvas_gates).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from offramp.cli.finetune import GATE_PRECISION, Finetuning
from offramp.cli.show import remark, show_text
from offramp.cli.table import console_of, table_of
from offramp.training.canvas_gates import (
    CanvasGateSettings,
    check_has_exits,
    train_canvas_gates,
)
from offramp.training.pairs import Pair

LEGEND = (
    "agrees: % of the held-out tokens where the exit says what the last layer says; of those at "
    "which a gate says leave % agree (precise), of those that agree % leave (found)"
)


def check_gates(asked: Finetuning, model: Any) -> None:
    """Refuse gates for what can have none; tell of gates that would be out of date.

    Raises:
        ConfigError: It is no ELMER model, or has one layer only.
    """
    if asked.wants_gates:
        check_has_exits(model)
        if model.config.exit_loss == "last":
            remark(
                'exit_loss of this model is "last": its other exits never learn, and gates will '
                'find little to agree with; set "exit_loss": "all" in its config.json'
            )
    elif getattr(model.config, "gates", False):
        remark("this model's gates were found for its weights as they are now; add --gates")


def give_gates(
    asked: Finetuning,
    model: Any,
    tokenizer: Any,
    *,
    pairs: Sequence[Pair],
    held_out: Sequence[Pair],
) -> list[dict[str, Any]] | None:
    """Train gates, if that was asked for.

    Returns:
        A report for each exit but the last, or None.
    """
    if not asked.wants_gates:
        return None
    settings = CanvasGateSettings(
        precision=GATE_PRECISION if asked.gate_precision is None else asked.gate_precision,
        batch_size=asked.settings.batch_size,
        max_source=asked.settings.max_source,
        seed=asked.settings.seed,
    )
    reports = train_canvas_gates(
        model, tokenizer, pairs=pairs, held_out=held_out, settings=settings
    )
    return [asdict(each) for each in reports]


def show_gates(gates: Sequence[Mapping[str, Any]], *, output: str) -> None:
    """Print a table of gates, what its columns mean, and how they are used.

    Args:
        gates: From ``give_gates``.
        output: Folder of the model.
    """
    names = ["exit", "tokens", "agrees", "threshold", "precise", "found"]
    console_of().print(table_of(names, [_cells(each) for each in gates]))
    show_text(LEGEND)
    remark(f"leave by them: offramp evaluate --model {output} --pairs FILE --early-exit gate")


def _cells(gate: Mapping[str, Any]) -> list[str]:
    threshold = gate["threshold"]
    return [
        str(gate["exit"]),
        str(gate["positions"]),
        f"{100 * gate['agreement']:.1f}",
        f"{threshold:.4f}" if threshold <= 1 else "never",
        f"{100 * gate['precision']:.1f}",
        f"{100 * gate['recall']:.1f}",
    ]
