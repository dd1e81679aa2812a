"""Find where a transformers model keeps its blocks, its last norm and its head.

In:  a causal LM or an encoder-decoder of transformers. Out: an ``Anatomy``, the only thing that the
     rest of offramp knows about a family.
Law: finish(exit L) through the head, scale and soft cap equals the model's own logits; checked for
     every family in tests/blocks/test_families.py, and once at run time for a layout that nobody
     has listed (offramp.models.multiexit).
Not here: running blocks (offramp.blocks.span), catching states (offramp.blocks.watch).

To add a family: if its parts have the usual names nothing is needed; else add a row to ``LAYOUTS``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from offramp.errors import UnknownLayoutError


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the parts of a family are, as attribute paths.

    Attributes:
        stack: From the model to the module that runs the blocks in a loop.
        blocks: From the stack to its ``nn.ModuleList`` of blocks.
        finish: From the stack, in order, what is applied between the last block and the head; a
            part that a checkpoint does not have (None) is left out. A path that begins with ``/``
            begins at the model.
        scale: Attribute of the configuration that the logits are multiplied by, if any.
        divisor: Attribute of the configuration that the logits are divided by, if any.
        shrink: What the finished state is multiplied by before the head, from the configuration.
    """

    stack: str
    blocks: str
    finish: tuple[str, ...] = ()
    scale: str | None = None
    divisor: str | None = None
    shrink: Callable[[Any], float] | None = None


def _llama(norm: str = "norm", **scales: Any) -> Layout:
    return Layout(stack="model", blocks="layers", finish=(norm,), **scales)


def _bart(*norm: str, stack: str = "model.decoder") -> Layout:
    return Layout(stack=stack, blocks="layers", finish=norm)


def _gpt2(*norm: str) -> Layout:
    return Layout(stack="transformer", blocks="h", finish=norm)


def _t5(shrink: Callable[[Any], float] | None) -> Layout:
    return Layout(stack="decoder", blocks="block", finish=("final_layer_norm",), shrink=shrink)


def _by_width(setting: str) -> Callable[[Any], float]:
    """T5 and its relatives shrink the state by the root of its width if a setting says so."""
    return lambda config: config.d_model**-0.5 if getattr(config, setting) else 1.0


LAYOUTS: dict[str, Layout] = {
    "bart": _bart(),
    "bigbird_pegasus": _bart("layernorm_embedding"),
    "biogpt": Layout(stack="biogpt", blocks="layers", finish=("layer_norm",)),
    "cohere": _llama(scale="logit_scale"),
    "cohere2": _llama(scale="logit_scale"),
    "cohere2_moe": _llama(scale="logit_scale"),
    "ctrl": _gpt2("layernorm"),
    "falcon_h1": _llama("final_layernorm", scale="lm_head_multiplier"),
    "gpt_neox": Layout(stack="gpt_neox", blocks="layers", finish=("final_layer_norm",)),
    "gpt_neox_japanese": Layout(
        stack="gpt_neox_japanese", blocks="layers", finish=("final_layer_norm",)
    ),
    "granite": _llama(divisor="logits_scaling"),
    "granitemoe": _llama(divisor="logits_scaling"),
    "granitemoehybrid": _llama(divisor="logits_scaling"),
    "granitemoeshared": _llama(divisor="logits_scaling"),
    "inkling_text": _llama(shrink=lambda config: 1 / config.logits_mup_width_multiplier),
    "led": _bart(stack="led.decoder"),
    "longt5": _t5(_by_width("scale_decoder_outputs")),
    "minicpm3": _llama(shrink=lambda config: config.dim_model_base / config.hidden_size),
    "modernbert-decoder": Layout(stack="model", blocks="layers", finish=("final_norm", "/lm_head")),
    "opt": _bart("final_layer_norm", "project_out"),
    "phi": _llama("final_layernorm"),
    "rwkv": Layout(stack="rwkv", blocks="blocks", finish=("ln_out",)),
    "seamless_m4t": _bart("layer_norm", stack="text_decoder"),
    "seamless_m4t_v2": _bart("layer_norm", stack="text_decoder"),
    "switch_transformers": _t5(_by_width("tie_word_embeddings")),
    "t5": _t5(_by_width("scale_decoder_outputs")),
    "umt5": _t5(_by_width("tie_word_embeddings")),
}
"""Families whose parts or logits are not found by ``USUAL`` alone, by ``config.model_type``."""

