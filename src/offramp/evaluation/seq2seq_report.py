"""What was measured about models that write texts for sources, side by side.

In:  what each wrote, with scores and times. Out: values with the names that a user sees, and JSON.
Law: every system is compared with the first one over the same rows
     (tests/evaluation/test_seq2seq_report.py).
Not here: measuring (offramp.evaluation.text_metrics, .pace, .one_pass), tables (offramp.cli).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from offramp.evaluation.one_pass import OnePass, one_pass_of
from offramp.evaluation.pace import Pace
from offramp.evaluation.resampling import Difference, Score, described
from offramp.evaluation.seq2seq import Writer, Written
from offramp.evaluation.text_metrics import TextSettings, measure_texts


@dataclass(frozen=True, kw_only=True)
class System:
    """One model's texts, measured.

    Attributes:
        name: Of the model.
        decoding: How it wrote.
        parameters: Weights of the model, shared ones counted once.
        scores: With intervals.
        against_first: How they differ from the first system's; None for the first.
        unfinished: Share of the texts that were cut off before their end.
        one_pass: Exits and canvases; None where texts were written token by token.
        pace: How fast it is; None if it was not timed.
    """

    name: str
    decoding: str
    parameters: int
    scores: tuple[Score, ...]
    against_first: tuple[Difference, ...] | None
    unfinished: float
    one_pass: OnePass | None
    pace: Pace | None

    def as_json(self) -> dict[str, Any]:
        """Give plain values; what a score is stands in the report, once."""
        against = self.against_first
        return {
            "model": self.name,
            "decoding": self.decoding,
            "parameters": self.parameters,
            "scores": {each.name: numbers_of(each) for each in self.scores},
            "against_first": None if against is None else {x.name: numbers_of(x) for x in against},
            "unfinished": self.unfinished,
            "one_pass": None if self.one_pass is None else asdict(self.one_pass),
            "speed": None if self.pace is None else asdict(self.pace),
        }


@dataclass(frozen=True, kw_only=True)
class Seq2SeqReport:
    """Systems side by side.

    Attributes:
        rows: Pairs.
        samples: Draws that the intervals come from; 0 if there are none.
        seed: Of the draws.
        systems: In the order in which they were named.
    """

    rows: int
    samples: int
    seed: int
    systems: tuple[System, ...]

    def as_json(self) -> dict[str, Any]:
        """Give plain values: points from 0 to 100, shares from 0 to 1."""
        return {
            "rows": self.rows,
            "intervals": {"confidence": 0.95, "samples": self.samples, "seed": self.seed},
            "scores": {each.name: meaning_of(each) for each in self.systems[0].scores},
            "models": [each.as_json() for each in self.systems],
        }


def report_of(
    writers: Mapping[str, Writer],
    written: Mapping[str, Sequence[Written]],
    references: Sequence[Sequence[str]],
    *,
    settings: TextSettings,
    paces: Mapping[str, Pace] | None = None,
) -> Seq2SeqReport:
    """Score what some models wrote, and compare each with the first.

    Args:
        writers: The models, by name.
        written: Their texts, by the same names.
        references: Of each row.
        settings: Which scores.
        paces: How fast they are, if they were timed.
    """
    measured = {
        name: measure_texts([each.text for each in texts], references, settings)
        for name, texts in written.items()
    }
    first = next(iter(writers))
    systems = [
        System(
            name=name,
            decoding=writer.decoding(),
            parameters=sum(each.numel() for each in writer.model.parameters()),
            scores=measured[name].scores(),
            against_first=None if name == first else measured[name].against(measured[first]),
            unfinished=sum(not each.finished for each in written[name]) / len(references),
            one_pass=one_pass_of(written[name], depth=writer.depth),
            pace=None if paces is None else paces[name],
        )
        for name, writer in writers.items()
    ]
    return Seq2SeqReport(
        rows=len(references), samples=settings.samples, seed=settings.seed, systems=tuple(systems)
    )


def numbers_of(found: Score | Difference) -> dict[str, float | None]:
    """Give a score's or a difference's numbers as plain values."""
    numbers = {"value": found.value, "low": found.low, "high": found.high}
    return numbers | ({"p_value": found.p_value} if isinstance(found, Difference) else {})


def meaning_of(score: Score) -> dict[str, str]:
    """Give what a score is as plain values, but its name."""
    return {name: value for name, value in described(score).items() if name != "name"}
