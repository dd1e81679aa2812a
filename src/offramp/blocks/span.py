"""Run blocks i to j against a cache, and fill later what was skipped.

In:  tokens or the state of exit i. Out: the state of exit j, and the cache of those blocks grown.
Law: run(0, k) then run(k, L) is the model's own forward, with cache and without, padded or not;
     tokens filled later leave the cache as if they had been run at once
     (tests/blocks/test_span.py, for every family by name).
Not here: rolling a cache back (offramp.blocks.cache), when to stop (offramp.decoding), reading a
     state (offramp.blocks.projections).

How: the family's own loop builds masks, positions and whatever else its blocks take. ``run`` lets
that loop go over the blocks once with their forwards replaced by ones that only note their
arguments, over a cache that shows the lengths of blocks i to j, and then calls the blocks of the
span with the arguments noted. So no family's masks are written again here. The noting costs one
pass of Python over the blocks and no block. A family that our tests do not name is probed once.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    LinearAttentionCacheLayerMixin,
)

from offramp.blocks.anatomy import Anatomy
from offramp.blocks.cache import check_context, view_of
from offramp.blocks.watch import BlockCall, call_of, replaced_forward, state_of
from offramp.errors import CacheError, ConfigError, OfframpError

BY_PLACE = frozenset({"bart", "gpt_neo", "t5"})
"""Families that count places in the cache: learnt or relative positions, or a window of their own.

