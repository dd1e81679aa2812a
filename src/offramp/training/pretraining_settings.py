"""Everything that decides a pre-training, as checked values.

In:  what a user or the command line asks for. Out: settings.
Law: the recipe ``published`` sets the published noise, optimiser, schedule and sequences per update
     (tests/training/test_pretraining.py). Nothing here needs torch, so that ``--help`` can show it.
Not here: which model and which data, transformers' own arguments (offramp.training.pretraining).
Source: the numbers of ``PUBLISHED`` are those of the released code of Li et al. 2022, "ELMER",
     arXiv:2210.13304, commit 0417835; the noise is that of "BART", arXiv:1910.13461.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from offramp.errors import ConfigError

PretrainPrecision = Literal["auto", "float32", "bfloat16", "float16"]
PretrainSchedule = Literal["linear", "cosine", "constant"]

PUBLISHED: Mapping[str, Any] = {
    "mask_ratio": 0.3,
    "mean_span": 3.5,
    "random_share": 0.1,
    "permute": True,
    "learning_rate": 2e-5,
    "schedule": "constant",
    "warmup": 0.0,
    "weight_decay": 0.0,
    "beta2": 0.999,
    "clip": 2.0,
    "rows_per_step": 4096,
    "precision": "float32",
}
"""What the recipe ``published`` fixes. AdamW without weight decay is Adam."""

_RANGES: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (
        ("rows_per_step", "batch_size", "save_steps", "log_steps", "keep"),
        lambda value: value >= 1,
        "at least 1",
    ),
    (("max_steps", "workers", "weight_decay"), lambda value: value >= 0, "0 or more"),
    (
        ("learning_rate", "clip", "epochs"),
        lambda value: 0 < value < float("inf"),
        "above 0; try the default",
    ),
    (("warmup", "beta2"), lambda value: 0 <= value < 1, "from 0 to below 1"),
)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How much of a text is corrupted.

    Attributes:
        mask_ratio: Share of the words that are masked, 0 to below 1.
        mean_span: Mean length of a masked span in words (Poisson), at least 0.1.
        random_share: Share of the masked spans that become a random token in place of the mask.
        permute: Permute the sentences of a row.

    Raises:
        ConfigError: A number is out of its range.
    """

    mask_ratio: float = 0.3
    mean_span: float = 3.5
    random_share: float = 0.1
    permute: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.mask_ratio < 1:
            raise ConfigError(
                f"mask_ratio must be from 0 to below 1, got {self.mask_ratio}; try 0.3"
            )
        if not 0.1 <= self.mean_span < float("inf"):
            raise ConfigError(f"mean_span must be at least 0.1, got {self.mean_span}; try 3.5")
        if not 0 <= self.random_share <= 1:
            raise ConfigError(f"random_share must be from 0 to 1, got {self.random_share}; try 0.1")


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(Noise):
    """How a model is pre-trained.

    Attributes:
        learning_rate: Highest learning rate of AdamW.
        schedule: linear, cosine or constant, after the warm-up.
        warmup: Share of the steps with a rising learning rate, 0 to below 1.
        weight_decay: Of AdamW; 0 is Adam.
        beta2: Of AdamW, 0 to below 1: how slowly it forgets the size of gradients.
        clip: Longest gradient of a step, above 0.
        epochs: Passes over the data, corrupted anew in each.
        max_steps: Stop after so many steps; 0 goes by epochs.
        rows_per_step: Rows of one step, on all processes together; accumulated where they are more
            than fit.
        batch_size: Rows at a time, on each process.
        precision: float32, or mixed precision in bfloat16 or float16; auto is bfloat16 on a GPU
            that is fast at it, else float32.
        workers: Processes that corrupt rows beside each training process; 0 leaves it to that.
        save_steps: Steps between checkpoints.
        log_steps: Steps between lines of the log.
        keep: Checkpoints that are kept, the newest.
        seed: Decides order, noise, exits and everything else that is drawn.

    Raises:
        ConfigError: A value is out of its range.

    Example:
        >>> PretrainSettings(batch_size=8, rows_per_step=64).accumulate(processes=2)
        4
    """

    learning_rate: float = 2e-4
    schedule: PretrainSchedule = "cosine"
    warmup: float = 0.06
    weight_decay: float = 0.01
    beta2: float = 0.98
    clip: float = 1.0
    epochs: float = 1.0
    max_steps: int = 0
    rows_per_step: int = 256
    batch_size: int = 16
    precision: PretrainPrecision = "auto"
    workers: int = 1
    save_steps: int = 200
    log_steps: int = 10
    keep: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for names, allowed, words in _RANGES:
            for name in names:
                if not allowed(getattr(self, name)):
                    raise ConfigError(f"{name} must be {words}, got {getattr(self, name)}")
        for name, known in (("precision", PretrainPrecision), ("schedule", PretrainSchedule)):
            if getattr(self, name) not in get_args(known):
                raise ConfigError(
                    f"unknown {name} {getattr(self, name)!r}; use one of "
                    f"{', '.join(get_args(known))}"
                )

    def accumulate(self, *, processes: int) -> int:
        """Give the batches of one step on each process.

        Args:
            processes: That share the work.

        Raises:
            ConfigError: The rows of a step do not divide evenly.
        """
        together = self.batch_size * processes
        if self.rows_per_step % together:
            raise ConfigError(
                f"rows_per_step must be a multiple of {together}, batch_size times the number of "
                f"processes, got {self.rows_per_step}; change one of them"
            )
        return self.rows_per_step // together


def published_pretraining(settings: PretrainSettings) -> PretrainSettings:
    """Give the published pre-training: 4,096 rows a step, Adam 2e-5 constant, gradients up to 2.

    How long it trains stays as it is: the released code went 10 times over 16 GB of text.
    Differs from the released code: that shortened the gradient after each of the 256 batches of a
    step, while it was adding up; here it is the step's gradient that is shortened, once.

    Args:
        settings: The rest of them.

    Example:
        >>> published_pretraining(PretrainSettings()).learning_rate
        2e-05
    """
    return replace(settings, **PUBLISHED)
