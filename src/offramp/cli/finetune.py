"""``offramp finetune``: an encoder-decoder, ELMER or any other, learns pairs of texts.

Only this module and what it imports first is read for ``--help``; torch and transformers come with
offramp.cli.finetuning.
"""

from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from offramp.cli import options
from offramp.cli.flags import with_settings
from offramp.cli.generate import logs_disabled
from offramp.cli.lessons import GATES, STEPS, option
from offramp.cli.material import Device, Log, LogTo, PushToHub, check_installed
from offramp.cli.options import MACHINE, RESULTS
from offramp.cli.settings import flag
from offramp.cli.training import TRAIN, same_source
from offramp.errors import ConfigError
from offramp.training.finetuning_settings import FinetuneSettings

EXAMPLE = (
    "Example: offramp finetune --model my-elmer --pairs train.jsonl --held-out dev.jsonl "
    "--metrics rouge --metric rougeL --output my-summaries"
)
PAIRS, EVALUATION = "Pairs", "Evaluation while training"
PANELS = {
    **dict.fromkeys(("max_source", "max_target"), PAIRS),
    **dict.fromkeys(("eval_steps", "eval_rows", "metric", "patience"), EVALUATION),
    **dict.fromkeys(("precision",), MACHINE),
    **dict.fromkeys(("log_steps", "keep"), RESULTS),
}
GATE_PRECISION = 0.95
OF_GATES = ("batch_size", "max_source", "seed")
"""Settings of a fine-tuning that gates use, too."""


class Scores(StrEnum):
    """Groups of ``offramp.evaluation.text_metrics``."""

    rouge = "rouge"
    bleu = "bleu"
    chrf = "chrf"
    errors = "errors"
    diversity = "diversity"


@dataclass(frozen=True, kw_only=True)
class Finetuning:
    """What was asked for; each field is the option of the same name."""

    model: str
    pairs: tuple[str, ...]
    split: str
    held_out: str
    held_out_split: str
    target_files: tuple[Path, ...]
    source_column: str
    target_column: str
    from_scratch: bool
    metrics: tuple[str, ...]
    gates: bool
    gates_only: bool
    gate_precision: float | None
    output: Path
    settings: FinetuneSettings
    device: str
    log_to: str
    push_to_hub: str | None
    json: bool
    verbose: bool

    def __post_init__(self) -> None:
        self._check_held_out()
        if self.target_files and len(self.target_files) != len(self.pairs) + 1:
            raise ConfigError(
                f"--target-file is given {len(self.target_files)} times; give one for each --pairs "
                "file and, last, one for --held-out, line by line the same"
            )
        metric = self.settings.metric.lstrip("-")
        if metric != "loss" and not self.metrics:
            raise ConfigError(
                f"--metric {self.settings.metric} needs --metrics, the groups that are measured; "
                "try --metrics rouge"
            )
        self._check_gates()

    def _check_held_out(self) -> None:
        splits = {"split": self.split, "held_out_split": self.held_out_split}
        for name, value in splits.items():
            if self.target_files and value != TRAIN:
                raise ConfigError(
                    f"{flag(name)} {value} is for data sets and folders, and --target-file for "
                    "files of lines; leave one of them out"
                )
        again = any(same_source(self.held_out, each) for each in self.pairs)
        if again and self.split == self.held_out_split:
            raise ConfigError(
                f"--held-out {self.held_out} is among --pairs, so that nothing would be held out; "
                "name other pairs, or another part of a data set or folder by --held-out-split "
                "validation"
            )

    @property
    def wants_gates(self) -> bool:
        """Whether gates are trained."""
        return self.gates or self.gates_only

    def _check_gates(self) -> None:
        precision = self.gate_precision
        if precision is not None and not self.wants_gates:
            raise ConfigError(f"--gate-precision {precision} belongs to --gates; add it")
        if precision is not None and not 0 < precision <= 1:
            raise ConfigError(
                f"--gate-precision must be above 0 and at most 1, got {precision}; try "
                f"{GATE_PRECISION}"
            )
        if self.gates_only:
            changed = [
                each.name
                for each in fields(self.settings)
                if each.name not in OF_GATES and getattr(self.settings, each.name) != each.default
            ]
            changed += [name for name in ("metrics", "from_scratch") if getattr(self, name)]
            if changed:
                raise ConfigError(
                    f"{', '.join(map(flag, changed))} would change nothing with --gates-only; "
                    "leave one of them out"
                )