In all others of ``CHECKED`` a hidden place leaves no trace, given ``position_ids``
(tests/blocks/test_cache.py); of families not named there it is not known.
"""


class Span:
    """Runs parts of one model.

    Args:
        anatomy: The model's parts.

    Raises:
        ConfigError: Blocks of this model keep more than keys and values, or hand more to each other
            than the state, so that a span of them is not the model's own forward.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from offramp.blocks.anatomy import anatomy_of
        >>> config = LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8,
        ...     num_hidden_layers=3, num_attention_heads=2)
        >>> span = Span(anatomy_of(LlamaForCausalLM(config)))
        >>> state = span.run(None, 0, 2, input_ids=torch.tensor([[1, 5, 3]]))
        >>> span.run(state, 2, 3).shape
        torch.Size([1, 3, 8])
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self._output_lengths: dict[bool, int] = {}
        self._by_place = not anatomy.listed or anatomy.config.model_type in BY_PLACE
        _refuse_recurrent(anatomy)
        if not anatomy.listed:
            self._probe()

    def run(
        self,
        state: Float[Tensor, "batch seq width"] | None,
        start: int,
        stop: int,
        *,
        cache: Cache | None = None,
        **inputs: Any,
    ) -> Float[Tensor, "batch seq width"]:
        """Take exit ``start`` to exit ``stop``.

        Args:
            state: State of exit ``start`` for T new tokens, [B, T, D]; None at 0, where
                ``input_ids`` are embedded.
            start: First block to run, 0 to L.
            stop: First block not to run, ``start`` to L.
            cache: Grows by T in these blocks only. The others may be ahead or behind.
            **inputs: What the family's decoder takes besides: ``input_ids`` [B, T] of these tokens
                (needed at exit 0, and above it by families whose blocks read them, as Gemma 4's),
                ``attention_mask`` [B, past + T] with the past of *these* blocks, ``position_ids``,
                and for encoder-decoders ``encoder_hidden_states``, ``encoder_attention_mask``.

        Raises:
            ConfigError: The span does not lie within the model, or there is nothing to start from,
                or the mask is for another number of tokens.
            CacheError: The blocks of the span have seen different numbers of tokens, or the cache
                is of a kind that cannot be shown in part.
        """
        anatomy = self.anatomy
        if not 0 <= start <= stop <= anatomy.depth:
            raise ConfigError(
                f"no span from exit {start} to {stop}; the model has exits 0 to {anatomy.depth}, "
                "and a span goes upwards"
            )
        if state is None and (start > 0 or inputs.get("input_ids") is None):
            raise ConfigError(
                f"run from exit {start} needs its state" + (" or input_ids" if start == 0 else "")
            )
        if state is not None and start == stop:
            return state
        view, past = view_of(cache, start, stop)
        length = (inputs["input_ids"] if state is None else state).shape[1]
        check_context(inputs, cache, view, new_tokens=length, by_place=self._by_place)
        if inputs.get("input_ids") is None and state is not None:
            inputs = {**inputs, "input_ids": None, "inputs_embeds": self._stand_in(state)}
        use_cache = cache is not None
        first, calls = self._note_calls({**inputs, "past_key_values": view, "use_cache": use_cache})
        current = first if state is None else state
        bias = self._shared_bias(length, past=past, device=current.device)
        for index in range(start, stop):
            args, named = _with_cache(calls[index], view, cache)
            if bias is not None:
                args = (args[0], bias, *args[2:])
            current = state_of(anatomy.blocks[index](current, *args, **named))
        return current

    def embed(self, **inputs: Any) -> Float[Tensor, "batch seq width"]:
        """Give exit 0, the state before the first block; inputs as in ``run``."""
        return self.run(None, 0, 0, **inputs)

    def _note_calls(
        self, inputs: dict[str, Any]
    ) -> tuple[Float[Tensor, "batch seq width"], list[BlockCall]]:
        """Let the family's loop go over the blocks without running them.

        Raises:
            ConfigError: The loop does not go over the blocks once.
        """
        crossed = inputs.get("encoder_hidden_states") is not None
        if crossed not in self._output_lengths:
            self._output_lengths[crossed] = self._learn_output(inputs)
        length = self._output_lengths[crossed]
        states: list[Tensor] = []
        calls: list[BlockCall] = []

        def note(*args: Any, **named: Any) -> Any:
            state = args[0] if args else named["hidden_states"]
            states.append(state)
            calls.append(call_of(args, named))
            return state if length == 0 else (state, *[None] * (length - 1))

        with replaced_forward(self.anatomy.blocks, note):
            self.anatomy.stack(**inputs)
        if len(calls) != self.anatomy.depth:
            raise ConfigError(
                f"{type(self.anatomy.stack).__name__} called its {self.anatomy.depth} blocks "
                f"{len(calls)} times in one pass; spans need each to be called once (no layerdrop)"
            )
        return states[0], calls

    def _learn_output(self, inputs: dict[str, Any]) -> int:
        """See whether blocks give a tensor (0) or a tuple (its length), by running block 0."""
        seen: list[int] = []

        def stop(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            seen.append(len(output) if isinstance(output, tuple) else 0)
            raise _Learnt

        handle = self.anatomy.blocks[0].register_forward_hook(stop)
        try:
            without = {**inputs, "past_key_values": None, "use_cache": False}
            mask = inputs.get("attention_mask")
            if isinstance(mask, Tensor) and mask.dim() == 2:
                tokens = inputs.get("input_ids")
                width = (inputs["inputs_embeds"] if tokens is None else tokens).shape[1]
                without["attention_mask"] = mask[:, -width:]
            self.anatomy.stack(**without)
        except _Learnt:
            pass
        finally:
            handle.remove()
        return seen[0] if seen else 0

    def _stand_in(self, state: Float[Tensor, "batch seq width"]) -> Tensor:
        """Embeddings of the right shape for the family's loop, which must not use their values."""
        embeddings = self.anatomy.stack.get_input_embeddings()  # type: ignore[operator]
        width = getattr(embeddings, "embedding_dim", state.shape[-1])
        return state.new_full((*state.shape[:-1], width), torch.nan)

    def _shared_bias(self, length: int, *, past: int, device: torch.device) -> Tensor | None:
        """Give the position bias that T5's first block makes for all others; None elsewhere."""
        first, last = (_t5_attention(self.anatomy.blocks[index]) for index in (0, -1))
        if not getattr(first, "has_relative_attention_bias", False):
            return None
        if last.has_relative_attention_bias and last is not first:  # UMT5: each has its own
            return None
        bias: Tensor = first.compute_bias(
            length, past + length, device=device, past_seen_tokens=past
        )
        return bias

    def _probe(self) -> None:
        """Run four tokens in spans, with a cache: the last state must be the family's own.

        Raises:
            ConfigError: It is not.
        """
        stack = self.anatomy.stack
        was_training = stack.training
        stack.eval()
        try:
            with torch.no_grad():
                same = self._keeps_the_law()
        except OfframpError:
            raise
        except Exception as error:  # whatever the family's own code makes of it
            raise _no_spans(self.anatomy, f"{type(error).__name__}: {error}") from error
        finally:
            stack.train(was_training)
        if not same:
            raise _no_spans(self.anatomy, "run in two spans, they give another state")

    def _keeps_the_law(self) -> bool:
        anatomy = self.anatomy
        tokens = torch.arange(1, 5, device=anatomy.head.weight.device)[None]  # type: ignore[arg-type]
        parts = (tokens[:, :3], tokens[:, 3:])
        own: list[Tensor] = []
        cache = DynamicCache(config=anatomy.config)
        handle = anatomy.blocks[-1].register_forward_hook(
            lambda _, __, output: own.append(state_of(output))
        )
        try:
            for part in parts:
                anatomy.stack(input_ids=part, past_key_values=cache, use_cache=True)
        finally:
            handle.remove()
        cache = DynamicCache(config=anatomy.config)
        for part, state in zip(parts, own, strict=True):
            middle = self.run(None, 0, 1, input_ids=part, cache=cache)
            told = self.run(middle, 1, anatomy.depth, input_ids=part, cache=cache)
            if not torch.allclose(told, state, rtol=1e-3, atol=1e-3):
                return False
        return True


class _Learnt(Exception):  # noqa: N818 - not an error: it ends a forward early
    pass


def _with_cache(call: BlockCall, view: Any, cache: Any) -> BlockCall:
    """Put the real cache where the family's loop was shown a part of it."""
    if cache is None:
        return call
    args, named = call
    if not any(value is view for value in (*args, *named.values())):
        raise CacheError("this model does not hand the cache to its blocks; run spans without one")
    return (
        tuple(cache if value is view else value for value in args),
        {name: cache if value is view else value for name, value in named.items()},
    )


def _t5_attention(block: nn.Module) -> Any:
    parts: Sequence[nn.Module] = getattr(block, "layer", None) or (block,)
    return getattr(parts[0], "SelfAttention", None)


def _refuse_recurrent(anatomy: Anatomy) -> None:
    kept = {
        type(layer).__name__
        for layer in DynamicCache(config=anatomy.config).layers
        if not isinstance(layer, DynamicLayer) or isinstance(layer, LinearAttentionCacheLayerMixin)
    }
    if "past_key_values" not in inspect.signature(anatomy.stack.forward).parameters:
        kept.add("a state of its own")
    if kept:
        raise ConfigError(
            f"blocks of {type(anatomy.stack).__name__} keep {', '.join(sorted(kept))} beside keys "
            "and values, which cannot be rolled back or filled later; spans need attention layers"
        )


def _no_spans(anatomy: Anatomy, reason: str) -> ConfigError:
    return ConfigError(
        f"blocks of {type(anatomy.stack).__name__} take more than the state of the block before: "
        f"{reason[:120]}; its exits work, spans of its blocks do not"
    )
