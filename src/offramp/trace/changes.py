"""Say what a decoding rule made of what the exits said.

In:  the exits' view of some positions, and a rule. Out: its best token, and what it changed.
Law: the tokens that a contrast may choose are those of ``plausible_set``; outside them nothing
     changes (tests/trace/test_changes.py).
Not here: the rules (offramp.decoding.rules).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from offramp.config import ORIGINAL, ExitName
from offramp.decoding.protocol import DecodingRule, ExitView, ModelShape
from offramp.decoding.rules import Contrast, DoLa, FixedExit
from offramp.errors import ConfigError
from offramp.logits.contrast import plausible_set
from offramp.trace.asked import Words
from offramp.trace.measures import Scored, target_probabilities
from offramp.trace.values import Candidate, Changed, Plausible, finite, rounded

MOST_PLAUSIBLE = 20
"""Plausible tokens that are listed at one position; how many there are is always told."""


def traced_rule(rule: object) -> DecodingRule:
    """Give a rule that turns exits into scores, and refuse what is none.

    Raises:
        ConfigError: It is a loop, or no decoding at all.
    """
    if not isinstance(rule, DecodingRule):
        raise ConfigError(
            f"a trace shows what Contrast, DoLa or FixedExit make of the exits, got "
            f"{type(rule).__name__}; leave decoding out to see exits and gates"
        )
    return rule


def rule_name(rule: DecodingRule) -> str:
    """Name a rule as the command line does.

    Example:
        >>> rule_name(Contrast(lower=12))
        'contrast original:12 alpha 0.1'
    """
    if isinstance(rule, Contrast):
        return f"contrast {rule.upper}:{rule.lower} alpha {rule.alpha}"
    if isinstance(rule, FixedExit):
        return f"exit {rule.exit}"
    if isinstance(rule, DoLa):
        layers = rule.layers
        named = ",".join(map(str, layers)) if isinstance(layers, tuple) else layers
        return f"dola {named}"
    return type(rule).__name__


def changes(
    view: ExitView,
    last: Scored,
    asked: tuple[DecodingRule, ModelShape],
    told: tuple[Sequence[int | None], Words],
) -> list[Changed]:
    """Say for each position what the rule makes of it.

    Args:
        view: The exits, at these positions.
        last: What the last layer says.
        asked: The rule, and the model as far as a rule may know it.
        told: Each position's target, and what reads tokens.

    Raises:
        ConfigError: The rule gives NaN.
    """
    rule, shape = asked
    begin = _begin(rule)
    before = last
    if begin != ORIGINAL:
        before = Scored.of(view.logits(begin), top=1, what=f"exit {begin}")
    after = Scored.of(rule.scores(view, shape), top=1, what=rule_name(rule))
    chosen = _plausible(rule, before, after)
    return _values(before, after, chosen, told)


def _begin(rule: DecodingRule) -> ExitName:
    """Give the exit whose answer a rule changes."""
    return rule.upper if isinstance(rule, Contrast) else ORIGINAL


def _plausible(
    rule: DecodingRule, before: Scored, after: Scored
) -> Bool[Tensor, "places vocab"] | None:
    """Mark the tokens that a rule may choose, if it has a set of these."""
    if isinstance(rule, Contrast) and rule.function is None:
        least = rule.minimum_candidates
        return plausible_set(before.log_p, alpha=rule.alpha, minimum_candidates=least)
    return after.log_p > -torch.inf if isinstance(rule, DoLa) else None


def _values(
    before: Scored,
    after: Scored,
    chosen: Bool[Tensor, "places vocab"] | None,
    told: tuple[Sequence[int | None], Words],
) -> list[Changed]:
    targets, words = told
    first = [_candidates(each, words) for each in (before, after)]
    divergences, wanted = before.divergences(after), target_probabilities(after, targets)
    listed: list[tuple[Plausible, ...] | None] = [None] * len(targets)
    counts: list[int | None] = [None] * len(targets)
    if chosen is not None:
        listed[:], counts[:] = _listed(before, after, chosen, words)
    return [
        Changed(
            before=first[0][row],
            after=first[1][row],
            changed=first[0][row].token.id != first[1][row].token.id,
            divergence=finite(divergences[row]),
            target=wanted[row],
            plausible=listed[row],
            num_plausible=counts[row],
        )
        for row in range(len(targets))
    ]


def _listed(
    before: Scored, after: Scored, chosen: Bool[Tensor, "places vocab"], words: Words
) -> tuple[list[tuple[Plausible, ...]], list[int]]:
    order, counts = after.among(chosen, MOST_PLAUSIBLE)
    table = zip(
        order.tolist(), before.probabilities(order), after.probabilities(order), counts, strict=True
    )
    rows = [
        tuple(
            Plausible(token=words.token(token), before=rounded(old), after=rounded(new))
            for token, old, new in list(zip(tokens, olds, news, strict=True))[:count]
        )
        for tokens, olds, news, count in table
    ]
    return rows, counts


def _candidates(scored: Scored, words: Words) -> list[Candidate]:
    best = scored.best[:, :1]
    return [
        Candidate(token=words.token(token), probability=rounded(share))
        for (token,), (share,) in zip(best.tolist(), scored.probabilities(best), strict=True)
    ]
