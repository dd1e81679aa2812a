"""Say how much text fits a model.

In:  transformers' configuration. Out: positions.
"""

from typing import Any


def context_of(config: Any) -> int | None:
    """Give how many positions a model knows; None is no limit.

    Example:
        >>> from transformers import GPT2Config
        >>> context_of(GPT2Config(n_positions=64))
        64
    """
    found = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(found) if found else None
