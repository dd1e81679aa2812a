"""Read which exits answer, and how much is run: ``--contrast``, ``--early-exit`` and the like.

In:  settings. Out: a decoding rule and its name, or neither, where the model itself decides.
Not here: whether a model has the exits (offramp.models.multiexit).
"""

from collections.abc import Mapping
from typing import Any, Literal

from offramp.cli.settings import ExitChoice, Settings
from offramp.config import ORIGINAL, parse_exit, parse_exits
from offramp.decoding import Autoregressive, Contrast, DoLa, EarlyExit, FixedExit, SelfSpeculation
from offramp.decoding.protocol import DecodingLoop, DecodingRule
from offramp.decoding.rule_text import early_exit_fields
from offramp.decoding.speculation import DRAFTER
from offramp.errors import ConfigError

ORIGINAL_HEAD = "original"
"""What answers where nothing was asked for."""

BUCKETS: Mapping[str, Literal["low", "high"]] = {"low": "low", "high": "high"}


def read_rule(settings: ExitChoice) -> tuple[DecodingRule | None, str]:
    """Make the rule that the options ask for, and name it for results.

    Raises:
        ConfigError: An option is not readable or its exits are impossible.
    """
    if settings.contrast is not None:
        return _contrast(settings.contrast, settings.alpha)
    if settings.exit is not None:
        rule = FixedExit(exit=parse_exit(settings.exit))
        return rule, f"exit {rule.exit}"
    if settings.dola is not None:
        return _dola(settings.dola), f"dola {settings.dola}"
    return None, ORIGINAL_HEAD


def read_decoding(settings: Settings) -> tuple[DecodingRule | DecodingLoop | None, str]:
    """Make what writes the text: a rule alone, or a loop that follows it.

    Raises:
        ConfigError: An option is not readable or its exits are impossible.
    """
    rule, name = read_rule(settings)
    if settings.early_exit is not None:
        loop = _early_exit(settings, rule)
        more = {"exits": settings.exits, "min exit": loop.min_exit, "cache": settings.cache}
        told = [f" {name} {value}" for name, value in more.items() if value]
        return loop, f"early exit {settings.early_exit}{''.join(told)} of {name}"
    if settings.speculate is not None:
        return _speculation(settings, rule), name  # the same text, so the same name
    if settings.runtime is not None:
        return Autoregressive(target=rule, engine=settings.runtime), name
    return rule, name


def _early_exit(settings: Settings, rule: DecodingRule | None) -> EarlyExit:
    options = early_exit_fields(str(settings.early_exit), option="--early-exit ")
    if settings.exits is not None:
        if "exits" in options or "schedule" in options:
            raise ConfigError(
                f"--early-exit {settings.early_exit} names its exits itself; leave out --exits "
                f"{settings.exits}"
            )
        options["exits"] = parse_exits(settings.exits)
    options["min_exit"] = settings.one_pass.min_exit or 0
    if isinstance(rule, Contrast):
        if rule.upper != ORIGINAL or not isinstance(rule.lower, int):
            raise ConfigError(
                f"--early-exit chooses the upper exit, got --contrast {settings.contrast}; write "
                f"--contrast original:{rule.lower}"
            )
        options |= {"lower": rule.lower, "alpha": rule.alpha}
    return EarlyExit(**options, cache=settings.cache or "defer", engine=settings.runtime or "auto")


def _speculation(settings: Settings, rule: DecodingRule | None) -> SelfSpeculation:
    value = str(settings.speculate)
    exit = DRAFTER if value == DRAFTER else parse_exit(value)
    if exit == ORIGINAL:
        raise ConfigError("--speculate takes drafter or an exit number, got 'original'; try 12")
    return SelfSpeculation(
        draft_exit=exit,
        draft_length=settings.draft_length or "auto",
        lookup=settings.lookup or 0,
        target=rule,
        engine=settings.runtime or "auto",
    )


def _contrast(value: str, alpha: float | None) -> tuple[Contrast, str]:
    upper, colon, lower = value.partition(":")
    if not colon:
        raise ConfigError(f"--contrast takes two exits, got {value!r}; try original:12")
    chosen: dict[str, Any] = {} if alpha is None else {"alpha": alpha}
    rule = Contrast(upper=parse_exit(upper), lower=parse_exit(lower), **chosen)
    return rule, f"contrast {rule.upper}:{rule.lower} alpha {rule.alpha}"


def _dola(value: str) -> DoLa:
    if value in BUCKETS:
        return DoLa(layers=BUCKETS[value])
    layers = tuple(parse_exit(part) for part in value.split(",")) if value[:1].isdecimal() else ()
    numbers = tuple(layer for layer in layers if layer != "original")
    if not numbers or len(numbers) < len(layers):
        raise ConfigError(f"--dola takes low, high or exit numbers, got {value!r}; try 2,4,6")
    return DoLa(layers=numbers)
