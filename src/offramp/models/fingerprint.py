"""Tell whether exits were made for this base, without reading all of it.

In:  a model. Out: a fingerprint that survives float32, bf16, fp16 and int8 loading.
Law: another seed, another fine-tuning or another shape is refused; the same base in another dtype
     is not (tests/models/test_checkpoint.py).

A hash would change with rounding, so the fingerprint holds sampled values themselves, a few of each
weight, rounded to bf16. Weights that a quantiser has changed are left out of the comparison; norms,
biases and usually the embedding remain (docs/decisions/0005-fingerprint.md).
"""

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

from offramp.errors import CheckpointError

SAMPLES, EMBEDDING_SAMPLES = 4, 64
ONE_ROUNDING = 2.0**-7
"""Two roundings to bf16 and fp16 in either order differ by less than this share of the value."""

ADDED = ("exits", "drafter")
"""Modules that a model with exits has beside those of its base."""


def of_base(name: str) -> bool:
    """Tell whether a weight of a model with exits, by its name, is one of the base.

    Example:
        >>> of_base("model.norm.weight"), of_base("exits.2.linear.weight")
        (True, False)
    """
    return name.split(".")[0] not in ADDED


def fingerprint_of(model: Any) -> dict[str, Any]:
    """Sample a base model.

    Args:
        model: A model of transformers, with or without exits.
    """
    samples = {"embedding": _sampled(model.get_input_embeddings().weight, EMBEDDING_SAMPLES)}
    for name, parameter in model.named_parameters():
        if of_base(name):
            samples[name] = _sampled(parameter, SAMPLES)
    return {"shape": _shape_hash(model), "samples": {k: v for k, v in samples.items() if v}}


def check_fingerprint(model: Any, expected: dict[str, Any], source: str) -> None:
    """Refuse a base that the exits were not made for.

    Raises:
        CheckpointError: Another shape or other weights, or nothing of the base can be compared.
    """
    advice = f"the exits of {source} were made for another base; load that one"
    actual = fingerprint_of(model)
    if actual["shape"] != expected.get("shape"):
        raise CheckpointError(f"the base has another shape or family: {advice}")
    compared = 0
    for name, values in actual["samples"].items():
        wanted = expected.get("samples", {}).get(name)
        if wanted is None or len(wanted) != len(values):
            continue
        ours, theirs = torch.tensor(values), torch.tensor(wanted)
        if not torch.allclose(ours, theirs, rtol=ONE_ROUNDING, atol=1e-6):
            raise CheckpointError(f"the base's weights differ in {name}: {advice}")
        compared += len(values)
    if compared == 0:
        raise CheckpointError(
            f"nothing of the base can be compared with the fingerprint of {source}; keep its "
            "embedding in memory (device_map without 'disk')"
        )


def _sampled(parameter: Tensor, count: int) -> list[float]:
    plain = type(parameter) is nn.Parameter and parameter.dtype.is_floating_point
    if not plain or parameter.device.type == "meta" or parameter.numel() == 0:
        return []  # quantised or offloaded
    flat = parameter.detach().reshape(-1)
    count = min(count, flat.numel())
    places = torch.arange(count) * (flat.numel() - 1) // max(count - 1, 1)
    return [float(value) for value in flat[places.to(flat.device)].bfloat16().float().cpu()]


def _shape_hash(model: Any) -> str:
    """Hash what fixes the shape of a model, by whatever names its family gives it."""
    config = model.config.get_text_config(decoder=True)
    names = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    facts = {name: getattr(config, name, None) for name in names}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
