"""Tiny random models of any family that transformers has, built from configurations alone."""

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    PreTrainedModel,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

DEPTH, VOCAB = 4, 61

LARGEST = 2_000_000


class TooLargeError(Exception):
    """The family has sizes that this file does not know how to set."""


SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "d_model": 32,
    "n_embd": 32,
    "embed_dim": 32,
    "intermediate_size": 48,
    "ffn_dim": 48,
    "n_inner": 48,
    "ffn_hidden_size": 48,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "intermediate_size_mlp": 48,
    "shared_intermediate_size": 16,
    "decoder_ffn_dim": 48,
    "encoder_ffn_dim": 48,
    "d_ff": 48,
    "d_kv": 8,
    "num_hidden_layers": DEPTH,
    "num_layers": DEPTH,
    "n_layer": DEPTH,
    "n_layers": DEPTH,
    "encoder_layers": 2,
    "decoder_layers": DEPTH,
    "num_decoder_layers": DEPTH,
    "num_encoder_layers": 2,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_encoder_attention_heads": 4,
    "num_decoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "kv_channels": 8,
    "rotary_dim": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "max_position_embeddings": 64,
    "n_positions": 64,
    "n_ctx": 64,
    "sliding_window": 6,
    "attention_window": 8,
    "window_size": 8,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "word_embed_proj_dim": 32,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCAB,
    "num_kv_shared_layers": 0,
}
TOKENS = {
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
}
SPECIAL = {
    "gpt_neo": {"attention_types": [[["global", "local"], DEPTH // 2]], "window_size": 6},
    "opt": {"word_embed_proj_dim": 16},
    "bloom": {"n_head": 4},
    "falcon": {"alibi": False, "num_kv_heads": 2, "new_decoder_architecture": True},
    "gemma2": {"query_pre_attn_scalar": 8},
    "bart": {"encoder_ffn_dim": 48},
    "t5": {"is_gated_act": False},
    "smollm3": {"no_rope_layers": [1, 0, 1, 1], "no_rope_layer_interval": 2},
}
SEQ2SEQ = ("t5", "bart")


def _settable(config: object, name: str) -> bool:
    computed = getattr(type(config), name, None)
    return hasattr(config, name) and not (isinstance(computed, property) and computed.fset is None)


def config_of(model_type: str, **extra: object):
    """Shrink a family's default configuration."""
    default = CONFIG_MAPPING[model_type]()
    sizes = {**SIZES, **TOKENS}
    known = {
        name: value
        for name, value in sizes.items()
        if _settable(default, name) and (name in TOKENS or getattr(default, name) is not None)
    }
    layer_types = getattr(default, "layer_types", None)
    if layer_types:
        kinds = list(dict.fromkeys(layer_types))
        known["layer_types"] = [kinds[i % len(kinds)] for i in range(DEPTH)]
    known |= {
        name: 0.0
        for name in vars(default)
        if ("drop" in name or name.endswith("pdrop")) and isinstance(getattr(default, name), float)
    }
    return CONFIG_MAPPING[model_type](**{**known, **SPECIAL.get(model_type, {}), **extra})


def model_of(model_type: str, *, seed: int = 0, **extra: object) -> PreTrainedModel:
    """Build a tiny random model with weights large enough that its layers disagree."""
    torch.manual_seed(seed)
    config = config_of(model_type, **extra)
    auto = AutoModelForSeq2SeqLM if model_type in SEQ2SEQ else AutoModelForCausalLM
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in auto.from_config(config).parameters())
    if size > LARGEST:
        raise TooLargeError(f"{size / 1e6:.0f} M parameters with the sizes we know to set")
    model = auto.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0.0, 0.25)
            elif "bias" in name:
                parameter.normal_(0.0, 0.1)
    model.generation_config = GenerationConfig(
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1
    )
    return model


def prompt(model: PreTrainedModel, rows: int = 2, length: int = 7, *, seed: int = 1):
    """Make inputs for one forward: causal ids, or encoder and decoder ids."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (rows, length), generator=generator)
    if model.config.is_encoder_decoder:
        return {"input_ids": ids, "decoder_input_ids": ids.roll(1, -1)}
    return {"input_ids": ids}
