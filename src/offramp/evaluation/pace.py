"""Time models that write texts: one source at a time, and in full batches.

In:  writers by name, sources. Out: seconds and texts a second, and ratios with intervals.
Law: the clock runs from text to text, encoding and decoding of the text included, and stops when
     the device is done; writers take turns, so that what slows the machine slows them all
     (tests/evaluation/test_pace.py).
Not here: writing (offramp.evaluation.seq2seq), intervals of ratios (offramp.evaluation.latency).
Source: Helcl et al. 2022, "Non-autoregressive machine translation: it's not that fast",
     arXiv:2205.01966: batch 1 and full batches, end to end.
"""

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import median
from typing import NamedTuple

import torch

from offramp.errors import ConfigError
from offramp.evaluation.latency import LEAST_ROUNDS, Ratio, ratio_of
from offramp.evaluation.seq2seq import Writer

SLOW = 0.95


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast one writer is.

    Attributes:
        latency: Seconds for one source alone, median.
        latency_slow: Seconds that 95 of 100 such sources stay below.
        rows: Sources that were timed alone.
        throughput: Texts a second in full batches, median of the rounds.
        tokens_per_second: Tokens a second in full batches, the ones that end texts included.
        batch_size: Sources of a full batch.
        latency_ratio: Times faster than the first writer, alone; above 1 is faster.
        throughput_ratio: Times faster than the first writer, in full batches.
    """

    latency: float
    latency_slow: float
    rows: int
    throughput: float
    tokens_per_second: float
    batch_size: int
    latency_ratio: Ratio
    throughput_ratio: Ratio


class Lap(NamedTuple):
    """One batch of one writer."""

    seconds: float
    rows: int
    tokens: int


class Race:
    """Times writers in turn.

    Attributes:
        clock: Gives seconds.
    """

    def __init__(
        self,
        writers: Mapping[str, Writer],
        *,
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Take writers, the first of which the others are compared with."""
        self._writers, self._draw, self.clock = writers, random.Random(seed), clock

    def run(
        self,
        sources: Sequence[str],
        *,
        rows: int = 20,
        rounds: int = LEAST_ROUNDS,
        advance: Callable[[int], None] = lambda rounds: None,
    ) -> dict[str, Pace]:
        """Time every writer; what comes before the first round is not counted.

        Args:
            sources: Texts; they are used again where there are too few.
            rows: How many are timed alone, 5 or more.
            rounds: Full batches that are timed, 5 or more.
            advance: Called after each source and each round.

        Raises:
            ConfigError: Too little is timed for an interval.
        """
        if rows < LEAST_ROUNDS or rounds < LEAST_ROUNDS or not sources:
            raise ConfigError(
                f"got {rows} rows, {rounds} rounds and {len(sources)} sources to time; use at "
                f"least {LEAST_ROUNDS} of both, and a source"
            )
        first = next(iter(self._writers.values()))
        size = first.settings.batch_size
        pool = list(islice(cycle(sources), rounds * size))
        full = [[pool[place] for place in batch] for batch in first.batches(pool)]
        alone = self._rounds([[each] for each in islice(cycle(sources), rows)], advance)
        together = self._rounds(full, advance)
        return {name: _pace(alone, together, name, size) for name in self._writers}

    def _rounds(
        self, batches: Sequence[Sequence[str]], advance: Callable[[int], None]
    ) -> dict[str, list[Lap]]:
        """Let every writer write every batch, in turn and in a drawn order."""
        laps: dict[str, list[Lap]] = {name: [] for name in self._writers}
        for writer in self._writers.values():
            writer.write(batches[0])
        for batch in batches:
            order = list(self._writers)
            self._draw.shuffle(order)
            for name in order:
                laps[name].append(self._lap(self._writers[name], batch))
            advance(1)
        return laps

    def _lap(self, writer: Writer, batch: Sequence[str]) -> Lap:
        _wait(writer)
        begun = self.clock()
        written = writer.write(batch)
        _wait(writer)
        seconds = self.clock() - begun
        return Lap(seconds, len(batch), sum(len(each.tokens) for each in written))


def _pace(
    alone: Mapping[str, Sequence[Lap]],
    together: Mapping[str, Sequence[Lap]],
    name: str,
    size: int,
) -> Pace:
    ones, many, first = alone[name], together[name], next(iter(alone))
    ordered = sorted(lap.seconds for lap in ones)
    return Pace(
        latency=median(ordered),
        latency_slow=ordered[math.ceil(SLOW * len(ordered)) - 1],
        rows=len(ones),
        throughput=median(lap.rows / lap.seconds for lap in many),
        tokens_per_second=median(lap.tokens / lap.seconds for lap in many),
        batch_size=size,
        latency_ratio=_ratio(ones, alone[first]),
        throughput_ratio=_ratio(many, together[first]),
    )


def _ratio(ours: Sequence[Lap], other: Sequence[Lap]) -> Ratio:
    return ratio_of([lap.seconds for lap in ours], [lap.seconds for lap in other])


def _wait(writer: Writer) -> None:
    if writer.model.device.type == "cuda":
        torch.cuda.synchronize(writer.model.device)
