"""Load the small ELMER models that come with this library.

In:  a name. Out: a model and its tokenizer.
Not here: how they were trained (recipes/elmer in the repository), how good they are
     (docs/elmer.md).
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from offramp.errors import ConfigError
from offramp.models.elmer.modeling import ElmerForConditionalGeneration

SHIPPED = Path(__file__).parent / "shipped"
"""A folder in hub format for each, part of the package."""


def shipped_names() -> tuple[str, ...]:
    """Give the names of the models that are there.

    Example:
        >>> shipped_names()
        ('elmer-g2p',)
    """
    return tuple(sorted(each.name for each in SHIPPED.iterdir() if each.is_dir()))


def shipped_folder(name: str) -> Path | None:
    """Give the folder of a model by its name; None if there is none of that name."""
    return SHIPPED / name if name in shipped_names() else None


def load_elmer(name: str, *, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Load an ELMER model that comes with this library; nothing is fetched.

    ``"elmer-g2p"`` writes the pronunciation of an English word in lower case, in the 39 phones of
    the CMU Pronouncing Dictionary without stress.

    Args:
        name: Which.
        dtype: Of the weights.

    Returns:
        The model, in evaluation mode, and its tokenizer.

    Raises:
        ConfigError: There is none of that name.

    Example:
        >>> model, tokenizer = load_elmer("elmer-g2p")
        >>> ids = model.generate(**tokenizer("light", return_tensors="pt"))
        >>> tokenizer.decode(ids[0], skip_special_tokens=True)
        'L AY T'
    """
    folder = shipped_folder(name)
    if folder is None:
        raise ConfigError(f"no model {name!r} is shipped; use one of {', '.join(shipped_names())}")
    model = ElmerForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    return model.eval(), AutoTokenizer.from_pretrained(folder)
