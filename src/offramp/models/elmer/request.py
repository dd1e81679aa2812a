"""Understand what transformers' own callers pass.

In:  arguments of ``generate`` and ``forward`` that ELMER does not name. Out: how long a text may
     get, or an error.
Law: what is passed over could not have changed the result (tests/models/elmer/test_request.py).
Not here: how a text is written (offramp.decoding.oneshot).
"""

from collections.abc import Mapping
from typing import Any

from offramp.decoding.oneshot import OneShot
from offramp.errors import ConfigError

ONLY = {"num_beams": (None, 1), "do_sample": (None, False), "num_return_sequences": (None, 1)}
"""What a caller may ask for by these names: what one pass does anyway."""

PASSED_OVER = ("labels", "use_cache", "synced_gpus")
"""A reference never reaches a text, nothing is cached, and every process makes the same passes."""

LACKING = ("inputs_embeds", "decoder_inputs_embeds", "past_key_values", "output_attentions")


def limit_of(
    given: Mapping[str, Any], max_new_tokens: int | None, *, own: Any, settings: OneShot
) -> int | None:
    """Give the length that texts are cut at, from whoever said it first.

    Args:
        given: Arguments of ``generate`` that it does not name.
        max_new_tokens: The one that it names.
        own: The model's ``generation_config``; of it only ``max_new_tokens`` is read, since a
            Trainer sets its ``max_length`` by itself.
        settings: How is written.

    Returns:
        At least 1, or None.

    Raises:
        ConfigError: An argument is unknown, or asks for what one pass cannot do.
    """
    config = given.get("generation_config")
    known = {*ONLY, *PASSED_OVER, "generation_config", "max_length"}
    unknown = sorted(set(given) - known)
    if unknown:
        raise ConfigError(
            f"generate of an ELMER model does not know {', '.join(unknown)}; it writes "
            "in one pass, see OneShot for what can be set"
        )
    for name, allowed in ONLY.items():
        for value in (given.get(name), getattr(config, name, None)):
            if value not in allowed:
                raise ConfigError(
                    f"an ELMER model writes one text in one pass: {name} must be {allowed[1]}, got "
                    f"{value}; see OneShot for temperature and lengths"
                )
    if given.get("synced_gpus") and settings.exit_rule is not None:
        raise ConfigError(
            "with synced_gpus every process must run every layer; leave exit_rule away"
        )
    said = [max_new_tokens, given.get("max_length")]
    said += [getattr(config, name, None) for name in ("max_new_tokens", "max_length")]
    said += [getattr(own, "max_new_tokens", None)]
    limit: int | None = next((each for each in said if each is not None), None)
    if limit is not None and limit < 1:
        raise ConfigError(f"max_new_tokens must be at least 1, got {limit}; leave it out for all")
    return limit


def refuse_lacking(given: Mapping[str, Any]) -> None:
    """Refuse what BART's forward takes and ELMER's has no use for.

    Raises:
        ConfigError: It is there.
    """
    found = [name for name in LACKING if given.get(name) is not None and given[name] is not False]
    if found:
        raise ConfigError(
            f"an ELMER model takes no {', '.join(found)}: it reads token ids and writes in one "
            "pass; leave it out"
        )
