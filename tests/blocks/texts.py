"""Tiny models by name, texts to run through them in steps, and what the families make of them.

The reference is always the family's own forward with its own cache, on the same tokens in the same
steps. Windows are of 6 tokens and texts longer than that.
"""

import functools
import inspect
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

import tiny
from offramp.blocks.anatomy import CHECKED, anatomy_of
from offramp.blocks.cache import growing
from offramp.blocks.span import Span
from offramp.blocks.watch import state_of

DEPTH = tiny.DEPTH
ALTERNATING = {
    "use_sliding_window": True,
    "sliding_window": tiny.WINDOW,
    "layer_types": ["sliding_attention", "full_attention"] * (DEPTH // 2),
}
VARIANTS = {
    "qwen2 with windows": ("qwen2", ALTERNATING),
    "phi3 with windows": ("phi3", {"sliding_window": tiny.WINDOW}),
    "smollm3 with windows": ("smollm3", ALTERNATING),
    "falcon with alibi": ("falcon", {"alibi": True, "new_decoder_architecture": False}),
    "t5 of one block": ("t5", {"num_decoder_layers": 1}),
}
NAMES = (*sorted(CHECKED), *VARIANTS)
UNLISTED = ("cohere2", "longt5", "m2m_100", "mpt", "mt5", "switch_transformers", "umt5")
WINDOWED = (
    *("gemma2", "gemma3_text", "mistral"),
    *("phi3 with windows", "qwen2 with windows", "smollm3 with windows"),
)


@functools.cache
def model_of(name: str):
    family, extra = VARIANTS.get(name, (name, {}))
    seq2seq = family in (*tiny.SEQ2SEQ, *set(UNLISTED) - {"cohere2", "mpt"})
    return tiny.model_of(family, seq2seq=seq2seq, **extra)


@functools.cache
def span_of(name: str) -> Span:
    return Span(anatomy_of(model_of(name)))


@dataclass
class Text:
    """Tokens of a batch with what the decoder takes besides, to be cut into steps."""

    name: str
    ids: Tensor
    mask: Tensor | None
    context: dict

    @property
    def length(self) -> int:
        return self.ids.shape[1]

    def at(self, start: int, stop: int, *, embed: bool = True) -> dict:
        """Inputs of ``run`` for tokens ``start`` to ``stop``, with all before them in the cache."""
        inputs = {**self.context, **({"input_ids": self.ids[:, start:stop]} if embed else {})}
        if self.mask is not None:
            inputs["attention_mask"] = self.mask[:, :stop]
            stack = span_of(self.name).anatomy.stack
            if "position_ids" in inspect.signature(stack.forward).parameters:
                positions = (self.mask.cumsum(-1) - 1).clamp(min=0)
                inputs["position_ids"] = positions[:, start:stop]
        return inputs

    def seen(self, states: Tensor) -> Tensor:
        """The states of what is not padding."""
        return states if self.mask is None else states[self.mask[:, : states.shape[1]].bool()]


def text_of(name: str, *, length: int = 15, padded: bool = False, rows: int = 2) -> Text:
    model = model_of(name)
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(3, tiny.VOCAB, (rows, length), generator=generator)
    mask = None
    if padded:
        mask = torch.ones_like(ids)
        mask[0, :3] = 0
    context = {}
    if model.config.is_encoder_decoder:
        source = torch.randint(3, tiny.VOCAB, (rows, 6), generator=generator)
        hidden = torch.ones_like(source)
        hidden[0, 4:] = 0
        with torch.no_grad():
            encoded = model.get_encoder()(source, attention_mask=hidden).last_hidden_state
        context = {"encoder_hidden_states": encoded, "encoder_attention_mask": hidden}
    return Text(name, ids, mask, context)


def new_cache(name: str):
    config = model_of(name).config
    own = DynamicCache(config=config)
    if not config.is_encoder_decoder:
        return own
    return EncoderDecoderCache(own, DynamicCache(config=config))


def own_states(text: Text, steps, cache=None) -> list[Tensor]:
    """The states of all exits, L by the model's own forward over some steps of a text."""
    anatomy = span_of(text.name).anatomy
    seen: list[list[Tensor]] = []
    handles = [
        block.register_forward_hook(lambda _, __, output, i=i: seen[i].append(state_of(output)))
        for i, block in enumerate(anatomy.blocks)
    ]
    seen.extend([] for _ in handles)
    try:
        for start, stop in steps:
            inputs = text.at(start, stop)
            anatomy.stack(**inputs, past_key_values=cache, use_cache=cache is not None)
    finally:
        for handle in handles:
            handle.remove()
    return [torch.cat(states, 1) for states in seen]


def assert_same(told: Tensor, own: Tensor) -> None:
    """Equal up to the float32 noise of another order of summation."""
    assert told.shape == own.shape
    assert (told - own).abs().max() <= 1e-5 * own.abs().max().clamp(min=1)


def assert_same_cache(told, own) -> None:
    """Same keys and values; of windows, what the next token may see."""
    for ours, theirs in zip(growing(told).layers, growing(own).layers, strict=True):
        assert ours.get_seq_length() == theirs.get_seq_length()
        held = theirs.get_seq_length()
        window = getattr(theirs, "sliding_window", None)
        held = held if window is None else min(held, window - 1)
        if held:
            assert_same(ours.keys[..., -held:, :], theirs.keys[..., -held:, :])
            assert_same(ours.values[..., -held:, :], theirs.values[..., -held:, :])
