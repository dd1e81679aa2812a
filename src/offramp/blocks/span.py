"""Run blocks i to j against a cache, roll it back, fill later what was skipped.

In:  tokens or the state of exit i. Out: the state of exit j, and the cache of those blocks grown.
Law: run(0, k) then run(k, L) is the model's own forward, with cache and without, padded or not; a
     cache rolled back is the cache before; rows filled later leave the cache as if they had been
     run at once (tests/blocks/test_span.py, for every family by name).
Not here: when to stop (offramp.decoding), reading a state (offramp.blocks.projections).

How: the family's own loop builds masks, positions and whatever else its blocks take. ``run`` lets
that loop go over the blocks once with their forwards replaced by ones that only note their
arguments, over a cache that shows the lengths of blocks i to j, and then calls the blocks of the
span with the arguments noted. So no family's masks are written again here. The noting costs one
pass of Python over the blocks and no block.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache, EncoderDecoderCache

from offramp.blocks.anatomy import Anatomy
from offramp.blocks.watch import BlockCall, call_of, replaced_forward, state_of
from offramp.errors import CacheError, ConfigError


class Span:
    """Runs parts of one model.

    Args:
        anatomy: The model's parts.

    Raises:
        ConfigError: Blocks of this model carry a state that cannot be rolled back or filled.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self._output_length: int | None = None
        for block in anatomy.blocks:
            _refuse_recurrent(block)

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
            **inputs: What the family's decoder takes besides: ``input_ids`` [B, T] (needed at
                exit 0), ``attention_mask`` [B, past + T] with the past of *these* blocks,
                ``position_ids``, and for encoder-decoders ``encoder_hidden_states``,
                ``encoder_attention_mask``.

        Raises:
            ConfigError: The span does not lie within the model, or there is nothing to start from.
            CacheError: The blocks of the span have seen different numbers of tokens.
        """
        anatomy = self.anatomy
        if not 0 <= start <= stop <= anatomy.depth:
            raise ConfigError(
                f"no span from exit {start} to {stop}; the model has exits 0 to {anatomy.depth}, "
                "and a span goes upwards"
            )
        if state is None and (start > 0 or "input_ids" not in inputs):
            raise ConfigError(
                f"run from exit {start} needs its state" + (" or input_ids" if start == 0 else "")
            )
        if state is not None:
            inputs = {**inputs, "input_ids": None, "inputs_embeds": self._stand_in(state)}
        view = _part(cache, start, stop)
        first, calls = self._note_calls({**inputs, "past_key_values": view, "use_cache": cache is not None})
        current = first if state is None else state
        carried: tuple[Any, ...] = self._carried(start, current, cache, calls)
        for index in range(start, stop):
            args, named = _with_cache(calls[index], view, cache)
            output = anatomy.blocks[index](current, *_carry(args, carried), **named)
            current = state_of(output)
            carried = output[1:] if isinstance(output, tuple) and len(output) == 3 else ()
        return current

    def embed(self, **inputs: Any) -> Float[Tensor, "batch seq width"]:
        """Give exit 0, the state before the first block; inputs as in ``run``."""
        return self.run(None, 0, 0, **inputs)

    def _note_calls(
        self, inputs: dict[str, Any]
    ) -> tuple[Float[Tensor, "batch seq width"], list[BlockCall]]:
        """Let the family's loop go over the blocks without running them."""
        if self._output_length is None:
            self._output_length = self._learn_output(inputs)
        length = self._output_length
        states: list[Tensor] = []
        calls: list[BlockCall] = []

        def note(*args: Any, **named: Any) -> Any:
            state = args[0] if args else named["hidden_states"]
            states.append(state)
            calls.append(call_of(args, named))
            return state if length == 0 else (state, *[None] * (length - 1))

        with replaced_forward(self.anatomy.blocks, note):
            self.anatomy.stack(**inputs)
        return states[0], calls

    def _learn_output(self, inputs: dict[str, Any]) -> int:
        """See once whether blocks give a tensor (0) or a tuple (its length), by running block 0."""
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
        return seen[0]

    def _stand_in(self, state: Float[Tensor, "batch seq width"]) -> Tensor:
        """Embeddings of the right shape for the family's loop; their values are not used."""
        embeddings = self.anatomy.stack.get_input_embeddings()
        width = getattr(embeddings, "embedding_dim", state.shape[-1])
        return state.new_zeros(*state.shape[:-1], width)

    def _carried(
        self, start: int, state: Tensor, cache: Cache | None, calls: Sequence[BlockCall]
    ) -> tuple[Any, ...]:
        """Give what T5's first block hands to all others, for a span that starts above it."""
        owner = getattr(self.anatomy.blocks[0], "layer", None)
        attention = getattr(owner[0], "SelfAttention", None) if owner is not None else None
        shared = attention is not None and not getattr(
            self.anatomy.blocks[-1].layer[0].SelfAttention, "has_relative_attention_bias", True  # type: ignore[union-attr,index]
        )
        if start == 0 or not shared:
            return ()
        past = 0 if cache is None else cache.get_seq_length(start)
        length = state.shape[1]
        bias = attention.compute_bias(  # type: ignore[union-attr]
            length, past + length, device=state.device, past_seen_tokens=past
        )
        return (bias, None)


