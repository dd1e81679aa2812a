"""Tiny random ELMER models whose layers, places and sources all say something else."""

from functools import cache

import torch

from offramp.models.elmer import ElmerConfig, ElmerForConditionalGeneration

PAD, BOS, EOS, MASK, VOCAB, PLACES = 1, 0, 2, 39, 40, 32
SIZES = {
    "vocab_size": VOCAB,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 4,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": PLACES,
    "dropout": 0.0,
    "forced_eos_token_id": None,
}
HEADS = {
    "plain": {},
    "ctc": {"output_head": "ctc", "canvas_ratio": 2.0},
    "dag": {"output_head": "dag", "canvas_ratio": 3.0, "dag_heads": 2},
}
RULES = {
    "entropy": 0.4,
    "top_probability": 0.4,
    "top_gap": 0.3,
    "saturation": 0.7,
    "patience": 2,
    "gate": 0.5,
}
"""Thresholds at which tiny random models leave here and there."""

SPREAD = {
    "embed_positions": 2.0,
    "embed_tokens": 0.8,
    "out_proj": 0.15,
    "fc": 0.15,
}
"""Standard deviations at which places differ from one another, and layers too."""


def config_of(**more):
    return ElmerConfig(**{**SIZES, **more})


def fresh(*, seed=4, **more):
    """Build a model that a test may change, in float64."""
    torch.manual_seed(seed)
    model = ElmerForConditionalGeneration(config_of(**more)).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2:
                spread = [size for part, size in SPREAD.items() if part in name]
                parameter.normal_(0.0, spread[0] if spread else 0.4)
            elif "norm" not in name:
                parameter.normal_(0.0, 0.2)
        model.final_logits_bias.normal_(0.0, 0.5)
        model.final_logits_bias[:, EOS] += 2.0  # texts end now and then
    return model


@cache
def shared(*, seed=4, **more):
    """Build a model that nobody may change."""
    return fresh(seed=seed, **more).requires_grad_(False)


def sources(lengths, *, seed=1, side="right"):
    """Make sources of these lengths, end token included, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    ids = torch.full((len(lengths), width), PAD)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        start = 0 if side == "right" else width - length
        draw = torch.randint(3, MASK, (length,), generator=generator)
        draw[-1] = EOS
        ids[row, start : start + length] = draw
        mask[row, start : start + length] = 1
    return ids, mask


def targets(lengths, *, seed=2):
    """Make labels of these lengths, end token included, padded with -100."""
    ids, mask = sources(lengths, seed=seed)
    return ids.masked_fill(mask == 0, -100)
