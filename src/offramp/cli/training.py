"""What ``offramp train`` was asked for, as checked values.

In:  what typer parsed. Out: values that the other modules read, or one ``ConfigError``.
Law: options that exclude or need each other are refused here, before a model is loaded
     (tests/cli/test_train.py).
Not here: what depends on the model (offramp.cli.pupils), ranges of settings
     (offramp.training.settings).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offramp.cli.settings import flag
from offramp.errors import ConfigError

SELF, TRAIN = "self", "train"
OF_FIT = {"batch_size", "seed"}
"""Settings of a training that a closed form uses, too."""


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What is read; each field is the option of the same name."""

    data: tuple[str, ...]
    split: str
    text_column: str
    prompt_column: str
    completion_column: str
    streaming: bool
    block_size: int | None
    limit: int | None
    held_out: str | None
    held_out_split: str | None
    self_tokens: int | None
    prompts: tuple[str, ...] | None

    def __post_init__(self) -> None:
        if SELF not in self.data:
            for name in ("self_tokens", "prompts"):
                if getattr(self, name) is not None:
                    raise ConfigError(f"{flag(name)} belongs to --data self; add it")
        self._check_held_out()

    def _check_held_out(self) -> None:
        source = self.held_out if self.held_out_share is None else None
        if self.held_out_split is not None and source is None:
            raise ConfigError(
                f"--held-out-split {self.held_out_split} belongs to --held-out SOURCE; add it"
            )
        split = self.held_out_split or TRAIN
        again = self.split == split and any(same_source(each, source or "") for each in self.data)
        if source is not None and again:
            raise ConfigError(
                f"--held-out {source} is trained on: split {split} of it is --data, too; "
                "name another --held-out-split or source, or a share such as 0.02"
            )
        if self.streaming and self.held_out_share is not None:
            raise ConfigError(
                f"--held-out {self.held_out} cannot be a share of a stream; name another source"
            )
        if self.held_out_share is not None and not 0 < self.held_out_share < 1:
            raise ConfigError(
                f"--held-out must be a source, or a share above 0 and below 1, got {self.held_out}"
            )

    @property
    def held_out_share(self) -> float | None:
        """The share of rows to keep back, if ``held_out`` is one."""
        try:
            return float(self.held_out or "")
        except ValueError:
            return None


def same_source(source: str, other: str) -> bool:
    """Tell whether two sources are one, however its path is written."""
    one, two = (Path(each).expanduser().resolve() for each in (source, other))
    return one == two


@dataclass(frozen=True, kw_only=True)
class Training:
    """What was asked for; each field is the option of the same name."""

    model: str | None
    exits: str | None
    projection: str | None
    texts: Texts
    given: Mapping[str, Any]
    """Those settings of ``TrainSettings`` that were given, by their names there."""
    published: bool
    closed_form: bool | None
    closed_form_tokens: int | None
    fit_only: bool
    gates: bool
    gate_precision: float | None
    gate_tokens: int | None
    keep_states: Path | None
    dtype: str
    device: str
    output: Path
    overwrite: bool
    log_to: str
    push_to_hub: str | None
    json: bool
    verbose: bool

    def __post_init__(self) -> None:
        self._check_steps()
        self._check_parts()
        if self.published:
            self._check_published()
        if self.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(
                f"--device must be auto, cpu or cuda, got {self.device}; choose one of several "
                "GPUs by CUDA_VISIBLE_DEVICES"
            )

    def _check_steps(self) -> None:
        given = self.given
        if not self.texts.data and self.keep_states is None:
            raise ConfigError("nothing to train on; add --data FILE, or --data self")
        if "epochs" in given and given.get("max_steps"):
            raise ConfigError("--epochs and --max-steps exclude each other; keep one of them")
        if self.texts.streaming and not given.get("max_steps") and not self.fit_only:
            raise ConfigError("--streaming has no end that is known; add --max-steps 1000")
        if "temperature" in given and given.get("objective") == "next-token":
            raise ConfigError("--temperature belongs to a distillation; use --objective mixed")
        if "distillation_share" in given and given.get("objective") != "mixed":
            raise ConfigError("--distillation-share belongs to --objective mixed; add it")
        if "curriculum" in given and "unfreeze" not in given:
            raise ConfigError("--curriculum belongs to --unfreeze; add it")

    def _check_parts(self) -> None:
        if self.closed_form is False and (self.fit_only or self.closed_form_tokens):
            raise ConfigError("--no-closed-form leaves nothing to fit; leave it out")
        if not self.gates and (self.gate_precision is not None or self.gate_tokens is not None):
            raise ConfigError("--gate-precision and --gate-tokens belong to --gates; add it")
        if self.gate_precision is not None and not 0 < self.gate_precision <= 1:
            raise ConfigError(
                f"--gate-precision must be above 0 and at most 1, got {self.gate_precision}; try "
                "0.95"
            )
        useless = [flag(name) for name in self.given if self.fit_only and name not in OF_FIT]
        if self.fit_only and self.keep_states is not None:
            useless.append("--keep-states")
        if useless:
            raise ConfigError(
                f"{', '.join(useless)} would change nothing with --fit-only; leave one of them out"
            )
        if self.keep_states is not None and "unfreeze" in self.given:
            raise ConfigError(
                "--keep-states keeps what a frozen base says, and --unfreeze changes it; leave one "
                "of them out"
            )

    def _check_published(self) -> None:
        allowed = {"--projection": (self.projection, "head"), "--closed-form": (
            self.closed_form, False), "--fit-only": (self.fit_only or None, False),
            "--block-size": (self.texts.block_size, 512),
            "--temperature": (self.given.get("temperature"), "no distillation")}  # fmt: skip
        for name, (value, own) in allowed.items():
            if value not in (None, own):
                raise ConfigError(
                    f"{name} {value} contradicts --recipe published, which has {own}; leave one of "
                    "them out"
                )
