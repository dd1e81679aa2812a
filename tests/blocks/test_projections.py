"""A fresh exit says what the base's own head says; ``block`` runs one more block and caches it."""

import copy

import pytest
import torch
from torch import nn
from transformers import DynamicCache

import tiny
from offramp import FixedExit, attach_exits
from offramp.blocks.anatomy import anatomy_of
from offramp.blocks.projections import Block, Direct, can_gather, gathered_scores, new_projection
from offramp.blocks.span import Span
from offramp.config import VocabularyProjectionMode as Mode
from offramp.errors import ConfigError

FAMILIES = ("llama", "gpt2", "gpt_neox", "opt", "gemma2", "falcon", "bart", "t5")
CAUSAL = ("llama", "gpt2", "opt", "gemma3_text", "mistral", "falcon")
FRESH = ("head", "cast", "lens")


def told_by(family: str, projection: str, exit: int = 2) -> torch.Tensor:
    model = attach_exits(tiny.model_of(family), (exit,), projection)
    with torch.no_grad():
        return model.exit_logits(**tiny.prompt(model), exits=(exit,))[exit]


@pytest.mark.parametrize("exit", [0, 2, tiny.DEPTH])
@pytest.mark.parametrize("projection", FRESH)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_exit_says_what_direct_says(family, projection, exit):
    told, direct = told_by(family, projection, exit), told_by(family, "direct", exit)

    if projection == "cast":
        torch.testing.assert_close(told, direct, rtol=1e-6, atol=1e-6)
    else:
        assert torch.equal(told, direct)


def test_a_head_exit_has_no_bias_so_on_a_base_with_one_it_starts_without():
    bias = tiny.model_of("phi").lm_head.bias

    told, direct = told_by("phi", "head"), told_by("phi", "direct")

    torch.testing.assert_close(told + bias.detach(), direct)


@pytest.mark.parametrize("projection", ["head", "cast", "lens", "block"])
def test_a_fresh_exit_is_not_tied_to_the_base(projection):
    model = tiny.model_of("llama")
    own = {parameter.data_ptr() for parameter in model.parameters()}

    attach_exits(model, (1, 2), projection)

    fresh = [parameter.data_ptr() for parameter in model.exits.parameters()]
    assert fresh
    assert not own & set(fresh)
    assert len(fresh) == len(set(fresh))


@pytest.mark.parametrize("mode", [Mode.TUNED_LENS, Mode.SHARED_PROJECTION_CAST_OUTPUTS])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_an_exit_has_the_type_of_the_base(mode, dtype):
    anatomy = anatomy_of(tiny.model_of("llama").to(dtype))

    projection = new_projection(mode, anatomy, 2)

    assert {parameter.dtype for parameter in projection.parameters()} == {dtype}


@pytest.mark.parametrize(
    "mode", [each for each in Mode if each is not Mode.LAYER_SPECIFIC_PROJECTION]
)
def test_at_exit_l_there_is_nothing_to_bridge(mode):
    anatomy = anatomy_of(tiny.model_of("llama"))

    assert type(new_projection(mode, anatomy, anatomy.depth)) is Direct


def test_the_finished_width_may_differ_from_the_state():
    """OPT-350m projects its states down before the head."""
    model = tiny.model_of("opt")
    anatomy = anatomy_of(model)
    assert anatomy.head.in_features == 16

    lens = new_projection(Mode.TUNED_LENS, anatomy, 2)
    cast = new_projection(Mode.SHARED_PROJECTION_CAST_OUTPUTS, anatomy, 2)

    assert lens.linear.weight.shape == (32, 32)
    assert cast.linear.weight.shape == (16, 16)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "bart", "t5"])
def test_a_block_exit_is_the_last_block_run_on_the_state(family):
    model = attach_exits(tiny.model_of(family), (2,), "block")
    inputs = tiny.prompt(model)
    with torch.no_grad():
        told = model.exit_logits(**inputs, exits=(2,))[2]
        anatomy, span = model.anatomy, Span(model.anatomy)
        context = {"input_ids": inputs.get("decoder_input_ids", inputs["input_ids"])}
        if model.config.is_encoder_decoder:
            encoded = model.get_encoder()(inputs["input_ids"]).last_hidden_state
            context["encoder_hidden_states"] = encoded
        state = span.run(None, 0, 2, **context)
        state = span.run(state, anatomy.depth - 1, anatomy.depth, **context)
        own = anatomy.scores(anatomy.head(anatomy.finish(state)))

    torch.testing.assert_close(told, own if anatomy.bias is None else own + anatomy.bias)


