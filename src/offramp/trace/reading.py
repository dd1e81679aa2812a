"""Ask every exit about every position, a few positions at a time.

In:  a text that has been through the model. Out: what each exit says, as values.
Law: the last layer's divergence from itself is 0 and it agrees; the best tokens are those of
     ``exit_logits``; positions, chunks and windows change nothing; no [positions, exits, V] is
     held (tests/trace/test_reading.py).
Not here: running the model (offramp.models.tracing), what a rule changes (offramp.trace.changes).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from offramp.blocks.gates import Gate
from offramp.config import ORIGINAL, ExitName
from offramp.decoding.protocol import DecodingRule, ExitView, ModelShape
from offramp.trace.asked import Words
from offramp.trace.changes import changes
from offramp.trace.measures import Scored, target_probabilities
from offramp.trace.values import Candidate, GateSaid, Position, Said, finite, rounded

CHUNK = 32
"""Positions at a time: 6 MB of float32 scores for a vocabulary of 50,000, of which about six
tables exist at once."""


class Gated(NamedTuple):
    """What a gate says of N states.

    Attributes:
        confidence: That the exit's answer is the last layer's.
        threshold: At which they would leave.
        leaves: Whether they would.
    """

    confidence: Float[Tensor, " places"]
    threshold: float
    leaves: Tensor

    @classmethod
    def by(
        cls, gate: Gate, states: Float[Tensor, "places width"], threshold: float | None
    ) -> "Gated":
        """Ask a gate; a threshold of None is its own."""
        confidence = gate.confidence(states)
        shown = float(gate.threshold) if threshold is None else threshold
        return cls(confidence, shown, gate.leaves(confidence, threshold))


@runtime_checkable
class SeenText(Protocol):
    """A text that has been through the model, ready to be asked about."""

    def view(self, places: Int[Tensor, " some"]) -> ExitView:
        """Let the exits speak about some positions, [N, V] each."""

    def gate(self, exit: ExitName, places: Int[Tensor, " some"]) -> Gated | None:
        """Ask an exit's gate; None where it has none."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of a text.

    Attributes:
        exits: Which, shallowest first; the last is the last layer.
        places: Positions, ascending.
        tokens: What stands at each position of the whole text.
        targets: Each position's target, None where there is none.
        left: Where each position left the layers; None for a text.
        top: How many of the best tokens are kept.
        rule: What the exits are made into, and the model as far as a rule may know it; None is
            nothing.
        words: Reads tokens.
        chunk: Positions at a time; it changes memory and time, not the numbers.
    """

    exits: Sequence[ExitName]
    places: Sequence[int]
    tokens: Sequence[int]
    targets: Sequence[int | None]
    left: Sequence[int] | None = None
    top: int
    rule: tuple[DecodingRule, ModelShape] | None
    words: Words
    chunk: int = CHUNK


def positions_of(seen: SeenText, asked: Asked) -> tuple[Position, ...]:
    """Ask the exits about all positions that were asked for.

    Args:
        seen: The text; it numbers the positions that were asked for from 0.
        asked: What is asked.

    Raises:
        ConfigError: An exit gives NaN.
    """
    found: list[Position] = []
    for start in range(0, len(asked.places), asked.chunk):
        found += _chunk(seen, asked, range(start, min(start + asked.chunk, len(asked.places))))
    return tuple(found)


def _chunk(seen: SeenText, asked: Asked, numbers: range) -> Iterator[Position]:
    """Ask about a few positions; the scores of one exit and of the last layer exist at a time."""
    places = torch.arange(numbers.start, numbers.stop)
    view, at = seen.view(places), asked.places[numbers.start : numbers.stop]
    targets = [asked.targets[place] for place in at]
    last = Scored.of(view.logits(ORIGINAL), top=asked.top, what="the model")
    said = []
    for exit in asked.exits:
        scored = last
        if exit != ORIGINAL:
            scored = Scored.of(view.logits(exit), top=asked.top, what=f"exit {exit}")
        said.append(_said(exit, scored, last, seen.gate(exit, places), (targets, asked.words)))
    changed = None
    if asked.rule is not None:
        changed = changes(view, last, asked.rule, (targets, asked.words))
    for number, place in enumerate(at):
        target = targets[number]
        yield Position(
            index=place,
            token=asked.words.token(asked.tokens[place]),
            target=None if target is None else asked.words.token(target),
            said=tuple(each[number] for each in said),
            changed=None if changed is None else changed[number],
            left=None if asked.left is None else asked.left[place],
        )


def _said(
    exit: ExitName,
    scored: Scored,
    last: Scored,
    gated: Gated | None,
    told: tuple[Sequence[int | None], Words],
) -> list[Said]:
    """Put into values what one exit says at some positions."""
    targets, words = told
    best, shares = scored.best.tolist(), scored.probabilities(scored.best)
    entropies, divergences = scored.entropies(), scored.divergences(last)
    agrees = (scored.best[:, 0] == last.best[:, 0]).tolist()
    wanted = target_probabilities(scored, targets)
    gates = _gates(gated, len(best))
    return [
        Said(
            exit=exit,
            top=tuple(
                Candidate(token=words.token(token), probability=rounded(share))
                for token, share in zip(best[row], shares[row], strict=True)
            ),
            entropy=rounded(entropies[row]),
            divergence=finite(divergences[row]),
            agrees=agrees[row],
            target=wanted[row],
            gate=gates[row],
        )
        for row in range(len(best))
    ]


def _gates(gated: Gated | None, count: int) -> list[GateSaid | None]:
    """Put into values what a gate says."""
    if gated is None:
        return [None] * count
    threshold = rounded(gated.threshold)
    return [
        GateSaid(confidence=rounded(confidence), threshold=threshold, leaves=leaves)
        for confidence, leaves in zip(gated.confidence.tolist(), gated.leaves.tolist(), strict=True)
    ]
