"""Time ways to decode against each other, and find the fastest that is surely faster than plain.

In:  a model, prompts, ways to decode. Out: seconds per token of each, and ratios with intervals.
Law: ways are timed in turn within each round, so that what slows the machine slows them all; the
     winner is judged by rounds that did not choose it (tests/evaluation/test_latency.py).
Not here: which ways there are to try (offramp.evaluation.candidates).

The time is that of the whole call of ``generate``, prompt included, by token that came out: a way
that writes another text is not charged for writing more.
"""

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from offramp.decoding.speculation import Autoregressive
from offramp.errors import ConfigError, InputError

TRANSFORMERS, PLAIN = "transformers", "plain"
"""Names of transformers' own ``generate`` and of ``Autoregressive()``, which are always timed."""

ROUNDS, LEAST_ROUNDS = 6, 5
SURE = 0.95


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times faster one way is than another: median of rounds, and its interval.

    Attributes:
        median: Of the rounds; above 1 is faster.
        low: Lower end of the interval.
        high: Upper end of it.
    """

    median: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What one way took.

    Attributes:
        name: Of the way.
        tokens: New tokens of a round.
        seconds: For a token, median of the rounds.
        spread: Slowest round less fastest, by the median.
        against_plain: Against ``Autoregressive()``.
        against_transformers: Against transformers' own ``generate``.
    """

    name: str
    tokens: int
    seconds: float
    spread: float
    against_plain: Ratio
    against_transformers: Ratio


def ratio_of(ours: Sequence[float], other: Sequence[float]) -> Ratio:
    """Compare two ways by rounds that ran side by side.

    The interval is between two of the ordered rounds, as narrow as it can be and still hold the
    true median with 95 % (at 5 rounds, between the extremes, 94 %); nothing is assumed about how
    times are spread.

    Args:
        ours: Seconds per token of each round, above 0.
        other: Those of the way that it is compared with.

    Raises:
        ConfigError: There are fewer than 5 rounds.

    Example:
        >>> ratio_of([1.0] * 6, [1.5, 2.0, 2.0, 2.0, 2.0, 3.0])
        Ratio(median=2.0, low=1.5, high=3.0)
    """
    rounds = len(ours)
    if rounds < LEAST_ROUNDS:
        raise ConfigError(f"got {rounds} rounds; time at least {LEAST_ROUNDS}")
    ratios = sorted(theirs / mine for mine, theirs in zip(ours, other, strict=True))
    outside = 0
    while outside < (rounds - 1) // 2 and _missed(outside + 1, rounds) <= 1 - SURE:
        outside += 1
    return Ratio(median=median(ratios), low=ratios[outside], high=ratios[-1 - outside])


def _missed(outside: int, rounds: int) -> float:
    """Give the chance that a median lies beyond all but ``outside`` rounds on one of the sides."""
    missed = sum(math.comb(rounds, count) for count in range(outside + 1))
    return float(2.0 * missed / 2.0**rounds)


class Stopwatch:
    """Times ways to decode with one model and some prompts.

    Attributes:
        clock: Gives seconds.
    """

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Int[Tensor, " _"]],
        *,
        max_new_tokens: int = 64,
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Take model and prompts; one at a time is answered.

        Raises:
            ConfigError: The model decodes by a rule where a call does not say otherwise.
            InputError: There is no prompt.
        """
        if model.default_decoding is not None:
            raise ConfigError(
                f"the model decodes by {model.default_decoding}, so nothing shows what "
                "transformers does; set default_decoding to None"
            )
        if not prompts:
            raise InputError("there is no prompt to time with; give some")
        self._model, self._prompts, self._longest = model, prompts, max_new_tokens
        self._draw = random.Random(seed)
        self.clock = clock

    def round(
        self, ways: Mapping[str, Any], *, prompts: int | None = None
    ) -> dict[str, tuple[float, int]]:
        """Let every way answer the prompts, in turn and in a drawn order.

        Args:
            ways: Values for ``decoding``, by name.
            prompts: Only so many; None is all.

        Returns:
            Seconds and new tokens of each.
        """
        found = {name: (0.0, 0) for name in ways}
        for prompt in self._prompts[:prompts]:
            order = list(ways)
            self._draw.shuffle(order)
            for name in order:
                seconds, tokens = self._answer(prompt, ways[name])
                found[name] = (found[name][0] + seconds, found[name][1] + tokens)
        return found

    def _answer(self, prompt: Int[Tensor, " seq"], decoding: Any) -> tuple[float, int]:
        ids = prompt[None].to(self._model.device)
        self._wait()
        begun = self.clock()
        with torch.no_grad():
            made = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                decoding=decoding,
                max_new_tokens=self._longest,
                do_sample=False,
                num_beams=1,
            )
        self._wait()
        given = 1 if self._model.config.is_encoder_decoder else ids.shape[1]
        return self.clock() - begun, made.shape[1] - given

    def _wait(self) -> None:
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)


def compare(
    watch: Stopwatch,
    ways: Mapping[str, Any],
    *,
    rounds: int = ROUNDS,
    advance: Callable[[int], None] = lambda rounds: None,
) -> list[Timing]:
    """Time some ways beside plain decoding and transformers.

    Args:
        watch: Times them.
        ways: Values for ``decoding``, by name.
        rounds: 5 or more; one before them is not counted.
        advance: Called after each round.

    Raises:
        ConfigError: There are fewer than 5 rounds.
    """
    if rounds < LEAST_ROUNDS:
        raise ConfigError(f"got {rounds} rounds; time at least {LEAST_ROUNDS}")
    every = {TRANSFORMERS: None, PLAIN: Autoregressive(), **ways}
    watch.round(every, prompts=1)
    each: dict[str, list[float]] = {name: [] for name in every}
    tokens = dict.fromkeys(every, 0)
    for _ in range(rounds):
        for name, (seconds, count) in watch.round(every).items():
            each[name].append(seconds / count)
            tokens[name] = count
        advance(1)
    return [
        Timing(
            name=name,
            tokens=tokens[name],
            seconds=median(mine),
            spread=(max(mine) - min(mine)) / median(mine),
            against_plain=ratio_of(mine, each[PLAIN]),
            against_transformers=ratio_of(mine, each[TRANSFORMERS]),
        )
        for name, mine in each.items()
    ]


def halve(
    watch: Stopwatch,
    ways: Mapping[str, Any],
    *,
    finalists: int = 2,
    advance: Callable[[int], None] = lambda heats: None,
) -> dict[str, Any]:
    """Drop the slower half of some ways again and again, with ever more prompts.

    Args:
        watch: Times them.
        ways: Values for ``decoding``, by name.
        finalists: How many to leave.
        advance: Called after each heat.

    Returns:
        The fastest, as far as so short a race can tell.
    """
    left, prompts = dict(ways), 1
    while len(left) > finalists:
        times = watch.round(left, prompts=prompts)
        ranked = sorted(left, key=lambda name: times[name][0] / times[name][1])
        left = {name: left[name] for name in ranked[: max(finalists, len(left) // 2)]}
        prompts *= 2
        advance(1)
    return left


def fastest(timings: Sequence[Timing], names: Sequence[str]) -> tuple[Timing | None, bool]:
    """Give the fastest of some ways, and whether it is surely faster than plain decoding."""
    some = [each for each in timings if each.name in names]
    if not some:
        return None, False
    best = max(some, key=lambda each: each.against_plain.median)
    return best, best.against_plain.low > 1
