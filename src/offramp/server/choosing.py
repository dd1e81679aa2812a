"""Choose which exits answer, from what a request says.

In:  fields of a request and a model. Out: a decoding rule or loop, or None for the model's head.
Law: a field that would change nothing is refused (tests/server/test_choosing.py).
Not here: whether the model can follow (offramp.server.batching, before it takes a text).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from offramp.decoding import Contrast, DoLa, EarlyExit, FixedExit, SelfSpeculation
from offramp.decoding.judge import RULES
from offramp.decoding.protocol import DecodingLoop, DecodingRule
from offramp.errors import ConfigError, OfframpError
from offramp.server.hosted import CausalHost
from offramp.server.schemas import ContrastChoice, ExitFields, OfframpFields

CONTRAST = ("contrast", "upper", "lower", "alpha")
MEANT = {
    "early_exit": ("rule", "threshold", "min_exit"),
    "speculation": ("draft_exit", "draft_length", "lookup"),
    "dola": ("layers",),
    "contrast": CONTRAST,
    "exit": ("exit",),
}
"""Which decoding a field means where none is named; the first that fits."""
READ = {
    **MEANT,
    "plain": (),
    "early_exit": (*MEANT["early_exit"], "contrast", "lower"),
    "speculation": (*MEANT["speculation"], *CONTRAST, "exit"),
    "dola": ("layers", "alpha"),
}
"""The fields that each decoding reads."""
RULE_NAMES = tuple(name for name in RULES if name not in ("fixed", "schedule"))
DEFAULT_THRESHOLD, DEFAULT_PATIENCE = 0.9, 3.0
DRAFT_SHARE = 1 / 3
"""Where the exit lies that drafts if nobody found out better."""


def decoding_of(
    host: CausalHost, flat: ExitFields, own: OfframpFields | None
) -> DecodingRule | DecodingLoop | None:
    """Make what writes the text.

    Args:
        host: The model.
        flat: Fields at the top of the request.
        own: Those under ``offramp``.

    Raises:
        ConfigError: Fields contradict each other, or their values are impossible.
    """
    given = _merged(flat, own)
    name = given.pop("decoding", None) or _meant(given)
    if name is None:
        rule: DecodingRule | DecodingLoop | None = host.model.default_decoding
        return rule
    useless = sorted(set(given) - set(READ[name]))
    if useless:
        raise ConfigError(
            f"{', '.join(useless)} would change nothing with decoding {name!r}; it reads "
            f"{', '.join(READ[name]) or 'no other field'}"
        )
    return _MAKERS[name](host, given)


def asked_of(flat: ExitFields, own: OfframpFields | None, *, name: str) -> Any:
    """Give a field that may stand at the top or under ``offramp``.

    Raises:
        ConfigError: It stands at both with different values.
    """
    found = [getattr(each, name, None) for each in (flat, own)]
    values = [value for value in found if value is not None]
    if len(values) == 2 and values[0] != values[1]:
        raise ConfigError(
            f"{name} is said twice, {values[0]!r} and offramp.{name} {values[1]!r}; say it once"
        )
    return values[0] if values else None


def _merged(flat: ExitFields, own: OfframpFields | None) -> dict[str, Any]:
    names = {"decoding", *(field for fields in READ.values() for field in fields)}
    found = {name: asked_of(flat, own, name=name) for name in sorted(names)}
    return {name: value for name, value in found.items() if value is not None}


def _meant(given: Mapping[str, Any]) -> str | None:
    return next((name for name, fields in MEANT.items() if set(fields) & set(given)), None)


def _contrast(host: CausalHost, given: Mapping[str, Any]) -> Contrast:
    inner = given.get("contrast") or ContrastChoice()
    chosen = {name: given.get(name) for name in ("upper", "lower", "alpha")}
    for name, value in inner.model_dump(exclude_none=True).items():
        if chosen[name] not in (None, value):
            raise ConfigError(
                f"{name} is said twice, {chosen[name]!r} and contrast.{name} {value!r}; say it once"
            )
        chosen[name] = value
    options = {name: value for name, value in chosen.items() if value is not None}
    if "lower" not in options and host.default_contrast is None:
        raise ConfigError(f"{host.name} has no exits to contrast; use decoding 'plain'")
    return Contrast(**{**(host.default_contrast or {}), **options})


def _fixed(host: CausalHost, given: Mapping[str, Any]) -> FixedExit:
    if "exit" not in given:
        exits = ", ".join(map(str, host.model.exit_numbers))
        raise ConfigError(f"decoding 'exit' needs the exit that answers; add exit, one of {exits}")
    return FixedExit(exit=given["exit"])


def _dola(host: CausalHost, given: Mapping[str, Any]) -> DoLa:
    layers = given.get("layers", "low")
    options = {"relative_top": given["alpha"]} if "alpha" in given else {}
    return DoLa(layers=tuple(layers) if isinstance(layers, list) else layers, **options)


def _early_exit(host: CausalHost, given: Mapping[str, Any]) -> EarlyExit:
    rule = given.get("rule") or ("gate" if host.has_gates else "top_gap")
    if rule not in RULE_NAMES:
        raise ConfigError(f"no rule {rule!r}; use one of {', '.join(RULE_NAMES)}")
    threshold: float | None = given.get("threshold")
    if threshold is None and rule != "gate":
        threshold = DEFAULT_PATIENCE if rule == "patience" else DEFAULT_THRESHOLD
    if rule == "patience" and threshold is not None and threshold.is_integer():
        threshold = int(threshold)
    inner = given.get("contrast") or ContrastChoice()
    if inner.upper not in (None, "original") or inner.alpha is not None:
        raise ConfigError("early_exit chooses the upper exit itself; give contrast only a lower")
    return EarlyExit(
        rule=rule,
        threshold=threshold,
        min_exit=given.get("min_exit", 0),
        lower=given.get("lower", inner.lower),
    )


def _speculation(host: CausalHost, given: Mapping[str, Any]) -> SelfSpeculation:
    target: DecodingRule | None = None
    if set(given) & set(CONTRAST):
        target = _contrast(host, given)
    if "exit" in given:
        if target is not None:
            raise ConfigError("speculation writes one text: give exit or a contrast, not both")
        target = FixedExit(exit=given["exit"])
    options = {name: given[name] for name in MEANT["speculation"] if name in given}
    plan = SelfSpeculation(target=target, **options)
    if plan.draft_exit is not None:
        return plan
    try:
        plan.check(host.model)
    except OfframpError:  # no trained drafter, or one that cannot draft for this
        return replace(plan, draft_exit=host.exit_near(DRAFT_SHARE))
    return plan


_MAKERS: Mapping[
    str, Callable[[CausalHost, Mapping[str, Any]], DecodingRule | DecodingLoop | None]
] = {
    "plain": lambda host, given: None,
    "contrast": _contrast,
    "exit": _fixed,
    "dola": _dola,
    "early_exit": _early_exit,
    "speculation": _speculation,
}
