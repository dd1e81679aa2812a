"""A cache rolled back is the cache before, after any steps; what would be wrong is refused."""

import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache, StaticCache

import tiny
from blocks.texts import (
    DEPTH,
    NAMES,
    WINDOWED,
    assert_same,
    assert_same_cache,
    model_of,
    new_cache,
    own_states,
    span_of,
    text_of,
)
from offramp.blocks.anatomy import CHECKED
from offramp.blocks.cache import growing, record_, rollback_
from offramp.blocks.span import BY_PLACE
from offramp.errors import CacheError, ConfigError


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_cache_rolled_back_is_the_cache_before(name, padded):
    span, text = span_of(name), text_of(name, padded=padded)
    before = new_cache(name)
    own_states(text, [(0, 8)], before)
    cache = new_cache(name)
    record_(cache)
    depth = span.anatomy.depth
    span.run(None, 0, depth, cache=cache, **text.at(0, 8))
    span.run(None, 0, depth, cache=cache, **text.at(8, 11))

    rollback_(cache, 3)

    assert_same_cache(cache, before)
    again = span.run(None, 0, depth, cache=cache, **text.at(8, text.length))
    assert_same(again, own_states(text, [(8, text.length)], before)[-1])


@pytest.mark.parametrize("name", WINDOWED)
def test_the_windows_of_these_families_are_in_the_cache_and_exceeded(name):
    windows = [getattr(layer, "sliding_window", None) for layer in new_cache(name).layers]

    assert tiny.WINDOW in windows
    assert text_of(name).length > 2 * tiny.WINDOW


@pytest.mark.parametrize("name", WINDOWED)
def test_a_window_that_does_not_record_refuses_to_roll_back_and_stays_as_it_was(name):
    span, text, cache, before = span_of(name), text_of(name), new_cache(name), new_cache(name)
    span.run(None, 0, DEPTH, cache=cache, **text.at(0, 9))
    span.run(None, 0, DEPTH, cache=before, **text.at(0, 9))

    with pytest.raises(CacheError, match=r"window of 6 and has dropped.*record_\(cache\)"):
        rollback_(cache, 2)

    assert_same_cache(cache, before)


def test_a_second_rollback_beyond_what_came_since_the_first_is_refused():
    span, text, cache = span_of("mistral"), text_of("mistral"), new_cache("mistral")
    record_(cache)
    span.run(None, 0, DEPTH, cache=cache, **text.at(0, 12))
    rollback_(cache, 2)
    span.run(None, 0, DEPTH, cache=cache, **text.at(10, 11))

    with pytest.raises(CacheError, match="no more than came since the last rollback"):
        rollback_(cache, 2)

    rollback_(cache, 1)
    assert cache.get_seq_length() == 10


@pytest.mark.parametrize("name", sorted(CHECKED - BY_PLACE))
def test_a_hidden_place_leaves_no_trace(name):
    """So rows may keep what they rejected in the cache, if it is hidden and positions are given."""
    span, text = span_of(name), text_of(name, rows=1, length=6)
    takes = inspect.signature(span.anatomy.stack.forward).parameters
    mask = torch.ones(1, 6, dtype=torch.long)
    mask[0, 2:4] = 0
    positions = torch.tensor([[0, 1, 1, 1, 2, 3]])
    shown = mask.bool()[0]
    cache = new_cache(name)

    told = []
    for start, stop in ((0, 4), (4, 5), (5, 6)):
        inputs = {"input_ids": text.ids[:, start:stop], "attention_mask": mask[:, :stop]}
        if "position_ids" in takes:
            inputs["position_ids"] = positions[:, start:stop]
        told.append(span.run(None, 0, DEPTH, cache=cache, **inputs))

    own = span.run(None, 0, DEPTH, input_ids=text.ids[:, shown])
    assert_same(torch.cat(told, 1)[:, shown], own)


@pytest.mark.parametrize("name", ["t5", "bart", "gpt_neo", "mistral", "cohere2"])
def test_hidden_places_that_would_be_counted_are_refused(name):
    span, text, cache = span_of(name), text_of(name, rows=1), new_cache(name)
    span.run(None, 0, DEPTH, cache=cache, **text.at(0, 8))
    mask = torch.ones(1, 9, dtype=torch.long)
    mask[0, 5] = 0

    with pytest.raises(CacheError, match="hides places between tokens"):
        span.run(None, 0, DEPTH, cache=cache, **{**text.at(8, 9), "attention_mask": mask})