def record_(cache: Cache) -> None:
    """Make a cache keep what ``rollback_`` needs; call it before the first token to be taken back.

    Only sliding windows need it: they forget what has left the window.
    """
    for part in _parts(cache):
        part.activate_past_recording()


def rollback_(cache: Cache, tokens: int, *, start: int = 0, stop: int | None = None) -> None:
    """Forget the last tokens in blocks ``start`` to ``stop`` of a cache.

    Raises:
        ConfigError: A negative number of tokens.
        CacheError: The blocks hold fewer, or a window has already dropped what would come back.
    """
    if tokens < 0:
        raise ConfigError(f"cannot take back {tokens} tokens; give 0 or more")
    layers = _parts(cache)[0].layers[start:stop]
    for index, layer in enumerate(layers, start):
        if not getattr(layer, "is_croppable", False):
            raise CacheError(
                f"{type(layer).__name__} of block {index} cannot be rolled back; use a DynamicCache"
            )
        length = layer.get_seq_length()
        if tokens > length:
            raise CacheError(f"cannot take back {tokens} tokens: block {index} has seen {length}")
        window = getattr(layer, "sliding_window", None)
        if window is not None and length >= window and not layer.record_past:
            raise CacheError(
                f"block {index} has a window of {window} and has dropped what came before; call "
                "record_(cache) before the tokens that may be taken back"
            )
    for layer in layers:
        layer.crop(-tokens)


class _Learnt(Exception):  # noqa: N818 - not an error: it ends a forward early
    pass


def _parts(cache: Any) -> tuple[Any, ...]:
    """The self-attention part of a cache, which is all that grows."""
    return (cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache,)


def _part(cache: Cache | None, start: int, stop: int) -> Any:
    """Show the blocks of the span as if they were all there is, so that masks get their lengths."""
    if cache is None or start == stop:
        return cache
    layers = _parts(cache)[0].layers
    lengths = {layer.get_seq_length() for layer in layers[start:stop]}
    if len(lengths) > 1:
        raise CacheError(
            f"blocks {start} to {stop - 1} have seen {sorted(lengths)} tokens; fill the shorter "
            "ones first, in a span of their own"
        )
    part: Any = Cache(layers=layers[start:stop]) if layers[start:stop] else Cache(layers=[])
    if isinstance(cache, EncoderDecoderCache):
        return EncoderDecoderCache(part, cache.cross_attention_cache)
    return part


def _with_cache(call: BlockCall, view: Any, cache: Any) -> BlockCall:
    """Put the real cache where the family's loop was shown a part of it."""
    args, named = call
    return (
        tuple(cache if value is view and view is not None else value for value in args),
        {
            name: cache if value is view and view is not None else value
            for name, value in named.items()
        },
    )


def _carry(args: tuple[Any, ...], carried: tuple[Any, ...]) -> tuple[Any, ...]:
    """Put T5's position biases, made by an earlier block, where its loop would have put them."""
    if not carried:
        return args
    mask, _, encoder_states, encoder_mask, _, *rest = args
    return (mask, carried[0], encoder_states, encoder_mask, carried[1], *rest)


def _refuse_recurrent(block: nn.Module) -> None:
    for name, module in block.named_modules():
        kind = type(module).__name__.lower()
        if any(word in kind for word in ("mamba", "deltanet", "shortconv", "recurrent", "linearatt")):
            raise ConfigError(
                f"blocks hold a recurrent or convolution layer ({name}: {type(module).__name__}), "
                "whose state cannot be rolled back or filled later; spans need attention layers"
            )