USUAL: tuple[Layout, ...] = (
    *map(_llama, ("norm", "final_layernorm", "final_layer_norm", "final_norm", "layer_norm")),
    *map(_llama, ("norm_f", "embedding_norm")),
    _gpt2("ln_f"),
    Layout(stack="transformer", blocks="blocks", finish=("norm_f",)),
    Layout(stack="backbone", blocks="layers", finish=("norm_f",)),
    Layout(stack="model.language_model", blocks="layers", finish=("norm",)),
    Layout(stack="model.language_model", blocks="layers", finish=("final_layernorm",)),
    _t5(None),
    _bart("layer_norm"),
    _bart("norm"),
    _bart(),
)
"""Tried in this order for a family without a row; the first whose every part exists is taken."""


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """The parts of one model.

    Attributes:
        stack: The module that runs the blocks in a loop.
        blocks: Its blocks; block i takes exit i to exit i + 1.
        finishers: What is applied between the last block and the head.
        head: The base's vocabulary head.
        scale: The logits are multiplied by this.
        softcap: The logits are squashed to within plus or minus this, if set.
        bias: Added to the logits by the model itself, [1, V], if any (BART).
        listed: The family has been checked by our tests under this layout.
        config: The part of the model's configuration that describes the blocks.
    """

    stack: nn.Module
    blocks: nn.ModuleList
    finishers: tuple[nn.Module, ...]
    head: nn.Module
    scale: float = 1.0
    softcap: float | None = None
    bias: Tensor | None = field(default=None, repr=False)
    listed: bool = True
    config: Any = field(default=None, repr=False)

    @property
    def depth(self) -> int:
        """Number of blocks, L."""
        return len(self.blocks)

    def finish(self, state: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows out"]:
        """Take an exit state to what the head reads: the last norm, and a projection if any."""
        for part in self.finishers:
            state = part(state)
        return state

    def scores(self, logits: Float[Tensor, "*rows tokens"]) -> Float[Tensor, "*rows tokens"]:
        """Apply scale and soft cap to the output of a head; the base's own bias is not included."""
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits


def anatomy_of(model: nn.Module, layout: Layout | None = None) -> Anatomy:
    """Find the parts of a model.

    Args:
        model: A causal LM or encoder-decoder of transformers with a vocabulary head.
        layout: Where the parts are, for a family that is not known here.

    Raises:
        UnknownLayoutError: No layout fits, or the one given does not.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> config = LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8,
        ...     num_hidden_layers=3, num_attention_heads=2)
        >>> anatomy_of(LlamaForCausalLM(config)).depth
        3
    """
    config = _text_config(model)
    listed = LAYOUTS.get(config.model_type)
    candidates = (layout,) if layout else (listed,) if listed else USUAL
    for candidate in candidates:
        found = _parts(model, candidate)
        if found is not None:
            stack, blocks, finishers = found
            return Anatomy(
                stack=stack,
                blocks=blocks,
                finishers=(*finishers, *_shrunk(config, candidate)),
                head=_head(model),
                scale=_scale(config, candidate),
                softcap=_softcap(config),
                bias=getattr(model, "final_logits_bias", None),
                listed=layout is None and _family(model) in CHECKED,
                config=config,
            )
    raise UnknownLayoutError(_refusal(model, candidates))


CHECKED = frozenset(
    {
        *("bart", "bloom", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neo"),
        *("gpt_neox", "llama", "mistral", "olmo2", "opt", "phi", "phi3", "qwen2", "qwen3"),
        *("smollm3", "t5"),
    }
)
"""Families that tests/blocks/test_families.py proves by name; all others are probed at run time."""


def _text_config(model: nn.Module) -> Any:
    config: Any = model.config
    return config.get_text_config(decoder=True) if config.sub_configs else config


def _family(model: Any) -> str:
    return str(model.config.model_type)


def _parts(
    model: nn.Module, layout: Layout
) -> tuple[nn.Module, nn.ModuleList, tuple[nn.Module, ...]] | None:
    try:
        stack = attrgetter(layout.stack)(model)
        blocks = attrgetter(layout.blocks)(stack)
        finishers = [_part(model, stack, path) for path in layout.finish]
    except AttributeError:
        return None
    if not isinstance(blocks, nn.ModuleList) or len(blocks) == 0:
        return None
    return stack, blocks, tuple(part for part in finishers if part is not None)


def _part(model: nn.Module, stack: nn.Module, path: str) -> Any:
    return attrgetter(path.removeprefix("/"))(model if path.startswith("/") else stack)


def _head(model: Any) -> nn.Module:
    head = model.get_output_embeddings()
    if head is None:
        raise UnknownLayoutError(
            f"{type(model).__name__} has no vocabulary head; load it as a causal LM or an "
            "encoder-decoder with a language-model head"
        )
    return head  # type: ignore[no-any-return]


class _Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, state: Tensor) -> Tensor:
        return state * self.factor


def _shrunk(config: Any, layout: Layout) -> tuple[nn.Module, ...]:
    factor = 1.0 if layout.shrink is None else float(layout.shrink(config))
    return () if factor == 1.0 else (_Scale(factor),)


def _softcap(config: Any) -> float | None:
    names = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
    return next((cap for name in names if (cap := getattr(config, name, None))), None)


def _scale(config: Any, layout: Layout) -> float:
    scale = getattr(config, layout.scale) if layout.scale else 1.0
    return float(scale) / float(getattr(config, layout.divisor) if layout.divisor else 1.0)


def _refusal(model: nn.Module, candidates: tuple[Layout, ...]) -> str:
    lists = [
        f"{name} ({len(module)})"
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
    ]
    tried = ", ".join(dict.fromkeys(f"{each.stack}.{each.blocks}" for each in candidates))
    return (
        f"cannot find the blocks of {type(model).__name__}: looked for {tried} and the norm after "
        f"them; this model's lists are {', '.join(lists[:6]) or 'none'}. Name its parts yourself: "
        "layout=Layout(stack='path.to.decoder', blocks='layers', finish=('norm',))"
    )
