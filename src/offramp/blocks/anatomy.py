"""Find where a transformers model keeps its blocks, its last norm and its head.

In:  a causal LM or an encoder-decoder of transformers. Out: an ``Anatomy``, the only thing that the
     rest of offramp knows about a family.
Law: finish(exit L) through the head, scale and soft cap equals the model's own logits; checked for
     every family in tests/blocks/test_families.py, and once at run time for a layout that nobody
     has listed (offramp.models.multiexit).
Not here: running blocks (offramp.blocks.span), catching states (offramp.blocks.watch).

To add a family: if its parts have the usual names nothing is needed; else add a row to ``LAYOUTS``.
"""

from collections.abc import Sequence
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
            part that a checkpoint does not have (None) is left out.
        scale: Attribute of the configuration that the logits are multiplied by, if any.
        divisor: Attribute of the configuration that the logits are divided by, if any.
    """

    stack: str
    blocks: str
    finish: tuple[str, ...] = ()
    scale: str | None = None
    divisor: str | None = None


_LLAMA = Layout(stack="model", blocks="layers", finish=("norm",))
_GPT2 = Layout(stack="transformer", blocks="h", finish=("ln_f",))
_BART = Layout(stack="model.decoder", blocks="layers", finish=("layer_norm",))

LAYOUTS: dict[str, Layout] = {
    "gpt_neox": Layout(stack="gpt_neox", blocks="layers", finish=("final_layer_norm",)),
    "opt": Layout(
        stack="model.decoder", blocks="layers", finish=("final_layer_norm", "project_out")
    ),
    "mpt": Layout(stack="transformer", blocks="blocks", finish=("norm_f",)),
    "phi": Layout(stack="model", blocks="layers", finish=("final_layernorm",)),
    "cohere": Layout(stack="model", blocks="layers", finish=("norm",), scale="logit_scale"),
    "cohere2": Layout(stack="model", blocks="layers", finish=("norm",), scale="logit_scale"),
    "granite": Layout(stack="model", blocks="layers", finish=("norm",), divisor="logits_scaling"),
    "granitemoe": Layout(
        stack="model", blocks="layers", finish=("norm",), divisor="logits_scaling"
    ),
    "biogpt": Layout(stack="biogpt", blocks="layers", finish=("layer_norm",)),
    "bart": _BART,
    "t5": Layout(stack="decoder", blocks="block", finish=("final_layer_norm",)),
}
"""Families whose parts or logits are not found by ``USUAL`` alone, by ``config.model_type``."""

USUAL: tuple[Layout, ...] = (
    _LLAMA,
    Layout(stack="model", blocks="layers", finish=("final_layernorm",)),
    Layout(stack="model", blocks="layers", finish=("final_layer_norm",)),
    Layout(stack="model", blocks="layers", finish=("final_norm",)),
    _GPT2,
    Layout(stack="transformer", blocks="blocks", finish=("norm_f",)),
    Layout(stack="backbone", blocks="layers", finish=("norm_f",)),
    Layout(stack="decoder", blocks="block", finish=("final_layer_norm",)),
    _BART,
    Layout(stack="model.decoder", blocks="layers"),
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
    """

    stack: nn.Module
    blocks: Sequence[nn.Module]
    finishers: tuple[nn.Module, ...]
    head: nn.Module
    scale: float = 1.0
    softcap: float | None = None
    bias: Tensor | None = field(default=None, repr=False)
    listed: bool = True

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
                finishers=(*finishers, *_scaled_state(config)),
                head=_head(model),
                scale=_scale(config, candidate),
                softcap=getattr(config, "final_logit_softcapping", None),
                bias=getattr(model, "final_logits_bias", None),
                listed=layout is None and config.model_type in CHECKED,
            )
    raise UnknownLayoutError(_refusal(model, candidates))


CHECKED = frozenset(
    "bart bloom falcon gemma gemma2 gemma3_text gpt2 gpt_neo gpt_neox llama mistral olmo2 opt phi "
    "phi3 qwen2 qwen3 smollm3 t5".split()
)
"""Families that tests/blocks/test_families.py proves by name; all others are probed at run time."""


def _text_config(model: nn.Module) -> Any:
    config: Any = model.config
    return config.get_text_config(decoder=True)


def _parts(
    model: nn.Module, layout: Layout
) -> tuple[nn.Module, nn.ModuleList, tuple[nn.Module, ...]] | None:
    try:
        stack = attrgetter(layout.stack)(model)
        blocks = attrgetter(layout.blocks)(stack)
        finishers = [attrgetter(path)(stack) for path in layout.finish if _has(stack, path, layout)]
    except AttributeError:
        return None
    if not isinstance(blocks, nn.ModuleList) or len(blocks) == 0:
        return None
    return stack, blocks, tuple(part for part in finishers if part is not None)


def _has(stack: nn.Module, path: str, layout: Layout) -> bool:
    """BART has no last norm where its relatives have one; no other family may lack a part."""
    return layout is not _BART or hasattr(stack, path)


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


def _scaled_state(config: Any) -> tuple[nn.Module, ...]:
    """T5 with tied embeddings scales the state, not the logits."""
    scaled = getattr(config, "scale_decoder_outputs", False)
    return (_Scale(config.d_model**-0.5),) if scaled else ()


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
