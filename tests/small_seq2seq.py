"""Tiny random ELMER models."""

import torch

from offramp.models.elmer import ElmerConfig, ElmerForConditionalGeneration

SIZES = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "dropout": 0.0,
}
TOKENS = {
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}


def elmer_of(*, vocab_size, seed=2, **more):
    """Build one whose layers, and whose texts for other sources, disagree."""
    torch.manual_seed(seed)
    config = ElmerConfig(vocab_size=vocab_size, **{**SIZES, **TOKENS, **more})
    model = ElmerForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0.0, 0.25)
            elif "bias" in name:
                parameter.normal_(0.0, 0.1)
    return model
