"""Law 2 and filling (law 4), by family: spans are the model's own forward."""

import pytest
import torch
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutput

import tiny
from blocks.texts import (
    DEPTH,
    NAMES,
    UNLISTED,
    assert_same,
    assert_same_cache,
    model_of,
    new_cache,
    own_states,
    span_of,
    text_of,
)
from offramp import attach_exits
from offramp.blocks.anatomy import anatomy_of
from offramp.blocks.span import Span
from offramp.errors import ConfigError

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


def test_a_loop_that_leaves_blocks_out_is_refused():
    model = tiny.model_of("opt", layerdrop=1.0)
    span = Span(anatomy_of(model))
    model.train()

    with pytest.raises(ConfigError, match="called its 4 blocks 0 times in one pass"):
        span.run(None, 0, 2, input_ids=torch.tensor([[3, 4]]))
