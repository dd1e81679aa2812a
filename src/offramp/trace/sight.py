"""Work out what every picture of a trace shows: how bright a cell is, where an answer settled.

In:  what exits said. Out: numbers from 0 to 1, and exits. Pure.
Law: brighter is surer, or nearer to the last layer; the last layer's own answer has settled
     (tests/trace/test_sight.py).
"""

from collections.abc import Sequence
from typing import Literal

from offramp.errors import ConfigError
from offramp.trace.values import Position, Said, Traced

Measure = Literal["probability", "entropy", "divergence", "agreement"]
MEASURES: tuple[Measure, ...] = ("probability", "entropy", "divergence", "agreement")
MEANINGS = {
    "probability": "how likely an exit finds its best token",
    "entropy": "how undecided an exit is, in nats",
    "divergence": "how far it is from the last layer (KL), in nats",
    "agreement": "whether its best token is the last layer's",
}


def check_measure(measure: str) -> Measure:
    """Give a measure, if there is one of that name.

    Raises:
        ConfigError: There is none.
    """
    for each in MEASURES:
        if each == measure:
            return each
    raise ConfigError(f"no measure {measure!r}; use one of {', '.join(MEASURES)}")


def value_of(said: Said, measure: Measure) -> float:
    """Give a measure of what an exit said; a divergence that is infinite is that."""
    if measure == "probability":
        return said.top[0].probability
    if measure == "agreement":
        return float(said.agrees)
    if measure == "entropy":
        return said.entropy
    return float("inf") if said.divergence is None else said.divergence


def largest(traced: Traced, measure: Measure) -> float:
    """Give the largest finite value of a measure in a trace, 1 for shares."""
    if measure in ("probability", "agreement"):
        return 1.0
    values = [value_of(said, measure) for each in traced.positions for said in each.said]
    return max((value for value in values if value != float("inf")), default=0.0) or 1.0


def brightness(said: Said, measure: Measure, most: float) -> float:
    """Give how bright a cell is, 0 to 1.

    Args:
        said: What it shows.
        measure: By what.
        most: From ``largest``.
    """
    share = min(value_of(said, measure) / most, 1.0)
    return share if measure in ("probability", "agreement") else 1.0 - share


def settled(position: Position) -> int:
    """Give the number of the first exit from which on all agree with the last layer."""
    place = len(position.said) - 1
    while place and position.said[place - 1].agrees:
        place -= 1
    return place


def left_at(position: Position) -> int | None:
    """Give the number of the exit at which a place left, or at which the gates would let it.

    Returns:
        Of a canvas the first exit from the one it left at on; of a text the first whose gate says
        so; None if it went through all layers, or if there is no gate to ask.
    """
    for place, said in enumerate(position.said[:-1]):
        if position.left is not None:
            if isinstance(said.exit, int) and said.exit >= position.left:
                return place
        elif said.gate is not None and said.gate.leaves:
            return place
    return None


def agreement(traced: Traced, place: int) -> float:
    """Give the share of positions at which an exit agrees with the last layer."""
    return _mean([float(position.said[place].agrees) for position in traced.positions])


def mean_divergence(traced: Traced, place: int) -> float:
    """Give an exit's mean divergence from the last layer, in nats."""
    return _mean([value_of(position.said[place], "divergence") for position in traced.positions])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
