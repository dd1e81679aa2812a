"""Law 2 and the cache's part of law 4, by family: spans are the model's own forward.

The reference is always the family's own forward with its own cache, on the same tokens in the same
steps. Windows are of 6 tokens and texts longer than that.
"""

import functools
import inspect
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, StaticCache
from transformers.modeling_outputs import BaseModelOutput

import tiny
from offramp import attach_exits
from offramp.blocks.anatomy import CHECKED, anatomy_of
from offramp.blocks.cache import growing, record_, rollback_
from offramp.blocks.span import BY_PLACE, Span
from offramp.blocks.watch import state_of
from offramp.errors import CacheError, ConfigError

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


STEPS = ((0, 8), (8, 9), (9, 10), (10, 13), (13, 15))
"""A prefill beyond the window, single tokens, chunks of a draft."""


@pytest.fixture(autouse=True)
def _no_gradients(request):
    with torch.set_grad_enabled("gradient" in request.node.name):
        yield


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", [*NAMES, *UNLISTED])
def test_two_spans_are_the_model_own_forward(name, padded):
    span, text = span_of(name), text_of(name, padded=padded)
    own = own_states(text, [(0, text.length)])
    depth = span.anatomy.depth

    for k in range(depth + 1):
        middle = span.run(None, 0, k, **text.at(0, text.length))
        last = span.run(middle, k, depth, **text.at(0, text.length, embed=False))

        assert_same(text.seen(last), text.seen(own[-1]))
        if k:
            assert_same(text.seen(middle), text.seen(own[k - 1]))


@pytest.mark.parametrize("name", [*NAMES, *UNLISTED[:-2]])
def test_the_last_state_says_the_model_own_logits(name):
    span, text, model = span_of(name), text_of(name), model_of(name)
    anatomy = span.anatomy
    state = span.run(None, 0, anatomy.depth, **text.at(0, text.length))

    told = anatomy.scores(anatomy.head(anatomy.finish(state)))

    inputs = {"input_ids": text.ids}
    if text.context:
        inputs = {
            "decoder_input_ids": text.ids,
            "encoder_outputs": BaseModelOutput(text.context["encoder_hidden_states"]),
            "attention_mask": text.context["encoder_attention_mask"],
        }
    own = model(**inputs).logits
    assert_same(told if anatomy.bias is None else told + anatomy.bias, own)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", [*NAMES, *UNLISTED])