class FullModel:
    """What the whole model would have made of the tokens that are left."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = text_of(name, length=60, padded=True)
        self.span, self.cache, self.k = span_of(name), new_cache(name), 2
        self.tokens, self.pending, self.since_rollback = 0, [], 0
        record_(self.cache)

    def shallow(self) -> None:
        at = self.tokens
        inputs = self.text.at(at, at + 1)
        self.pending.append(self.span.run(None, 0, self.k, cache=self.cache, **inputs))
        self.tokens, self.since_rollback = at + 1, self.since_rollback + 1

    def fill(self) -> None:
        if not self.pending:
            return
        start = self.tokens - len(self.pending)
        rest = self.text.at(start, self.tokens, embed=False)
        states = torch.cat(self.pending, 1)
        last = self.span.run(states, self.k, DEPTH, cache=self.cache, **rest)
        self.pending = []
        own = own_states(self.text, [(0, self.tokens)])[-1]
        shown = self.text.mask[:, start : self.tokens].bool()
        assert_same(last[shown], own[:, start:][shown])

    def deep(self) -> None:
        self.shallow()
        self.fill()

    def rollback(self, wanted: int) -> None:
        tokens = min(wanted, self.since_rollback)
        deep = max(tokens - len(self.pending), 0)
        rollback_(self.cache, tokens, stop=self.k)
        if deep:
            rollback_(self.cache, deep, start=self.k, stop=DEPTH)
        self.pending = self.pending[: max(len(self.pending) - tokens, 0)]
        self.tokens, self.since_rollback = self.tokens - tokens, 0


moves = st.lists(
    st.sampled_from([("deep", 0), ("shallow", 0), ("fill", 0), *(("back", n) for n in (1, 2, 5))]),
    min_size=4,
    max_size=24,
)


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt2"])
@given(plan=moves)
def test_any_order_of_steps_leaves_the_full_model_cache(name, plan):
    run = FullModel(name)

    for move, tokens in plan:
        run.rollback(tokens) if move == "back" else getattr(run, move)()
    run.deep()

    own = new_cache(name)
    own_states(run.text, [(0, run.tokens)], own)
    assert_same_cache(run.cache, own)


def test_a_cache_that_grows_its_list_of_layers_works():
    span, text, cache = span_of("llama"), text_of("llama"), DynamicCache()
    own = own_states(text, [(0, 6)])[-1]

    middle = span.run(None, 0, 2, cache=cache, **text.at(0, 6))
    last = span.run(middle, 2, DEPTH, cache=cache, **text.at(0, 6, embed=False))

    assert_same(last, own)


def test_blocks_that_have_seen_different_numbers_of_tokens_are_refused():
    span, text, cache = span_of("llama"), text_of("llama"), new_cache("llama")
    span.run(None, 0, 2, cache=cache, **text.at(0, 5))

    with pytest.raises(CacheError, match=r"have seen \[0, 5\] tokens; fill the shorter"):
        span.run(None, 0, DEPTH, cache=cache, **text.at(5, 6))


def test_a_list_of_layers_that_has_not_grown_yet_has_seen_nothing():
    span, text, cache = span_of("llama"), text_of("llama"), DynamicCache()
    span.run(None, 0, 2, cache=cache, **text.at(0, 5))

    with pytest.raises(CacheError, match=r"have seen \[0, 5\] tokens"):
        span.run(None, 0, DEPTH, cache=cache, **text.at(5, 6))
    with pytest.raises(CacheError, match="block 2 has seen 0"):
        rollback_(cache, 1, stop=DEPTH)


def test_a_mask_for_another_number_of_tokens_is_refused():
    span, text, cache = span_of("llama"), text_of("llama", padded=True), new_cache("llama")
    span.run(None, 0, DEPTH, cache=cache, **text.at(0, 5))

    with pytest.raises(ConfigError, match=r"is for 1 tokens.*give it 6 columns"):
        span.run(
            None, 0, 2, cache=cache, input_ids=text.ids[:, 5:6], attention_mask=text.mask[:, 5:6]
        )


def test_a_plain_cache_for_an_encoder_decoder_is_refused():
    text = text_of("t5")

    with pytest.raises(CacheError, match="needs an EncoderDecoderCache, got DynamicCache"):
        span_of("t5").run(None, 0, 2, cache=DynamicCache(), **text.at(0, 3))


def test_a_static_cache_is_refused():
    cache = StaticCache(config=model_of("llama").config, max_cache_len=20)

    with pytest.raises(CacheError, match="need a DynamicCache, got a StaticLayer"):
        span_of("llama").run(None, 0, 2, cache=cache, **text_of("llama").at(0, 3))
    with pytest.raises(CacheError, match="cannot be rolled back; use a DynamicCache"):
        rollback_(cache, 1)


@pytest.mark.parametrize("tokens", [-1, 4])
def test_taking_back_what_is_not_there_is_refused(tokens):
    span, text, cache = span_of("llama"), text_of("llama"), new_cache("llama")
    span.run(None, 0, DEPTH, cache=cache, **text.at(0, 3))

    with pytest.raises((ConfigError, CacheError), match="cannot take back"):
        rollback_(cache, tokens)


@pytest.mark.parametrize("name", ["mistral", "llama", "t5"])
def test_taking_back_nothing_from_an_empty_cache_is_allowed(name):
    cache = new_cache(name)

    rollback_(cache, 0)

    assert growing(cache).layers[0].get_seq_length() == 0
