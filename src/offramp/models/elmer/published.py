"""Read ELMER's published weights, and any BART, as an ELMER model.

In:  a folder or hub name. Out: the configuration that its weights need.
Law: published fine-tuned weights are recognised by ``concat_head.weight`` in the file, which alone
     is looked for; nothing in it is executed; weights of another family are refused
     (tests/models/elmer/test_published.py).
Source: RUCAIBox/ELMER, commit 0417835: weights in BART's format, ``model_type: bart``, a canvas of
     BOS and masks as long as the target, the mask the last of the vocabulary. The published
     pre-trained weights have BART's names and sizes and cannot be told from those of a BART.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedConfig

from offramp.errors import CheckpointError, ConfigError
from offramp.models.checkpoint import HUB_OPTIONS, find_file
from offramp.models.elmer.configuration import ElmerConfig
from offramp.models.files import json_of

SOFT = "concat_head.weight"
TUNED = {
    "soft_exit": True,
    "soft_training": "published",
    "exit_loss": "all",
    "canvas_slack": False,
}
"""How the published fine-tuned weights were trained."""
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


class ReadsBart:
    """Gives a model a ``from_pretrained`` that reads BART's format too."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, config: Any = None, **kwargs: Any
    ) -> Any:
        """Load a model, ELMER's published weights, or any BART as a start.

        The published pre-trained weights are read like a BART's, which nothing tells them from: to
        pre-train them on as published, say ``canvas_slack=False``.

        Args:
            pretrained_model_name_or_path: Folder or hub name.
            *args: As ``from_pretrained`` of transformers.
            config: Instead of the one beside the weights; with it a BART can be loaded as an ELMER
                with another head.
            **kwargs: As ``from_pretrained`` of transformers.

        Raises:
            CheckpointError: The weights are neither ELMER's nor BART's.
            ConfigError: ``config`` is of another family.
        """
        if config is None:
            config = published_config(pretrained_model_name_or_path, kwargs)
        elif isinstance(config, PreTrainedConfig) and not isinstance(config, ElmerConfig):
            raise ConfigError(
                f"config must be an ElmerConfig, got {type(config).__name__}; leave it out to read "
                "a BART as it is"
            )
        return super().from_pretrained(  # type: ignore[misc]
            pretrained_model_name_or_path, *args, config=config, **kwargs
        )


def published_config(
    source: Any, options: dict[str, Any], *, mask: int | None = None
) -> ElmerConfig | None:
    """Give the configuration of weights in BART's format; None if they are ELMER's own.

    All get a canvas that begins with BOS, as published, and as targets of BART's tokenizers do.
    With ``concat_head.weight`` they are ELMER's, fine-tuned, and learn on as published: soft exit,
    a loss at every exit, no ``canvas_slack``. Without it nothing tells ELMER's pre-trained weights
    from a BART's, and they learn with this library's defaults. What ``config.json`` or ``options``
    say goes before.

    Args:
        source: Folder or hub name.
        options: Of ``from_pretrained``; those of the hub are used, fields of the configuration
            are taken out.
        mask: The tokenizer's, for a BART that names none; without it that is the last token.

    Raises:
        CheckpointError: They are neither.
    """
    hub = {name: options[name] for name in HUB_OPTIONS if options.get(name) is not None}
    given, _ = PreTrainedConfig.get_config_dict(source, **hub)
    kind = given.get("model_type")
    if kind == ElmerConfig.model_type:
        return None
    if kind != "bart":
        raise CheckpointError(
            f"{source} holds weights of model_type {kind!r}; an ELMER model can be read from "
            "'elmer' and 'bart'"
        )
    given = {name: value for name, value in given.items() if name != "model_type"}
    names = set(_names_in(str(source), hub))
    given.setdefault("canvas_start_token_id", given.get("bos_token_id", 0))
    given.setdefault("mask_token_id", mask)
    fields = set(ElmerConfig.__dataclass_fields__)
    own = {name: options.pop(name) for name in list(options) if name in fields}
    return ElmerConfig(**{**(TUNED if SOFT in names else {}), **given, **own})


def _names_in(source: str, hub: dict[str, Any]) -> Iterable[str]:
    """Give the names of weights in one file, without reading the weights."""
    for name in _WEIGHTS:
        found = find_file(source, name, hub)
        if found is None:
            continue
        if Path(found).suffix == ".json":
            return list(json_of(Path(found).read_text(encoding="utf-8"))["weight_map"])
        if Path(found).suffix == ".safetensors":
            with safe_open(found, framework="pt") as file:
                return list(file.keys())
        return list(torch.load(found, map_location="meta", weights_only=True, mmap=True))
    return []
