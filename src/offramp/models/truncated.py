"""Say in a configuration of transformers that a model has only some of its blocks.

In:  a configuration, and which blocks stay. Out: a new configuration of the same family.
Law: what a reader of the saved file sees is what is given back; block i of the new configuration
     is described as the block it was (tests/models/test_truncated.py).
Not here: whether the family builds from it what it should (offramp.models.export tries that).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from offramp.errors import ConfigError

PER_BLOCK = (
    *("activation_sparsity_pattern", "attention_layers", "attn_layers", "indexer_types"),
    *("intermediate_size", "layer_rope_theta", "layer_types", "layers_block_type"),
    *("mlp_layer_types", "no_rope_layers", "num_attention_heads_per_layer"),
)
"""Lists with one entry for each block; a setting of such a name that is no list is left alone."""

BLOCK_NUMBERS = (
    *("attn_layer_indices", "cross_attention_layers", "hybrid_layer_ids", "mlp_only_layers"),
    *("moe_layers", "ple_layer_ids"),
)
"""Lists of the blocks that are of some kind."""

DECODER_DEPTHS = ("num_decoder_layers", "decoder_layers")
"""Names of the number of blocks where ``num_hidden_layers`` may be that of an encoder."""


def truncated_config(config: Any, *, depth: int, kept: Sequence[int], tied: bool) -> Any:
    """Make the configuration of a model that has these blocks only.

    Args:
        config: Of the whole model; it is not changed.
        depth: Its number of blocks, L.
        kept: Which blocks stay, in order; one may come twice.
        tied: Whether the head may still be the embedding matrix.

    Raises:
        ConfigError: It does not say its number of blocks under a name that is known.

    Example:
        >>> from transformers import GPT2Config
        >>> truncated_config(GPT2Config(), depth=12, kept=range(4), tied=True).n_layer
        4
    """
    settings = config.to_dict()
    part = _part_name(config)
    inner = settings[part] if part else settings
    inner[_depth_name(config, inner, depth)] = len(kept)
    for name, cut in _CUTS.items():
        if inner.get(name) is not None:
            inner[name] = cut(inner[name], kept, depth)
    if "attention_types" in inner and "attention_layers" in inner:  # GPT-Neo reads the former
        inner["attention_types"] = [[[kind], 1] for kind in inner["attention_layers"]]
    for each in (settings, inner):
        if not tied and "tie_word_embeddings" in each:
            each["tie_word_embeddings"] = False
    return type(config).from_dict(settings)


def _part_name(config: Any) -> str | None:
    """Name the part of a configuration that describes the blocks; None is the whole."""
    if not config.sub_configs:
        return None
    inner = config.get_text_config(decoder=True)
    return next((name for name in config.sub_configs if getattr(config, name, None) is inner), None)


def _depth_name(config: Any, settings: Mapping[str, Any], depth: int) -> str:
    part = _part_name(config)
    family = type(getattr(config, part) if part else config)
    usual = family.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    for name in (*DECODER_DEPTHS, usual):
        if settings.get(name) == depth:
            return str(name)
    raise ConfigError(
        f"the configuration of {config.model_type} does not say that there are {depth} blocks: "
        f"{usual} is {settings.get(usual)}; use the exit in its own model, by "
        "generate(decoding=FixedExit(...))"
    )


def _entries(value: Any, kept: Sequence[int], depth: int) -> Any:
    if not isinstance(value, list | tuple) or len(value) != depth:
        return value
    return [value[block] for block in kept]


def _numbers(value: Any, kept: Sequence[int], depth: int) -> Any:
    return [place for place, block in enumerate(kept) if block in value]


def _mapping(value: Any, kept: Sequence[int], depth: int) -> Any:
    by_number = {int(block): settings for block, settings in value.items()}
    cut = {place: by_number[block] for place, block in enumerate(kept) if block in by_number}
    return cut or None


_CUTS: Mapping[str, Callable[[Any, Sequence[int], int], Any]] = {
    **dict.fromkeys(PER_BLOCK, _entries),
    **dict.fromkeys(BLOCK_NUMBERS, _numbers),
    "per_layer_config": _mapping,
}