@with_settings(FinetuneSettings, panels=PANELS, panel=STEPS)
def finetune(  # noqa: PLR0913 - one parameter for each option
    *,
    model: Annotated[
        str,
        option(
            "Folder or hub name of an encoder-decoder; elmer:NAME reads a BART, or ELMER's "
            "published pre-trained weights, as an ELMER model.",
            "Model",
            metavar="NAME",
        ),
    ],
    pairs: Annotated[
        list[str],
        option(
            "What to train on: a file (.jsonl, .json, .csv, .parquet) with columns source and "
            "target, a folder of them, a data set of the hub, or lines of text with --target-file. "
            "Several are joined.",
            PAIRS,
            metavar="SOURCE",
        ),
    ],
    held_out: Annotated[
        str,
        option("Pairs that are measured with, and not trained on.", PAIRS, metavar="SOURCE"),
    ],
    output: Annotated[
        Path, option("Folder of checkpoints and of the result.", RESULTS, metavar="FOLDER")
    ],
    target_file: Annotated[
        list[Path] | None,
        option(
            "Lines that belong to those of a --pairs file, in the same order; the last one is for "
            "--held-out.",
            PAIRS,
            metavar="FILE",
        ),
    ] = None,
    source_column: Annotated[str, option("Column of sources.", PAIRS)] = "source",
    target_column: Annotated[str, option("Column of targets.", PAIRS)] = "target",
    split: Annotated[
        str, option("Part of each --pairs data set or folder.", PAIRS, metavar="NAME")
    ] = TRAIN,
    held_out_split: Annotated[
        str, option("Part of the --held-out data set or folder.", PAIRS, metavar="NAME")
    ] = TRAIN,
    from_scratch: Annotated[
        bool,
        option(
            "Start from random weights: the folder holds a configuration and a tokenizer.",
            "Model",
            name="--from-scratch",
        ),
    ] = False,
    metrics: Annotated[
        list[Scores] | None,
        option("What is measured of the texts that are written meanwhile.", EVALUATION),
    ] = None,
    gates: Annotated[
        bool,
        option(
            "Afterwards, give each exit of an ELMER model but the last a gate, which says where a "
            "token may leave (--early-exit gate). An exit is of use only if it has learned to "
            'answer: "exit_loss": "all" in the model\'s config.json.',
            GATES,
            name="--gates",
        ),
    ] = False,
    gates_only: Annotated[
        bool,
        option(
            "Train gates alone, on a model that is fine-tuned already.",
            GATES,
            name="--gates-only",
        ),
    ] = False,
    gate_precision: Annotated[
        float | None,
        option(
            "Of the held-out tokens at which a gate says leave, this share shall agree with the "
            "last layer; above 0, at most 1.",
            GATES,
            metavar="SHARE",
            default=str(GATE_PRECISION),
        ),
    ] = None,
    settings: Any = None,
    device: Device = "auto",
    log_to: LogTo = Log.none,
    push_to_hub: PushToHub = None,
    json: Annotated[
        bool,
        option(
            "One JSON object instead of a line: output, pairs, steps, metric, best, checkpoint, "
            "evaluations, gates (exit, agreement, threshold, precision, recall, positions).",
            RESULTS,
            name="--json",
        ),
    ] = False,
    verbose: options.Verbose = False,
) -> None:
    """Fine-tune an encoder-decoder on pairs of texts and keep the best checkpoint.

    ELMER models learn to write in one pass, all others as transformers has
    them. The same command goes on with a run that was stopped. Results go to
    stdout, everything else to stderr; offramp generate --model FOLDER writes
    with the result, offramp evaluate --model FOLDER --pairs FILE measures it.
    """
    asked = Finetuning(
        model=model,
        pairs=tuple(pairs),
        split=split,
        held_out=held_out,
        held_out_split=held_out_split,
        target_files=tuple(target_file or ()),
        source_column=source_column,
        target_column=target_column,
        from_scratch=from_scratch,
        metrics=tuple(each.value for each in metrics or ()),
        gates=gates,
        gates_only=gates_only,
        gate_precision=gate_precision,
        output=output,
        settings=settings,
        device=device,
        log_to=log_to.value,
        push_to_hub=push_to_hub,
        json=json,
        verbose=verbose,
    )
    check_installed("offramp finetune", log_to=asked.log_to)
    # --help and the errors above need no torch, which takes seconds to import.
    with logs_disabled(not verbose):
        from offramp.cli.finetuning import run  # noqa: PLC0415

    run(asked)
