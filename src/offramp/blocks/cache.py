"""Roll a key-value cache back, and show some of its blocks as if they were all.

In:  a cache of transformers that grows (``DynamicCache``, ``EncoderDecoderCache`` of two). Out: the
     same cache, shorter; or a view of blocks i to j, for offramp.blocks.span.
Law: a cache rolled back is the cache before (tests/blocks/test_cache.py).
Not here: running blocks (offramp.blocks.span).
"""

from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, EncoderDecoderCache

from offramp.errors import CacheError, ConfigError


def record_(cache: Cache) -> None:
    """Make a cache keep what ``rollback_`` needs; call it before the first token to be taken back.

    Only sliding windows need it: they forget what has left the window.
    """
    growing(cache).activate_past_recording()


def rollback_(cache: Cache, tokens: int, *, start: int = 0, stop: int | None = None) -> None:
    """Forget the last tokens in blocks ``start`` to ``stop`` of a cache; all or nothing.

    Without ``stop``, up to the last block that has seen a token (a cache may have more layers than
    the decoder has blocks, as transformers makes it for T5).
    Sliding windows that were told to ``record_`` are cut back to the window by this, so what was
    seen before is no longer there for a second rollback.

    Raises:
        ConfigError: A negative number of tokens.
        CacheError: The blocks hold fewer, or a window has already dropped what would come back.
    """
    if tokens < 0:
        raise ConfigError(f"cannot take back {tokens} tokens; give 0 or more")
    layers = growing(cache).layers
    if stop is None:
        stop = max((i for i, layer in enumerate(layers, 1) if layer.is_initialized), default=1)
    if tokens and stop > len(layers):
        raise CacheError(f"cannot take back {tokens} tokens: block {len(layers)} has seen 0")
    for index, layer in enumerate(layers[start:stop], start):
        _check_rollback(layer, index, tokens)
    for layer in layers[start:stop]:
        if layer.is_initialized:
            layer.crop(-tokens)


def _check_rollback(layer: Any, index: int, tokens: int) -> None:
    if not getattr(layer, "is_croppable", False):
        raise CacheError(
            f"{type(layer).__name__} of block {index} cannot be rolled back; use a DynamicCache"
        )
    length = layer.get_seq_length()
    if tokens > length:
        raise CacheError(f"cannot take back {tokens} tokens: block {index} has seen {length}")
    window = getattr(layer, "sliding_window", None)
    if window is None or length < window or tokens == 0:
        return
    if layer.keys.shape[-2] - tokens < min(length - tokens, window - 1):
        raise CacheError(
            f"cannot take back {tokens} tokens: block {index} has a window of {window} and has "
            "dropped what came before; call record_(cache) before the tokens that may be taken "
            "back, and take back no more than came since the last rollback"
        )


def view_of(cache: Cache | None, start: int, stop: int) -> tuple[Any, int]:
    """Show the blocks of the span as if they were all there is, so that masks get their lengths.

    Returns:
        The view, and how many tokens its blocks have seen; of no block, what the next has seen.

    Raises:
        CacheError: They have seen different numbers, or one cannot grow.
    """
    if cache is None:
        return None, 0
    stop = max(stop, start + 1)
    layers = growing(cache).layers[start:stop]
    for layer in layers:
        if not isinstance(layer, DynamicLayer):
            raise CacheError(f"spans need a DynamicCache, got a {type(layer).__name__} in it")
    lengths = {layer.get_seq_length() for layer in layers}
    if len(layers) < stop - start:
        lengths.add(0)
    if len(lengths) > 1:
        raise CacheError(
            f"blocks {start} to {stop - 1} have seen {sorted(lengths)} tokens; fill the shorter "
            "ones first, in a span of their own"
        )
    view: Any = Cache(layers=layers)
    if isinstance(cache, EncoderDecoderCache):
        view = EncoderDecoderCache(view, cache.cross_attention_cache)
    return view, max(lengths)


def check_context(
    inputs: dict[str, Any], cache: Cache | None, view: Any, *, new_tokens: int, by_place: bool
) -> None:
    """Refuse what the family's loop would take and quietly read otherwise than meant.

    Args:
        inputs: What the loop will get.
        cache: The cache that the blocks will get.
        view: What ``view_of`` made of it.
        new_tokens: T.
        by_place: The family tells positions by places in the cache, whatever it is given.

    Raises:
        ConfigError: The attention mask is for another number of tokens.
        CacheError: A plain cache for an encoder-decoder; hidden places that would be counted.
    """
    crossed = inputs.get("encoder_hidden_states") is not None
    if crossed and cache is not None and not isinstance(cache, EncoderDecoderCache):
        raise CacheError(
            f"an encoder-decoder needs an EncoderDecoderCache, got {type(cache).__name__}"
        )
    mask = inputs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        return
    past = 0 if view is None else growing(view).get_seq_length()
    if mask.shape[1] != past + new_tokens:
        raise ConfigError(
            f"attention_mask is for {mask.shape[1]} tokens, but the blocks of this span have seen "
            f"{past} and get {new_tokens}; give it {past + new_tokens} columns"
        )
    layers = [] if view is None else growing(view).layers
    windows = [getattr(layer, "sliding_window", None) for layer in layers]
    counted = by_place or any(window and past + new_tokens > window for window in windows)
    if counted and _holes(mask):
        raise CacheError(
            "attention_mask hides places between tokens of a row, and this family's sliding "
            "windows or positions count them; bring each row's tokens together in the cache, "
            "hidden places first"
        )


def _holes(mask: Int[Tensor, "batch seq"] | Bool[Tensor, "batch seq"]) -> bool:
    seen = mask.bool()
    before, after = seen.cumsum(-1) > 0, seen.flip(-1).cumsum(-1).flip(-1) > 0
    return bool((before & after & ~seen).any())


def growing(cache: Any) -> Any:
    """Give the self-attention part of a cache, which is all that grows."""
    return cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
