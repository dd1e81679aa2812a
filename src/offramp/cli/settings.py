"""What a command was asked for, as checked values.

In:  what typer parsed. Out: values that the other modules read, or one ``ConfigError``.
Law: options that exclude or need each other are refused here, before a model is loaded
     (tests/cli/test_options.py).
Not here: reading exits (offramp.cli.rule), what depends on the model (offramp.cli.answers).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from offramp.cli.seq2seq_settings import OnePassChoice
from offramp.errors import ConfigError

SAMPLED_ONLY = ("temperature", "top_k", "top_p")
"""Options that do nothing unless tokens are drawn at random."""

RANGES: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda value: value > 0, "above 0; try 0.7"),
    "top_p": (lambda value: 0 < value <= 1, "above 0 and at most 1; try 0.9"),
    "repetition_penalty": (lambda value: value > 0, "above 0; 1 is no penalty, try 1.1"),
}


@dataclass(frozen=True, kw_only=True)
class ExitChoice:
    """Which model answers, and from which exits; each field is the option of the same name."""

    model: str | None
    dtype: str
    device: str
    contrast: str | None
    alpha: float | None
    exit: str | None
    dola: str | None
    exits_from: str | None = None

    def __post_init__(self) -> None:
        chosen = {"contrast": self.contrast, "exit": self.exit, "dola": self.dola}
        given = [f"--{name} {value}" for name, value in chosen.items() if value is not None]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} exclude each other; keep one of them")
        if self.alpha is not None and self.contrast is None:
            raise ConfigError(
                f"--alpha {self.alpha} belongs to --contrast; add --contrast original:12"
            )


@dataclass(frozen=True, kw_only=True)
class Settings(ExitChoice):
    """Everything that may change the text; each field is the option of the same name."""

    chat: bool | None
    system: str | None
    max_new_tokens: int
    sampling: Mapping[str, bool | int | float]
    """The options of transformers that were given, by their names there."""
    batch_size: int
    seed: int | None
    early_exit: str | None = None
    exits: str | None = None
    cache: str | None = None
    speculate: str | None = None
    draft_length: int | None = None
    lookup: int | None = None
    runtime: str | None = None
    one_pass: OnePassChoice = field(default_factory=OnePassChoice)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_speed()
        if self.system is not None and self.chat is False:
            raise ConfigError("--system needs the chat template; leave out --no-chat")
        if self.seed is not None and self.seed >= 2**32:
            raise ConfigError(f"--seed must be below 2**32, got {self.seed}; try 1")
        for name, (allowed, words) in RANGES.items():
            value = self.sampling.get(name)
            if value is not None and not (math.isfinite(value) and allowed(value)):
                raise ConfigError(f"{flag(name)} must be {words}, got {value}")
        if self.sampling.get("do_sample") is False:
            self.refuse_sampled_only()

    def _check_speed(self) -> None:
        """Refuse options for speed that exclude or need each other."""
        if self.early_exit is not None:
            other = {"speculate": self.speculate, "exit": self.exit, "dola": self.dola}
            given = [f"--{name} {value}" for name, value in other.items() if value is not None]
            if given:
                raise ConfigError(f"--early-exit and {given[0]} exclude each other; keep one")
        needing = {"exits": self.exits, "cache": self.cache, "min-exit": self.one_pass.min_exit}
        for name, value in needing.items():
            if value is not None and self.early_exit is None:
                raise ConfigError(f"--{name} {value} belongs to --early-exit; add it")
        for name, value in (("draft-length", self.draft_length), ("lookup", self.lookup)):
            if value is not None and self.speculate is None:
                raise ConfigError(f"--{name} {value} belongs to --speculate; add --speculate 12")

    def refuse_sampled_only(self) -> None:
        """Refuse options that would be ignored, because no token is drawn at random.

        Raises:
            ConfigError: One was given.
        """
        useless = [flag(name) for name in SAMPLED_ONLY if name in self.sampling]
        if useless:
            raise ConfigError(
                f"{', '.join(useless)} would change nothing without sampling; add --do-sample"
            )


@dataclass(frozen=True, kw_only=True)
class Display:
    """Where results go and what is shown meanwhile; it changes no text."""

    stream: bool
    json: bool
    output: Path | None
    overwrite: bool
    verbose: bool

    def __post_init__(self) -> None:
        if self.overwrite and self.output is None:
            raise ConfigError("--overwrite belongs to --output; add --output out.jsonl")
        if self.stream and (self.json or self.output is not None):
            other = "--json" if self.json else "--output"
            raise ConfigError(
                f"--stream shows text as it is made, {other} whole results; keep one of them"
            )


def flag(name: str) -> str:
    """Name the option of a setting.

    Example:
        >>> flag("top_p")
        '--top-p'
    """
    return f"--{name.replace('_', '-')}"
