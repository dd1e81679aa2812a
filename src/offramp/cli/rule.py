"""Read which exits answer: ``--contrast``, ``--alpha``, ``--exit`` and ``--dola``.

In:  settings. Out: a decoding rule and its name, or neither, where the model itself decides.
Not here: whether a model has the exits (offramp.models.multiexit).
"""

from collections.abc import Mapping
from typing import Any, Literal

from offramp.cli.settings import ExitChoice
from offramp.config import parse_exit
from offramp.decoding import Contrast, DoLa, FixedExit
from offramp.decoding.protocol import DecodingRule
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
