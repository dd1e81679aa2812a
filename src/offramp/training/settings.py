"""Everything that decides a training of exits, as checked values.

In:  what a user or the command line asks for. Out: settings, and transformers' own arguments.
Law: the recipe ``published`` sets the published optimiser, schedule, lengths and batch
     (tests/training/test_settings.py).
Not here: which exits and which data.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from transformers import TrainingArguments

from offramp.config import ORIGINAL, ExitName
from offramp.errors import ConfigError
from offramp.training.candidates import Candidates
from offramp.training.layer_dropout import CURRICULA, Curriculum
from offramp.training.objectives import Objective, ObjectiveName
from offramp.training.student import Lesson
from offramp.training.trainer import precision_arguments

Precision = Literal["float32", "bfloat16", "float16"]
Schedule = Literal["linear", "cosine", "constant"]


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How exits are trained.

    Attributes:
        exits: Which of the attached exits are trained; None: all that have parameters.
        objective: ``next-token`` (published), ``distillation`` from the last layer, or ``mixed``.
        temperature: Of a distillation; above 0.
        distillation_share: Of the distillation in ``mixed``, 0 to 1.
        exit_weights: What each exit's loss counts; exits that are not named count 1.
        positions: Share of the positions whose losses are computed, above 0, at most 1.
        candidates: Score each position's likely tokens and this many others, in place of the whole
            vocabulary; 0 scores the whole vocabulary.
        unfreeze: Train the base too, with the base's own head among the exits. LayerSkip has the
            objective next-token at all positions, and a learning rate for a whole model.
        curriculum: Which exits learn when, with ``unfreeze``: none, gradual or rotating.
        layer_dropout: How often the last block is left out, with ``unfreeze``; 0 to below 1.
        learning_rate: Highest learning rate of AdamW.
        schedule: linear, cosine or constant, after the warm-up.
        warmup: Share of the steps with a rising learning rate, 0 to below 1.
        epochs: Passes over the data.
        max_steps: Stop after so many steps; 0 goes by epochs. Needed for streamed data.
        batch_size: Rows at a time, on each process.
        accumulate: Batches per step.
        precision: float32, or mixed precision in bfloat16 or float16.
        checkpointing: Recompute activations of the base in the backward pass, with ``unfreeze``.
        save_steps: Steps between checkpoints.
        log_steps: Steps between lines of the log.
        keep: Checkpoints that are kept, the newest.
        seed: Decides order, positions and everything drawn.

    Raises:
        ConfigError: A value is out of its range, or two contradict each other.
    """

    exits: tuple[int, ...] | None = None
    objective: ObjectiveName = "distillation"
    temperature: float = 1.0
    distillation_share: float = 0.5
    exit_weights: Mapping[int, float] | None = None
    positions: float = 0.25
    candidates: int = 0
    unfreeze: bool = False
    curriculum: Curriculum = "gradual"
    layer_dropout: float = 0.0
    learning_rate: float = 1e-3
    schedule: Schedule = "cosine"
    warmup: float = 0.03
    epochs: float = 1.0
    max_steps: int = 0
    batch_size: int = 8
    accumulate: int = 1
    precision: Precision = "float32"
    checkpointing: bool = False
    save_steps: int = 200
    log_steps: int = 10
    keep: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_numbers()
        for name, value, known in (
            ("precision", self.precision, get_args(Precision)),
            ("schedule", self.schedule, get_args(Schedule)),
            ("curriculum", self.curriculum, CURRICULA),
        ):
            if value not in known:
                raise ConfigError(f"unknown {name} {value!r}; use one of {', '.join(known)}")
        if not self.unfreeze and (self.layer_dropout or self.checkpointing):
            raise ConfigError(
                "layer_dropout and checkpointing change how the base is trained, and the base is "
                "frozen; add unfreeze, or leave them out"
            )
        self._lesson({1: 1.0, **self._weights()})

    def _check_numbers(self) -> None:
        for name in ("batch_size", "accumulate", "save_steps", "log_steps", "keep"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.learning_rate > 0 or not self.epochs > 0:
            raise ConfigError(
                "learning_rate and epochs must be above 0, got "
                f"{self.learning_rate} and {self.epochs}"
            )
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"warmup must be from 0 to below 1, got {self.warmup}; try 0.03")
        if self.max_steps < 0 or self.candidates < 0:
            raise ConfigError(
                f"max_steps and candidates must be 0 or more, got {self.max_steps} and "
                f"{self.candidates}"
            )

    def lesson(self, exits: tuple[int, ...]) -> Lesson:
        """Give what is learnt in one pass.

        Args:
            exits: Those that are trained.

        Raises:
            ConfigError: A weight is for an exit that is not trained.
        """
        weights: dict[ExitName, float] = dict.fromkeys(exits, 1.0)
        if unknown := sorted(set(self.exit_weights or ()) - set(exits)):
            raise ConfigError(f"exit_weights name {unknown}; the exits trained are {exits}")
        weights |= self._weights()
        if self.unfreeze:
            weights[ORIGINAL] = 1.0
        return self._lesson(weights)

    def _weights(self) -> dict[ExitName, float]:
        return {exit: weight for exit, weight in (self.exit_weights or {}).items()}

    def _lesson(self, weights: Mapping[ExitName, float]) -> Lesson:
        return Lesson(
            objective=Objective(
                name=self.objective, temperature=self.temperature, share=self.distillation_share
            ),
            exit_weights=weights,
            share=self.positions,
            seed=self.seed,
            candidates=Candidates(others=self.candidates) if self.candidates else None,
            curriculum=self.curriculum if self.unfreeze else None,
            layer_dropout=self.layer_dropout,
        )

    def arguments(self, output: str | Path, **more: Any) -> TrainingArguments:
        """Give transformers' arguments.

        Args:
            output: Folder of checkpoints and logs.
            **more: Further arguments of transformers, such as ``report_to`` or ``push_to_hub``.
        """
        given: dict[str, Any] = {
            "output_dir": str(output),
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": self.schedule,
            "warmup_steps": self.warmup,
            "num_train_epochs": self.epochs,
            "max_steps": self.max_steps or -1,
            "per_device_train_batch_size": self.batch_size,
            "per_device_eval_batch_size": self.batch_size,
            "gradient_accumulation_steps": self.accumulate,
            **precision_arguments(self.precision, use_cpu=more.get("use_cpu")),
            "save_steps": self.save_steps,
            "logging_steps": self.log_steps,
            "save_total_limit": self.keep,
            "seed": self.seed,
            "data_seed": self.seed,
            "weight_decay": 0.0,
            "remove_unused_columns": False,
            "label_names": ["shift_labels"],
            "prediction_loss_only": True,
            "disable_tqdm": False,
            "report_to": "none",
        }
        return TrainingArguments(**{**given, **more})


def published_recipe(settings: TrainSettings) -> TrainSettings:
    """Give the published training: cross-entropy of all positions, AdamW 2e-4 linear, 3 epochs.

    Blocks of 512 tokens and 16 of them on each process belong to it; the length is a setting of the
    data. Source: IBM/auto-contrastive-generation, release 0.1.

    Example:
        >>> published_recipe(TrainSettings()).learning_rate
        0.0002
    """
    return replace(
        settings,
        objective="next-token",
        positions=1.0,
        candidates=0,
        learning_rate=2e-4,
        schedule="linear",
        warmup=0.0,
        epochs=3.0,
        max_steps=0,
        batch_size=16,
        accumulate=1,
        unfreeze=False,
        layer_dropout=0.0,
        checkpointing=False,
    )


PUBLISHED_BLOCK = 512
"""Tokens in a row of the published training."""
