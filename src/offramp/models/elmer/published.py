"""Read ELMER's published weights, and any BART, as an ELMER model.

In:  a folder or hub name. Out: the configuration that its weights need.
Law: published fine-tuned weights are recognised by ``concat_head.weight`` in the file, which alone
     is looked for; nothing in it is executed.
Source: RUCAIBox/ELMER, commit 0417835: weights in BART's format, ``model_type: bart``, a canvas of
     BOS and masks, the mask the last of the vocabulary.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedConfig

from offramp.models.checkpoint import find_file
from offramp.models.elmer.configuration import ElmerConfig

SOFT = "concat_head.weight"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_HUB = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
)


def published_config(source: Any, options: dict[str, Any]) -> ElmerConfig | None:
    """Give the configuration of weights in BART's format; None if they are ELMER's own.

    Args:
        source: Folder or hub name.
        options: Of ``from_pretrained``; those of the hub are used, fields of the configuration
            are taken out.
    """
    hub = {name: options[name] for name in _HUB if options.get(name) is not None}
    given, _ = PreTrainedConfig.get_config_dict(source, **hub)
    if given.get("model_type") != "bart":
        return None
    given = {name: value for name, value in given.items() if name != "model_type"}
    names = set(_names_in(str(source), hub))
    given.setdefault("canvas_start_token_id", given.get("bos_token_id", 0))
    given.setdefault("canvas_slack", False)
    soft = {"soft_exit": True, "soft_training": "published", "exit_loss": "all"}
    fields = set(ElmerConfig.__dataclass_fields__)
    own = {name: options.pop(name) for name in list(options) if name in fields}
    return ElmerConfig(**{**given, **(soft if SOFT in names else {}), **own})


def _names_in(source: str, hub: dict[str, Any]) -> Iterable[str]:
    """Give the names of weights in one file, without reading the weights."""
    for name in _WEIGHTS:
        found = find_file(source, name, hub)
        if found is None:
            continue
        if Path(found).suffix == ".safetensors":
            with safe_open(found, framework="pt") as file:
                return list(file.keys())
        return list(torch.load(found, map_location="meta", weights_only=True, mmap=True))
    return []
