"""What was asked for of models that read a source and write a text, as checked values.

In:  what typer parsed. Out: values that the other modules read, or one ``ConfigError``.
Law: options of the other kind of measuring, or of the other kind of model, are refused
     (tests/cli/test_seq2seq.py).
Not here: how a text is written (offramp.decoding.oneshot), which needs torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from offramp.cli.spreading import Spread
from offramp.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OnePassChoice:
    """How an ELMER model writes; each field is the option of the same name."""

    min_exit: int | None = None
    canvas_length: int | None = None
    lengths: int | None = None
    refine_steps: int | None = None
    path: str | None = None
    collapse_repeats: bool | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The options that were given."""
        every = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in every.items() if value not in (None, False)}


@dataclass(frozen=True, kw_only=True)
class PairsEvaluation:
    """What is measured on which pairs; each field is the option of the same name."""

    pairs: Path
    model: tuple[str, ...]
    dtype: str
    device: str
    limit: int | None
    batch_size: int
    json: bool
    verbose: bool
    max_source_tokens: int | None = None
    max_new_tokens: int | None = None
    early_exit: str | None = None
    one_pass: OnePassChoice = field(default_factory=OnePassChoice)
    num_beams: int | None = None
    length_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    metrics: str | None = None
    stemmer: bool | None = None
    bleu_tokenizer: str | None = None
    lowercase: bool = False
    samples: int | None = None
    time: int | None = None
    output: Path | None = None
    overwrite: bool = False
    spread: Spread = field(default_factory=Spread)

    def __post_init__(self) -> None:
        if not self.model:
            raise ConfigError(
                "--pairs needs an encoder-decoder; name its folder or hub name by --model"
            )
        if len(set(self.model)) < len(self.model):
            raise ConfigError(f"a --model is named twice: {', '.join(self.model)}; name it once")
        if self.overwrite and self.output is None:
            raise ConfigError("--overwrite belongs to --output; add --output out.jsonl")
        if self.length_penalty is not None and (self.num_beams or 1) == 1:
            raise ConfigError(
                f"--length-penalty {self.length_penalty} belongs to beams; add --num-beams 4"
            )

    @property
    def only_in_one_pass(self) -> dict[str, Any]:
        """The options that were given and that ELMER models alone know."""
        early = {} if self.early_exit is None else {"early_exit": self.early_exit}
        return {**early, **self.one_pass.given}

    @property
    def only_in_steps(self) -> dict[str, Any]:
        """The options that were given and that no ELMER model knows."""
        every = {"num_beams": self.num_beams, "length_penalty": self.length_penalty}
        return {name: value for name, value in every.items() if value is not None}


def refuse(given: Mapping[str, Any], reason: str) -> None:
    """Refuse options that would be ignored.

    Args:
        given: Values by name; None and False were not given.
        reason: Why, and what to do.

    Raises:
        ConfigError: One was given.
    """
    for name, value in given.items():
        if value not in (None, False):
            shown = "" if value is True else f" {value}"
            raise ConfigError(f"--{name.replace('_', '-')}{shown} {reason}")
