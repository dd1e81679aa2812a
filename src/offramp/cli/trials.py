"""Time early exit and self-speculation against plain decoding, with a bar on stderr.

In:  a loaded model, what was promised, prompts. Out: timings, and the settings that are worth it.
Not here: timing (offramp.evaluation.latency), what there is to try (offramp.evaluation.candidates).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from offramp.cli.calibrate import Wanted
from offramp.cli.loading import Loaded
from offramp.cli.show import progress
from offramp.decoding.calibrated import CalibratedDrafts
from offramp.decoding.early_exit import EarlyExit
from offramp.decoding.speculation import SelfSpeculation
from offramp.errors import ConfigError
from offramp.evaluation.candidates import speculations
from offramp.evaluation.latency import Stopwatch, Timing, compare, fastest, halve
from offramp.evaluation.promises import Promise
from offramp.logits.labels import first_label
from offramp.models.context import context_of
from offramp.training.self_text import opened

MOST_PROMPTS, WORDS = 8, 32
"""Prompts that are answered in a round; tokens of a text that has no prompt."""

EARLY_EXIT = "early exit"


@dataclass(frozen=True, kw_only=True)
class Trials:
    """What was timed.

    Attributes:
        timings: Of every way in the last race; None where nothing was timed.
        speculation: The fastest way to speculate.
        early_exit: How many times faster than plain the promised early exit is.
    """

    timings: tuple[Timing, ...] | None = None
    speculation: CalibratedDrafts | None = None
    early_exit: dict[str, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Give what JSON can hold."""
        found = None if self.timings is None else [asdict(each) for each in self.timings]
        drafts = None if self.speculation is None else asdict(self.speculation)
        return {"timing": found, "speculation": drafts}


def run_trials(
    loaded: Loaded,
    rows: Any,
    wanted: Wanted,
    *,
    promise: Promise,
    prompts: Sequence[str] | None,
) -> Trials:
    """Let ways to speculate race, then time the fastest and early exit beside plain decoding.

    Raises:
        ConfigError: Prompts leave no room in the model's context.
    """
    model = loaded.model
    watch = Stopwatch(
        model,
        _prompts(loaded, rows, wanted, prompts),
        max_new_tokens=wanted.max_new_tokens,
        seed=wanted.seed,
    )
    ways: dict[str, Any] = dict(speculations(model))
    with progress(max(1, len(ways)).bit_length(), unit="heats") as advance:
        ways = halve(watch, ways, advance=advance)
    drafts = tuple(ways)
    found = promise.found
    if found.usable and found.thresholds is not None:
        thresholds = dict(zip(found.ladder.exits, found.thresholds, strict=True))
        ways[EARLY_EXIT] = EarlyExit(
            rule=found.rule, threshold=thresholds, exits=found.ladder.exits
        )
    with progress(wanted.rounds, unit="rounds") as advance:
        timings = compare(watch, ways, rounds=wanted.rounds, advance=advance)
    best, used = fastest(timings, drafts)
    early, _ = fastest(timings, (EARLY_EXIT,))
    return Trials(
        timings=tuple(timings),
        speculation=None if best is None else _settings(ways[best.name], best, used=used),
        early_exit=None if early is None else asdict(early.against_plain),
    )


def _settings(way: SelfSpeculation, timing: Timing, *, used: bool) -> CalibratedDrafts:
    ratio = timing.against_plain
    return CalibratedDrafts(
        draft_exit=way.exit,
        draft_length=way.draft_length,
        surest=way.surest,
        lookup=way.lookup,
        speedup=ratio.median,
        low=ratio.low,
        high=ratio.high,
        used=used,
    )


def _prompts(
    loaded: Loaded, rows: Any, wanted: Wanted, given: Sequence[str] | None
) -> list[Int[Tensor, " _"]]:
    """Give what is answered: the user's prompts, or those of the text, or its first words."""
    if given is not None:
        tokens = [opened(loaded.tokenizer, each) for each in given[:MOST_PROMPTS]]
    else:
        step = max(1, len(rows) // MOST_PROMPTS)
        chosen = [rows[place] for place in range(0, len(rows), step)][:MOST_PROMPTS]
        apart = loaded.model.config.is_encoder_decoder
        tokens = [_asked(row, apart=apart) for row in chosen]
    context = context_of(loaded.model.config)
    longest = (context or 1_000_000) - wanted.max_new_tokens
    if longest < 1:
        raise ConfigError(
            f"--max-new-tokens {wanted.max_new_tokens} fills the model's context of {context}; use "
            "fewer"
        )
    return [torch.tensor(each[-longest:]) for each in tokens]


def _asked(row: Any, *, apart: bool) -> list[int]:
    tokens = list(row["input_ids"])
    if apart:
        return tokens
    learnt = first_label(row["labels"])
    return tokens[:learnt] if learnt > 1 else tokens[:WORDS]
