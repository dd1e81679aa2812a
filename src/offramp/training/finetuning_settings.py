"""Everything that decides a fine-tuning, as checked values.

In:  what a user or the command line asks for. Out: settings.
Law: what is out of range is refused before a model is loaded (tests/training/test_finetuning.py).
Nothing here needs torch, so that ``--help`` can show it.
Not here: which model and which pairs, transformers' own arguments (offramp.training.finetuning).
"""

from dataclasses import dataclass
from typing import get_args

from offramp.errors import ConfigError
from offramp.training.pretraining_settings import PretrainPrecision, PretrainSchedule


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """How an encoder-decoder is fine-tuned.

    Attributes:
        learning_rate: Highest learning rate of AdamW.
        schedule: linear, cosine or constant, after the warm-up.
        warmup: Share of the steps with a rising learning rate, 0 to below 1.
        weight_decay: Of AdamW.
        label_smoothing: Share of the target's probability that is spread, 0 to below 1; not for
            ELMER models, whose losses are their own.
        epochs: Passes over the pairs.
        max_steps: Stop after so many steps; 0 goes by epochs.
        batch_size: Pairs at a time, on each process.
        accumulate: Batches per step.
        precision: float32, or mixed precision in bfloat16 or float16; auto is bfloat16 on a GPU
            that is fast at it, else float32.
        eval_steps: Steps between checkpoints, each with an evaluation by writing.
        eval_rows: Pairs held out that are written for, at equal distances in what was given.
        metric: Which number decides which checkpoint is the best; its sign tells the direction:
            -loss is better when lower, rougeL when higher.
        patience: Stop after so many evaluations without a better one; 0 never.
        max_source: Tokens of a source, more are cut and such pairs counted.
        max_target: Tokens of a target, pairs with more are left out of the training and counted.
        log_steps: Steps between lines of the log.
        keep: Checkpoints that are kept, the best beside them.
        seed: Decides order, dropout and everything drawn.

    Raises:
        ConfigError: A value is out of its range.
    """

    learning_rate: float = 5e-4
    schedule: PretrainSchedule = "linear"
    warmup: float = 0.05
    weight_decay: float = 0.01
    label_smoothing: float = 0.0
    epochs: float = 10.0
    max_steps: int = 0
    batch_size: int = 64
    accumulate: int = 1
    precision: PretrainPrecision = "auto"
    eval_steps: int = 500
    eval_rows: int = 500
    metric: str = "-loss"
    patience: int = 0
    max_source: int = 256
    max_target: int = 128
    log_steps: int = 50
    keep: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        least_one = ("batch_size", "accumulate", "eval_steps", "max_source", "max_target", "keep")
        for name in (*least_one, "log_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("max_steps", "eval_rows", "patience", "weight_decay"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not self.learning_rate > 0 or not self.epochs > 0:
            raise ConfigError(
                "learning_rate and epochs must be above 0, got "
                f"{self.learning_rate} and {self.epochs}"
            )
        for name in ("warmup", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be from 0 to below 1, got {getattr(self, name)}")
        for name, known in (("precision", PretrainPrecision), ("schedule", PretrainSchedule)):
            if getattr(self, name) not in get_args(known):
                raise ConfigError(
                    f"unknown {name} {getattr(self, name)!r}; use one of "
                    f"{', '.join(get_args(known))}"
                )
