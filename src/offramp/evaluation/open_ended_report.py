"""What was measured about ways to go on with a text, side by side.

In:  beginnings, the texts of each way, embeddings. Out: values with the names that a user sees, and
     JSON.
Law: every decoding is compared with the first one that takes tokens in the same manner, over the
     same rows; the order of the rows changes nothing (tests/evaluation/test_open_ended_report.py).
Not here: writing (offramp.evaluation.open_ended), scores (offramp.evaluation.open_ended_scores).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float64
from torch import Tensor

from offramp.evaluation.open_ended import Opening
from offramp.evaluation.open_ended_scores import Vectors, open_ended_measures
from offramp.evaluation.resampling import (
    Difference,
    Draws,
    Measure,
    Score,
    differences_of,
    scores_of,
)
from offramp.evaluation.seq2seq import Written
from offramp.evaluation.seq2seq_report import meaning_of, numbers_of

Embed = Callable[[Sequence[str]], Float64[Tensor, "texts width"]]


@dataclass(frozen=True, kw_only=True)
class Way:
    """The texts of one way to go on.

    Attributes:
        strategy: How tokens were taken.
        decoding: What scored them.
        texts: One for each beginning.
    """

    strategy: str
    decoding: str
    texts: tuple[Written, ...]


@dataclass(frozen=True, kw_only=True)
class WayReport:
    """One way, measured.

    Attributes:
        strategy: How tokens were taken.
        decoding: What scored them.
        scores: With intervals.
        against_first: How they differ from the first decoding's with the same strategy; None for
            that one.
        ended: Share of the texts that ended by themselves.
    """

    strategy: str
    decoding: str
    scores: tuple[Score, ...]
    against_first: tuple[Difference, ...] | None
    ended: float

    def as_json(self) -> dict[str, Any]:
        """Give plain values; what a score is stands in the report, once."""
        against = self.against_first
        return {
            "strategy": self.strategy,
            "decoding": self.decoding,
            "scores": {each.name: numbers_of(each) for each in self.scores},
            "against_first": None if against is None else {x.name: numbers_of(x) for x in against},
            "ended": self.ended,
        }


@dataclass(frozen=True, kw_only=True)
class OpenEndedReport:
    """Ways side by side.

    Attributes:
        rows: Beginnings.
        samples: Draws that the intervals come from; 0 if there are none.
        seed: Of the draws.
        people: Scores of what the authors wrote.
        ways: In the order in which they were asked for.
    """

    rows: int
    samples: int
    seed: int
    people: tuple[Score, ...]
    ways: tuple[WayReport, ...]

    @property
    def strategies(self) -> tuple[str, ...]:
        """How tokens were taken, each once."""
        return tuple(dict.fromkeys(each.strategy for each in self.ways))

    @property
    def decodings(self) -> tuple[str, ...]:
        """What scored them, each once."""
        return tuple(dict.fromkeys(each.decoding for each in self.ways))

    def as_json(self) -> dict[str, Any]:
        """Give plain values: shares from 0 to 1."""
        return {
            "rows": self.rows,
            "intervals": {"confidence": 0.95, "samples": self.samples, "seed": self.seed},
            "scores": {each.name: meaning_of(each) for each in self.ways[0].scores},
            "people": {each.name: numbers_of(each) for each in self.people},
            "ways": [each.as_json() for each in self.ways],
        }


def report_of(
    openings: Sequence[Opening],
    ways: Sequence[Way],
    *,
    embed: Embed | None,
    embedding_model: str = "",
    draws: Draws | None = None,
) -> OpenEndedReport:
    """Score what was written, and compare decodings.

    Args:
        openings: The beginnings.
        ways: Their texts, at least one way.
        embed: Makes sentence embeddings; None leaves coherence and MAUVE out.
        embedding_model: Its name.
        draws: How sure scores shall be known.
    """
    draws = draws or Draws()
    order = sorted(range(len(openings)), key=lambda row: _key(openings[row]))
    prompts = [openings[row].prompt for row in order]
    references = [openings[row].reference for row in order]
    texts = [[each.texts[row].text for row in order] for each in ways]
    vectors = None
    if embed is not None:
        vectors = Vectors(
            model=embedding_model,
            prompts=embed(prompts),
            people=embed(references),
            ways=tuple(embed(each) for each in texts),
        )
    measured, people = open_ended_measures(texts, references, vectors)
    return OpenEndedReport(
        rows=len(openings),
        samples=draws.samples,
        seed=draws.seed,
        people=scores_of(people, draws),
        ways=tuple(_compared(ways, measured, draws)),
    )


def _compared(
    ways: Sequence[Way], measured: Sequence[Sequence[Measure]], draws: Draws
) -> Iterator[WayReport]:
    """Score each way, and compare it with the first one of its strategy."""
    firsts: dict[str, Sequence[Measure]] = {}
    for way, measures in zip(ways, measured, strict=True):
        first = firsts.setdefault(way.strategy, measures)
        yield WayReport(
            strategy=way.strategy,
            decoding=way.decoding,
            scores=scores_of(measures, draws),
            against_first=None if first is measures else differences_of(measures, first, draws),
            ended=sum(each.finished for each in way.texts) / len(way.texts),
        )


def _key(opening: Opening) -> tuple[str, str]:
    """Name a row by what it holds, so that draws do not depend on where it stands."""
    return opening.prompt, opening.reference
