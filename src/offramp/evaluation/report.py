"""What was measured about exits and ways to decode, as values with the names that a user sees.

In:  sums over tokens. Out: a ``Report``, and the same as JSON. Pure: no model.
Law: shares of oracle depth add up to one, the last layer agrees with itself on every token
     (tests/evaluation/test_exits.py).
Not here: summing (offramp.evaluation.tally), tables (offramp.cli) and pictures
     (offramp.evaluation.picture).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from offramp.config import ORIGINAL, ExitName
from offramp.evaluation.tally import CalibrationError, RowMeans

NUMBERS = (
    "loss",
    "correct",
    "agrees",
    "agrees_top",
    "divergence",
    "confidence",
    "stops",
    "stops_rightly",
)
"""What is summed of each token and exit: see ``Judged``; and whether the exit's gate says stop."""

RULE_NUMBERS = ("loss", "impossible")
"""What is summed of each token and way to decode; an impossible token adds no loss."""


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """How well an exit's gate, at its threshold, tells where the exit gives the final answer.

    Attributes:
        threshold: It says stop at this confidence or above.
        precision: Share of the tokens at which it says stop that have the final answer; None if it
            never says so.
        recall: Share of the tokens with the final answer at which it says stop; None if there are
            none.
        stops: Share of all tokens at which it says stop.
    """

    threshold: float
    precision: float | None
    recall: float | None
    stops: float


@dataclass(frozen=True, kw_only=True)
class ExitReport:
    """What one exit says about the text and the last layer; shares are from 0 to 1.

    Attributes:
        exit: Its number, or ``"original"`` for the base's own head on the last layer.
        projection: How it reads its state; None for ``"original"``.
        cross_entropy: Nats per token of the text.
        cross_entropy_margin: Half its 95 % interval, over rows; None for fewer than two rows.
        perplexity: exp of the cross-entropy.
        accuracy: Share of tokens at which its best token is the next token of the text.
        agreement: Share at which its best token is the last layer's best token.
        agreement_margin: Half its 95 % interval, over rows; None for fewer than two rows.
        agreement_top5: Share at which the last layer's best token is among the exit's five best.
        divergence: KL(last || exit), nats per token.
        calibration_error: Expected calibration error of its best token's probability against being
            the next token of the text; 15 bins of equal width.
        oracle_share: Share of tokens of which it is the oracle depth: the first of the exits in
            this report from which on all give the final answer.
        oracle_cumulative: The same for it and all exits below it.
        gate: How well its gate does; None without one.
    """

    exit: ExitName
    projection: str | None
    cross_entropy: float
    cross_entropy_margin: float | None
    perplexity: float
    accuracy: float
    agreement: float
    agreement_margin: float | None
    agreement_top5: float
    divergence: float
    calibration_error: float
    oracle_share: float
    oracle_cumulative: float
    gate: GateReport | None


