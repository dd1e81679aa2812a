"""Hold what every layer said about a text, as plain values.

In:  numbers and words, from offramp.trace.reading. Out: the same, frozen; and from JSON and back
     (offramp.trace.plain). Pure: no model, no tensor.
Law: whatever is held can be written as JSON and read back equal (tests/trace/test_plain.py).
Not here: how it is shown (offramp.trace.table, .page, .figures).

Probabilities are from 0 to 1, entropies and divergences in nats; all have six significant digits.
"""

import math
from dataclasses import dataclass
from typing import Literal

from offramp.config import ExitName

DIGITS = 6
"""Significant digits of every number: what a float32 holds, and a file need not hold more."""


def rounded(value: float) -> float:
    """Give a number with as many digits as a trace keeps.

    Example:
        >>> rounded(0.123456789)
        0.123457
    """
    return float(f"{value:.{DIGITS}g}")


def finite(value: float) -> float | None:
    """Give a number with as many digits as a trace keeps, or None for infinity.

    Example:
        >>> finite(math.inf), finite(2.0)
        (None, 2.0)
    """
    return rounded(value) if math.isfinite(value) else None


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token.

    Attributes:
        id: Its number.
        text: What it reads; None where no tokenizer was given.
    """

    id: int
    text: str | None


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A token that an exit holds possible.

    Attributes:
        token: Which.
        probability: How likely the exit finds it.
    """

    token: Token
    probability: float


@dataclass(frozen=True, kw_only=True)
class GateSaid:
    """What an exit's gate says.

    Attributes:
        confidence: That the exit's answer is the last layer's.
        threshold: Above it the token would leave: the calibrated one where there is one.
        leaves: Whether it would.
    """

    confidence: float
    threshold: float
    leaves: bool


@dataclass(frozen=True, kw_only=True)
class Said:
    """What one exit says at one position.

    Attributes:
        exit: Which.
        top: Its best tokens, the best first.
        entropy: Of its distribution.
        divergence: KL(last || exit), of what the last layer says from what this exit says; None is
            infinite.
        agrees: Whether its best token is the last layer's.
        target: How likely it finds the position's target; None where there is no target.
        gate: What its gate says; None without one.
    """

    exit: ExitName
    top: tuple[Candidate, ...]
    entropy: float
    divergence: float | None
    agrees: bool
    target: float | None
    gate: GateSaid | None


@dataclass(frozen=True, kw_only=True)
class Plausible:
    """A token that a contrast may choose.

    Attributes:
        token: Which.
        before: Its probability without the contrast.
        after: Its probability with it.
    """

    token: Token
    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class Changed:
    """What a decoding rule made of what the exits said at one position.

    Attributes:
        before: The best token of the exit that the rule begins with.
        after: The best token under the rule, with its probability there.
        changed: Whether they differ.
        divergence: KL(after || before); None is infinite.
        target: How likely the rule finds the position's target; None where there is none.
        plausible: The tokens that may be chosen, the best under the rule first, as many as were
            asked for; None for a rule without such a set.
        num_plausible: How many there are in all; None for a rule without such a set.
    """

    before: Candidate
    after: Candidate
    changed: bool
    divergence: float | None
    target: float | None
    plausible: tuple[Plausible, ...] | None
    num_plausible: int | None


@dataclass(frozen=True, kw_only=True)
class Position:
    """What all exits say at one position.

    Attributes:
        index: Its place in the whole text or on the canvas, from 0.
        token: What stands there: the token of the text, or what was put on the canvas.
        target: The next token of the text, or the token that a text took from this place of a
            canvas; None at the end of a text and where no token was taken.
        said: What each exit says, in the order of ``Traced.exits``.
        changed: What the decoding rule made of it; None without a rule.
        left: The exit at which the position left the layers of a canvas; what exits above it say
            is the same. None for a text.
    """

    index: int
    token: Token
    target: Token | None
    said: tuple[Said, ...]
    changed: Changed | None
    left: int | None


@dataclass(frozen=True, kw_only=True)
class TracedExit:
    """An exit that was asked.

    Attributes:
        exit: Its number, or ``"original"`` for the base's own head on the last layer.
        projection: How it reads its state; None where that is the model's own head.
    """

    exit: ExitName
    projection: str | None


@dataclass(frozen=True, kw_only=True)
class Traced:
    """What the exits of a model say at the positions of a text or a canvas.

    Attributes:
        kind: ``"text"``: each position tells the next token; ``"canvas"``: each tells its own.
        model: Name of the model, if it has one.
        depth: Number of blocks, L.
        exits: Those that were asked, shallowest first; the last is the last layer.
        decoding: Name of the decoding rule, or of what let positions leave; None without one.
        length: Positions of the whole text or canvas, of which ``positions`` may be a window.
        positions: What was traced, in order.
        source: What an encoder read; empty for a decoder.
        text: What was read off the canvas; None for a text, and without a tokenizer.
    """

    kind: Literal["text", "canvas"]
    model: str | None
    depth: int
    exits: tuple[TracedExit, ...]
    decoding: str | None
    length: int
    positions: tuple[Position, ...]
    source: tuple[Token, ...]
    text: str | None
