"""Tiny random models of any family that transformers has, built from configurations alone."""

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

DEPTH, VOCAB, WINDOW = 4, 61, 6

LARGEST = 2_000_000


class TooLargeError(Exception):
    """The family has sizes that this file does not know how to set."""


SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "d_model": 32,
    "n_embd": 32,
    "embed_dim": 32,
    "dim_model": 32,
    "intermediate_size": 48,
    "ffn_dim": 48,
    "n_inner": 48,
    "dim_ff": 48,
    "dff": 48,
    "ffn_hidden_size": 48,
    "feed_forward_proj_dim": 48,
    "moe_intermediate_size": 16,
    "expert_ffn_hidden_size": 16,
    "shared_expert_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16,
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
    "dim_head": 8,
    "kv_channels": 8,
    "rotary_dim": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "o_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "max_position_embeddings": 64,
    "n_positions": 64,
    "n_ctx": 64,
    "max_seq_len": 64,
    "sliding_window": WINDOW,
    "attention_window": 8,
    "window_size": WINDOW,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "word_embed_proj_dim": 32,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCAB,
    "shape_vocab_size": VOCAB,
    "pronunciation_vocab_size": VOCAB,
    "num_kv_shared_layers": 0,
    "mamba_d_state": 8,
    "mamba_d_head": 16,
    "mamba_n_heads": 4,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "mamba_chunk_size": 8,
    "chunk_size": 8,
    "state_size": 8,
    "ssm_state_size": 8,
    "index_n_heads": 2,
    "index_head_dim": 8,
    "index_topk": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
TOKENS = {
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
}
LATENT = {"qk_rope_head_dim": 4, "head_dim": 4, "num_key_value_heads": 4}
"""Latent attention: its rotary part is what the rest calls the width of a head."""
OWN_HEAD_DIM = {"head_dim": 8}
LEFT_ALONE = object()
SPECIAL = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "bart": {"encoder_ffn_dim": 48},
    "bloom": {"n_head": 4},
    "dbrx": {
        "attn_config": {"clip_qkv": 8.0, "kv_n_heads": 2, "rope_theta": 10_000.0},
        "ffn_config": {"ffn_hidden_size": 48},
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "falcon": {"alibi": False, "num_kv_heads": 2, "new_decoder_architecture": True},
    "falcon_h1": {"mamba_d_ssm": 64, "lm_head_multiplier": 0.5},
    "gemma2": {"query_pre_attn_scalar": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], DEPTH // 2]]},
    "granite": {"logits_scaling": 2.0},
    "granitemoe": {"logits_scaling": 2.0},
    "granitemoehybrid": {
        "layer_types": ["linear_attention", "full_attention"] * 2,
        "logits_scaling": 2.0,
    },
    "hunyuan_v1_dense": OWN_HEAD_DIM,
    "hunyuan_v1_moe": OWN_HEAD_DIM,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"linear_head_dim": 8, "linear_num_heads": 4},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1},
    "minicpm3": {"dim_model_base": 16},
    "ministral": OWN_HEAD_DIM,
    "nemotron": {"num_key_value_heads": 2},
    "nemotron_h": {"n_groups": 1},
    "opt": {"word_embed_proj_dim": 16},
    "prophetnet": {"num_hidden_layers": LEFT_ALONE, "num_encoder_layers": DEPTH},
    "qwen4_exp_text": {"num_key_value_heads": 2},
    "reformer": {"is_decoder": True},
    "smollm3": {"no_rope_layers": [1, 0, 1, 1], "no_rope_layer_interval": 2},
    "t5": {"is_gated_act": False},
    "xmod": {"default_language": "en_XX"},
    "xlnet": {"max_position_embeddings": LEFT_ALONE},
    "zaya": {"num_experts_per_tok": 1},
}
SEQ2SEQ = ("t5", "bart")


def _settable(config: object, name: str) -> bool:
    computed = getattr(type(config), type(config).attribute_map.get(name, name), None)
    return hasattr(config, name) and not (isinstance(computed, property) and computed.fset is None)


def config_of(model_type: str, **extra: object) -> PreTrainedConfig:
    """Shrink a family's default configuration."""
    default = CONFIG_MAPPING[model_type]()
    parts = {
        name: type(part)(**_small(part))
        for name in default.sub_configs
        if isinstance(part := getattr(default, name, None), PreTrainedConfig)
    }
    chosen = {**_small(default), **parts, **SPECIAL.get(model_type, {}), **extra}
    return CONFIG_MAPPING[model_type](
        **{name: value for name, value in chosen.items() if value is not LEFT_ALONE}
    )


def _small(default: PreTrainedConfig) -> dict[str, object]:
    default.allow_global_per_layer_attribute_access = True
    sizes = {**SIZES, **TOKENS}
    known = {
        name: value
        for name, value in sizes.items()
        if _settable(default, name) and (name in TOKENS or getattr(default, name) is not None)
    }
    layer_types = getattr(default, "layer_types", None)
    if layer_types and _settable(default, "layer_types"):
        kinds = list(dict.fromkeys(layer_types))
        known["layer_types"] = [kinds[i % len(kinds)] for i in range(DEPTH)]
    if hasattr(default, "qk_rope_head_dim"):
        known |= LATENT
    known |= {
        name: 0.0
        for name in vars(default)
        if ("drop" in name or name.endswith("pdrop")) and isinstance(getattr(default, name), float)
    }
    return known


def model_of(
    model_type: str, *, seed: int = 0, seq2seq: bool | None = None, **extra: object
) -> PreTrainedModel:
    """Build a tiny random model with weights large enough that its layers disagree."""
    torch.manual_seed(seed)
    config = config_of(model_type, **extra)
    seq2seq = model_type in SEQ2SEQ if seq2seq is None else seq2seq
    auto = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
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