def test_two_spans_with_a_cache_are_the_model_own_forward_with_its_cache(name, padded):
    span, text = span_of(name), text_of(name, padded=padded)
    depth = span.anatomy.depth
    own_cache, whole = new_cache(name), own_states(text, [(0, text.length)])
    own = own_states(text, STEPS, own_cache)

    for k in {1, depth // 2, depth}:
        cache, last = new_cache(name), []
        for start, stop in STEPS:
            middle = span.run(None, 0, k, cache=cache, **text.at(start, stop))
            rest = text.at(start, stop, embed=False)
            last.append(span.run(middle, k, depth, cache=cache, **rest))

        assert_same(text.seen(torch.cat(last, 1)), text.seen(own[-1]))
        assert_same(text.seen(torch.cat(last, 1)), text.seen(whole[-1]))
        assert_same_cache(cache, own_cache)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", [*NAMES, *UNLISTED])
def test_tokens_filled_later_leave_states_and_cache_as_if_run_at_once(name, padded):
    span, text = span_of(name), text_of(name, padded=padded)
    depth, k, prefill = span.anatomy.depth, max(span.anatomy.depth // 2, 1), 4
    own_cache = new_cache(name)
    own = own_states(text, [(0, prefill), (prefill, text.length)], own_cache)
    cache = new_cache(name)
    span.run(None, 0, depth, cache=cache, **text.at(0, prefill))

    pending = [
        span.run(None, 0, k, cache=cache, **text.at(i, i + 1)) for i in range(prefill, text.length)
    ]
    rest = text.at(prefill, text.length, embed=False)
    last = span.run(torch.cat(pending, 1), k, depth, cache=cache, **rest)

    visible = slice(None) if text.mask is None else text.mask[:, prefill:].bool()
    assert_same(last[visible], own[-1][:, prefill:][visible])
    assert_same_cache(cache, own_cache)


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


def test_gpt_neo_attends_locally_beyond_its_window():
    text = text_of("gpt_neo", rows=1)
    other = text_of("gpt_neo", rows=1)
    other.ids = text.ids.clone()
    other.ids[0, 0] = 3 if text.ids[0, 0] != 3 else 4
    span = span_of("gpt_neo")

    deep = [span.run(None, 0, 1, **each.at(0, 15)) for each in (text, other)]
    local = [span.run(state, 1, 2, **text.at(0, 15, embed=False)) for state in deep]
    mixed = span.run(torch.cat([deep[1][:, :1], deep[0][:, 1:]], 1), 1, 2, **text.at(0, 15))

    assert not torch.allclose(local[0][:, 1], mixed[:, 1])
    assert torch.equal(local[0][:, tiny.WINDOW :], mixed[:, tiny.WINDOW :])


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


def test_embed_gives_exit_0_at_the_position_after_the_cache():
    span, text, cache = span_of("gpt2"), text_of("gpt2"), new_cache("gpt2")
    whole = span.embed(**text.at(0, 5))
    span.run(None, 0, DEPTH, cache=cache, **text.at(0, 4))

    assert torch.equal(span.embed(cache=cache, **text.at(4, 5)), whole[:, 4:])
    assert cache.get_seq_length() == 4


def test_blocks_outside_the_span_keep_their_cache():
    span, text, cache = span_of("llama"), text_of("llama"), new_cache("llama")

    span.run(None, 0, 2, cache=cache, **text.at(0, 5))

    assert [layer.get_seq_length() for layer in cache.layers] == [5, 5, 0, 0]


def test_a_cache_that_grows_its_list_of_layers_works():
    span, text, cache = span_of("llama"), text_of("llama"), DynamicCache()
    own = own_states(text, [(0, 6)])[-1]

    middle = span.run(None, 0, 2, cache=cache, **text.at(0, 6))
    last = span.run(middle, 2, DEPTH, cache=cache, **text.at(0, 6, embed=False))

    assert_same(last, own)


def test_a_model_configured_without_cache_still_fills_one_that_it_is_given():
    model = tiny.model_of("llama", use_cache=False)
    span, text, cache = Span(anatomy_of(model)), text_of("llama"), DynamicCache(config=model.config)

    span.run(None, 0, DEPTH, cache=cache, **text.at(0, 6))

    assert cache.get_seq_length(DEPTH - 1) == 6


@pytest.mark.parametrize("name", ["llama", "t5", "gpt2"])
def test_gradients_flow_through_spans_as_through_the_model(name):
    model, text = model_of(name), text_of(name)
    span = span_of(name)
    weights = [parameter for parameter in span.anatomy.blocks.parameters()]
    own = own_states(text, [(0, text.length)])[-1]
    wanted = torch.autograd.grad(own.square().sum(), weights, allow_unused=True)

    middle = span.run(None, 0, 2, **text.at(0, text.length))
    last = span.run(middle, 2, DEPTH, **text.at(0, text.length, embed=False))

    got = torch.autograd.grad(last.square().sum(), weights, allow_unused=True)
    assert all(parameter.grad is None for parameter in model.parameters())
    for ours, theirs in zip(got, wanted, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_spans_work_on_a_model_with_exits():
    model = attach_exits(tiny.model_of("llama"), (1, 2), "lens")
    span, text = Span(model.anatomy), text_of("llama")

    last = span.run(None, 0, DEPTH, **text.at(0, 5))

    assert_same(model.anatomy.head(model.anatomy.finish(last)), model(text.ids[:, :5]).logits)


@pytest.mark.parametrize(("start", "stop"), [(2, 1), (0, 5), (-1, 2), (5, 5)])
def test_a_span_downwards_or_beyond_the_model_is_refused(start, stop):
    span, text = span_of("llama"), text_of("llama")

    with pytest.raises(ConfigError, match=r"no span from exit .* exits 0 to 4"):
        span.run(torch.zeros(2, 3, 32), start, stop, **text.at(0, 3))


@pytest.mark.parametrize(("start", "message"), [(0, "or input_ids"), (1, "needs its state")])
def test_a_span_with_nothing_to_start_from_is_refused(start, message):
    with pytest.raises(ConfigError, match=message):
        span_of("llama").run(None, start, 2)


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


@pytest.mark.parametrize("family", ["mamba", "jamba", "lfm2", "qwen3_next", "rwkv", "minimax"])
def test_recurrent_and_convolution_layers_are_refused(family):
    with pytest.raises(ConfigError, match=r"keep .* beside keys and values"):
        Span(anatomy_of(tiny.model_of(family, seq2seq=family == "t5gemma")))


def test_a_family_whose_blocks_read_the_tokens_needs_them_above_exit_0_too():
    model = tiny.model_of("gemma4_text")
    span, ids = Span(anatomy_of(model)), torch.tensor([[5, 3, 4]])
    state = span.run(None, 0, 2, input_ids=ids)

    last = span.run(state, 2, DEPTH, input_ids=ids)

    anatomy = span.anatomy
    assert_same(anatomy.scores(anatomy.head(anatomy.finish(last))), model(ids).logits)
    with pytest.raises(RuntimeError, match="without providing `input_ids`"):
        span.run(state, 2, DEPTH)


@pytest.mark.parametrize("family", ["longcat_flash", "t5gemma"])
def test_a_family_whose_blocks_take_more_than_a_state_is_refused(family):
    with pytest.raises(ConfigError, match="take more than the state of the block before"):
        Span(anatomy_of(tiny.model_of(family, seq2seq=family == "t5gemma")))