@dataclass(frozen=True, kw_only=True)
class RuleReport:
    """What one way to decode says about the text.

    Attributes:
        decoding: Its name.
        cross_entropy: Nats per token; infinite if it calls a token of the text impossible.
        cross_entropy_margin: Half its 95 % interval; None where that has no meaning.
        perplexity: exp of the cross-entropy.
        impossible: Share of the text's tokens that it gives the probability 0, as DoLa does.
        cross_entropy_possible: Nats per token over all others; None if there are none.
    """

    decoding: str
    cross_entropy: float
    cross_entropy_margin: float | None
    perplexity: float
    impossible: float
    cross_entropy_possible: float | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that was measured on one text.

    Attributes:
        tokens: How many were predicted.
        rows: How many rows (texts, or blocks of a text) they came from.
        depth: Number of blocks, L.
        mean_oracle_depth: In blocks, over tokens; see ``ExitReport.oracle_share``.
        exits: Shallowest first, the base's own head last.
        rules: Ways to decode that were asked for.
    """

    tokens: int
    rows: int
    depth: int
    mean_oracle_depth: float
    exits: tuple[ExitReport, ...]
    rules: tuple[RuleReport, ...]

    def as_json(self) -> dict[str, Any]:
        """Give nested dicts and lists; a number that JSON cannot write is None."""
        found: dict[str, Any] = _finite(asdict(self))
        return found


class Named(NamedTuple):
    """An exit that was measured; ``threshold`` is that of its gate, if it has one."""

    exit: ExitName
    projection: str | None
    threshold: float | None


@dataclass(kw_only=True)
class Sums:
    """What was counted: E exits and R ways to decode.

    Attributes:
        means: Of ``NUMBERS``, [E, 8].
        rule_means: Of ``RULE_NUMBERS``, [R, 2].
        calibration: Of the E exits.
        oracle: Tokens by the place of their oracle depth among the exits.
    """

    means: RowMeans
    rule_means: RowMeans
    calibration: CalibrationError
    oracle: Int[Tensor, " exits"]

    @classmethod
    def none(cls, exits: int) -> "Sums":
        """Begin with no token."""
        return cls(
            means=RowMeans(),
            rule_means=RowMeans(),
            calibration=CalibrationError(exits),
            oracle=torch.zeros(exits, dtype=torch.long),
        )

    def merge(self, other: "Sums") -> None:
        """Take in what was counted elsewhere, of other rows."""
        self.means.merge(other.means)
        self.rule_means.merge(other.rule_means)
        self.calibration.merge(other.calibration)
        self.oracle += other.oracle


def report_of(sums: Sums, *, exits: Sequence[Named], rules: Sequence[str], depth: int) -> Report:
    """Turn sums over at least one token into what is reported.

    Args:
        sums: Of all tokens.
        exits: What the exits are, shallowest first.
        rules: Names of the ways to decode.
        depth: Number of blocks, L.
    """
    shares = sums.oracle.double() / sums.means.tokens
    depths = torch.tensor([depth if each.exit == ORIGINAL else each.exit for each in exits])
    return Report(
        tokens=sums.means.tokens,
        rows=sums.means.rows,
        depth=depth,
        mean_oracle_depth=float((shares * depths).sum()),
        exits=tuple(_exit_report(sums, place, named) for place, named in enumerate(exits)),
        rules=tuple(_rule_report(sums, place, name) for place, name in enumerate(rules)),
    )


def _exit_report(sums: Sums, place: int, named: Named) -> ExitReport:
    mean = dict(zip(NUMBERS, sums.means.mean[place].tolist(), strict=True))
    margin = dict(zip(NUMBERS, sums.means.half_width[place].tolist(), strict=True))
    oracle = sums.oracle.tolist()
    return ExitReport(
        exit=named.exit,
        projection=named.projection,
        cross_entropy=mean["loss"],
        cross_entropy_margin=_known(margin["loss"]),
        perplexity=_perplexity(mean["loss"]),
        accuracy=mean["correct"],
        agreement=mean["agrees"],
        agreement_margin=_known(margin["agrees"]),
        agreement_top5=mean["agrees_top"],
        divergence=mean["divergence"],
        calibration_error=float(sums.calibration.error[place]),
        oracle_share=oracle[place] / sums.means.tokens,
        oracle_cumulative=sum(oracle[: place + 1]) / sums.means.tokens,
        gate=None if named.threshold is None else _gate_report(mean, named.threshold),
    )


def _gate_report(mean: Mapping[str, float], threshold: float) -> GateReport:
    stops, agrees, rightly = mean["stops"], mean["agrees"], mean["stops_rightly"]
    return GateReport(
        threshold=threshold,
        precision=rightly / stops if stops else None,
        recall=rightly / agrees if agrees else None,
        stops=stops,
    )


def _rule_report(sums: Sums, place: int, name: str) -> RuleReport:
    loss, impossible = sums.rule_means.mean[place].tolist()
    margin = float(sums.rule_means.half_width[place, 0])
    entropy = math.inf if impossible else loss
    return RuleReport(
        decoding=name,
        cross_entropy=entropy,
        cross_entropy_margin=None if impossible else _known(margin),
        perplexity=_perplexity(entropy),
        impossible=impossible,
        cross_entropy_possible=loss / (1 - impossible) if impossible < 1 else None,
    )


def _perplexity(cross_entropy: float) -> float:
    loss: Float[Tensor, ""] = torch.tensor(cross_entropy, dtype=torch.float64)
    return float(loss.exp())  # math.exp raises where this is infinite


def _known(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return _known(value) if isinstance(value, float) else value
