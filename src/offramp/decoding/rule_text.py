"""Read how sure an exit must be from one word, as commands and lm-eval's arguments write it.

In:  ``RULE``, ``RULE:NUMBER`` or ``schedule:TOKEN=EXIT;TOKEN=EXIT``. Out: fields of ``EarlyExit``.
Not here: what the numbers may be (offramp.decoding.early_exit); ELMER's rules
     (offramp.decoding.oneshot).
"""

from typing import Any

from offramp.decoding.judge import RULES
from offramp.errors import ConfigError

EXAMPLES = {"fixed": "12", "patience": "3", "schedule": "0=24;50=12"}
"""What may follow the colon, for each rule that takes no share."""


def early_exit_fields(text: str, *, option: str) -> dict[str, Any]:
    """Read a rule and its number.

    Args:
        text: What was given; ``fixed:12`` names the exit, ``patience:3`` how many exits agree,
            ``schedule:0=24;50=12`` the exit from each new token on.
        option: How it was given, up to the value, for messages, such as ``"--early-exit "``.

    Raises:
        ConfigError: There is no such rule, or what follows the colon cannot be read.

    Example:
        >>> early_exit_fields("top_gap:0.9", option="--early-exit ")
        {'rule': 'top_gap', 'threshold': 0.9}
    """
    name, _, number = text.partition(":")
    if name not in RULES:
        raise ConfigError(
            f"{option.rstrip(' =')} takes one of {', '.join(RULES)}, got {name!r}; try top_gap:0.9"
        )
    found: dict[str, Any] = {"rule": name}
    try:
        if name == "fixed":
            found["exits"] = (int(number),)
        elif name == "schedule":
            steps = [step.split("=") for step in number.split(";")]
            found["schedule"] = tuple((int(token), int(exit)) for token, exit in steps)
        elif number:
            found["threshold"] = int(number) if name == "patience" else float(number)
    except ValueError:
        kind = "TOKEN=EXIT;TOKEN=EXIT" if name == "schedule" else "a number"
        raise ConfigError(
            f"{option}{name} takes {kind} after the colon, got {number!r}; try "
            f"{name}:{EXAMPLES.get(name, '0.9')}"
        ) from None
    return found
