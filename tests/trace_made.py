"""Traces made in code, by which pictures are tested without a model."""

from offramp.trace.record import Trace
from offramp.trace.values import (
    Candidate,
    Changed,
    GateSaid,
    Plausible,
    Position,
    Said,
    Token,
    TracedExit,
)

EXITS = (1, 3, "original")


def token(text, id=7):
    return Token(id=id, text=text)


def said(exit, text, *, probability=0.5, agrees=True, divergence=0.5, leaves=None):
    gate = None
    if leaves is not None:
        gate = GateSaid(confidence=0.7, threshold=0.6, leaves=leaves)
    return Said(
        exit=exit,
        top=(Candidate(token=token(text), probability=probability),),
        entropy=1.5,
        divergence=0.0 if exit == "original" else divergence,
        agrees=agrees or exit == "original",
        target=0.25,
        gate=gate,
    )


def position(index, words=("a", "b", "c"), *, token_text="t", left=None, rule=None, **options):
    parts = zip(EXITS, words, strict=True)
    changed = None
    if rule is not None:
        best = [Candidate(token=token(each, id), probability=0.5) for id, each in enumerate(rule)]
        changed = Changed(
            before=best[0],
            after=best[1],
            changed=rule[0] != rule[1],
            divergence=None,
            target=0.1,
            plausible=(Plausible(token=token(rule[1]), before=0.2, after=0.5),),
            num_plausible=30,
        )
    return Position(
        index=index,
        token=token(token_text),
        target=token("next"),
        said=tuple(said(exit, word, **options) for exit, word in parts),
        changed=changed,
        left=left,
    )


def trace_of(*positions, kind="text", **more):
    values = {
        "model": "tiny",
        "decoding": None,
        "length": 100,
        "source": (),
        "text": None,
        "exits": tuple(TracedExit(exit=each, projection="lens") for each in EXITS),
    }
    return Trace(kind=kind, depth=4, positions=positions, **{**values, **more})