def test_a_block_exit_is_trained_apart_from_the_block_it_was_copied_from():
    model = attach_exits(tiny.model_of("llama"), (1, 2), "block")
    before = copy.deepcopy(model.anatomy.blocks[-1].state_dict())

    with torch.no_grad():
        for parameter in model.exits["1"].parameters():
            parameter.zero_()

    after = model.anatomy.blocks[-1].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.exits["2"].block.mlp.up_proj.weight.abs().sum() > 0


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", [*CAUSAL, "bart", "t5"])
def test_block_exits_generate_with_a_cache_as_without(family, beams):
    model = attach_exits(tiny.model_of(family), (1, 3), "block")
    ids = tiny.prompt(model, length=5)["input_ids"]
    settings = {
        "max_new_tokens": 8,
        "min_new_tokens": 8,
        "num_beams": beams,
        "do_sample": False,
        "decoding": FixedExit(exit=3),
    }

    cached = model.generate(ids, **settings, use_cache=True)

    assert torch.equal(cached, model.generate(ids, **settings, use_cache=False))


@pytest.mark.parametrize("family", CAUSAL)
def test_block_exits_keep_their_own_layers_at_the_end_of_the_cache(family):
    model = attach_exits(tiny.model_of(family), (1, 3), "block")
    cache = DynamicCache(config=model.config)
    ids = tiny.prompt(model)["input_ids"]
    own = [each.cache_index for each in model.exits.values()]

    with torch.no_grad():
        whole = model.exit_logits(ids, exits=(1, 3))
        for part in (ids[:, :4], ids[:, 4:5], ids[:, 5:]):
            last = model.exit_logits(part, exits=(1, 3), past_key_values=cache, use_cache=True)

    assert own == [tiny.DEPTH, tiny.DEPTH + 1]
    assert [layer.get_seq_length() for layer in cache.layers] == [7, 7, 7, 0, 7, 7]
    for exit in (1, 3):
        torch.testing.assert_close(last[exit], whole[exit][:, 5:], rtol=1e-4, atol=1e-4)


def test_a_block_exit_that_missed_tokens_says_so():
    model = attach_exits(tiny.model_of("llama"), (1, 3), "block")
    cache, ids = DynamicCache(config=model.config), tiny.prompt(model)["input_ids"]
    with torch.no_grad():
        model.exit_logits(ids, exits=(1,), past_key_values=cache, use_cache=True)

        with pytest.raises(ConfigError, match="use the exit from the first token on"):
            model.exit_logits(ids[:, :1], exits=(3,), past_key_values=cache, use_cache=True)


def test_a_block_exit_refuses_a_static_cache():
    model = attach_exits(tiny.model_of("llama"), (2,), "block")
    ids = tiny.prompt(model)["input_ids"]

    with pytest.raises(ConfigError, match="need a dynamic cache, got StaticLayer"):
        model.generate(
            ids, max_new_tokens=2, cache_implementation="static", decoding=FixedExit(exit=2)
        )


@pytest.mark.parametrize("bias", [False, True])
def test_gathered_scores_are_rows_of_the_dense_ones(bias):
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(8, 61, bias=bias)
    prepared = torch.randn(5, 8, generator=generator)
    tokens = torch.randint(0, 61, (5, 7), generator=generator)

    told = gathered_scores(head, prepared, tokens)

    torch.testing.assert_close(told, head(prepared).gather(-1, tokens))


class Quantized(nn.Linear):
    """Stands for a head whose ``weight`` is not a plain matrix."""


class Packed(torch.Tensor):
    """Stands for a tensor subclass of a quantiser."""


def test_only_a_plain_head_is_read_row_by_row():
    packed = nn.Linear(4, 4)
    packed.weight = nn.Parameter(packed.weight.detach().as_subclass(Packed))

    assert can_gather(nn.Linear(4, 4))
    assert not can_gather(Quantized(4, 4))
    assert not can_gather(packed)
    assert not can_gather(nn.Conv1d(4, 4, 1))
    assert not can_gather(nn.Sequential(nn.Linear(4, 4)))
    assert not can_gather(nn.Identity())


def test_head_exits_of_a_quantised_head_are_refused_and_the_others_work():
    model = tiny.model_of("llama")
    model.lm_head.__class__ = Quantized

    with pytest.raises(ConfigError, match=r"Quantized holds no plain weight; use 'lens' or 'cast'"):
        attach_exits(model, (2,), "head")

    told = attach_exits(model, (2,), "lens").exit_logits(**tiny.prompt(model), exits=(2,))[2]
    assert torch.equal(told, told_by("llama", "direct"))


def test_a_fresh_block_keeps_no_trace_of_the_hooks_and_caches_of_a_run():
    model = tiny.model_of("llama")
    model.generate(tiny.prompt(model)["input_ids"], max_new_tokens=2)

    block = new_projection(Mode.EXTRA_BLOCK, anatomy_of(model), 1)

    assert isinstance(block, Block)
    assert not block.block._forward_hooks
