"""Watching leaves no trace, computes what the model computes, and leaves out what nobody needs."""

from collections import Counter

import pytest
import torch
from torch import nn

import tiny
from offramp.blocks.anatomy import anatomy_of
from offramp.blocks.watch import call_of, replaced_forward, state_of, watch
from offramp.errors import UnknownLayoutError

FAMILIES = ("llama", "gpt2", "opt", "gemma3_text", "falcon", "bloom", "bart", "t5")


def everything(states: torch.Tensor) -> torch.Tensor:
    return states


def watching(anatomy, exits=(0, 2, 4), **changed):
    settings = {"keep": everything, "run_head": True, "last_block": anatomy.depth}
    return watch(anatomy, exits, **{**settings, **changed})


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "forward")


def traces(model: nn.Module) -> list[str]:
    """Everything that somebody could have left on a module."""
    return [
        f"{name}.{kind}"
        for name, module in model.named_modules()
        for kind in HOOKS
        if module.__dict__.get(kind)
    ]


def count_calls(blocks: nn.ModuleList) -> Counter:
    """Count the calls of every block's own forward."""
    counts: Counter = Counter()
    for index, block in enumerate(blocks):
        own = block.forward

        def counted(*args, own=own, index=index, **named):
            counts[index] += 1
            return own(*args, **named)

        block.forward = counted
    return counts


@pytest.mark.parametrize("family", FAMILIES)
def test_watching_changes_no_bit_of_the_model_output(family):
    model = tiny.model_of(family)
    inputs = tiny.prompt(model)
    with torch.no_grad():
        own = model(**inputs).logits

        with watching(anatomy_of(model), range(5), calls=(3,)) as seen:
            told = model(**inputs).logits

    assert torch.equal(told, own)
    assert sorted(seen.states) == [0, 1, 2, 3, 4]
    assert 3 in seen.calls
    assert not traces(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_the_family_own(family):
    model = tiny.model_of(family)
    inputs = tiny.prompt(model)
    with torch.no_grad(), watching(anatomy_of(model), range(5)) as seen:
        own = model(**inputs, output_hidden_states=True)

    hidden = own.decoder_hidden_states if model.config.is_encoder_decoder else own.hidden_states
    for exit in range(4):
        assert torch.equal(seen.states[exit], hidden[exit])


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_left_out_are_not_run_and_the_states_below_are_the_same(family):
    model = tiny.model_of(family)
    inputs, anatomy = tiny.prompt(model), anatomy_of(model)
    with torch.no_grad(), watching(anatomy, (1, 2)) as whole:
        model(**inputs)
    counts = count_calls(anatomy.blocks)

    with torch.no_grad(), watching(anatomy, (1, 2), last_block=2, run_head=False) as seen:
        model(**inputs)

    assert counts == {0: 1, 1: 1}
    assert all(torch.equal(seen.states[exit], whole.states[exit]) for exit in (1, 2))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_that_is_not_wanted_gets_no_rows(family):
    model = tiny.model_of(family)
    rows = []
    model.get_output_embeddings().register_forward_hook(
        lambda _, args, output: rows.append((args[0].shape[1], output.shape[1]))
    )

    with torch.no_grad(), watching(anatomy_of(model), run_head=False) as seen:
        model(**tiny.prompt(model))

    assert rows == [(0, 0)]
    assert seen.finished().shape[1] == 7


def test_a_head_that_is_wanted_gets_the_positions_asked_for():
    model = tiny.model_of("llama")

    with torch.no_grad(), watching(anatomy_of(model), keep=lambda states: states[:, -2:]) as seen:
        logits = model(**tiny.prompt(model)).logits

    assert logits.shape[1] == 2
    assert seen.finished().shape[1] == 2


@pytest.mark.parametrize("last_block", [1, 4])
def test_nothing_remains_after_an_exception_inside(last_block):
    model = tiny.model_of("llama")

    with (
        pytest.raises(ZeroDivisionError),
        watching(anatomy_of(model), last_block=last_block, calls=(3,)),
    ):
        1 / 0  # noqa: B018

    assert not traces(model)


def test_nothing_remains_after_an_exception_in_a_block():
    model = tiny.model_of("llama")
    anatomy = anatomy_of(model)
    handle = anatomy.blocks[1].register_forward_hook(lambda *_: 1 / 0)

    with pytest.raises(ZeroDivisionError), watching(anatomy, last_block=2, calls=(0,)):
        model(**tiny.prompt(model))

    handle.remove()
    assert not traces(model)


def test_a_forward_that_a_library_had_set_is_set_again():
    """As accelerate does to move inputs to a block's device."""
    model = tiny.model_of("llama")
    block = anatomy_of(model).blocks[3]

    def moved(*args, **named):
        return type(block).forward(block, *args, **named)

    block.forward = moved

    with replaced_forward(model.model.layers[2:], lambda *_, **__: None):
        assert block.forward is not moved

    assert block.forward is moved
    assert "forward" not in model.model.layers[2].__dict__


def test_a_forward_that_a_library_had_set_is_set_again_after_an_exception():
    model = tiny.model_of("llama")
    block = model.model.layers[3]
    moved = block.__dict__["forward"] = block.forward

    with (
        pytest.raises(ZeroDivisionError),
        replaced_forward(model.model.layers, lambda *_, **__: 1 / 0),
    ):
        model(**tiny.prompt(model))

    assert block.__dict__["forward"] is moved
    assert traces(model) == ["model.layers.3.forward"]


def test_a_block_that_a_library_wrapped_is_still_wrapped_while_watched():
    model = tiny.model_of("llama")
    counts = count_calls(model.model.layers)

    with torch.no_grad(), watching(anatomy_of(model)):
        model(**tiny.prompt(model))

    assert counts == {0: 1, 1: 1, 2: 1, 3: 1}


def test_watches_can_be_nested():
    model = tiny.model_of("llama")
    anatomy = anatomy_of(model)

    with torch.no_grad(), watching(anatomy, (1,)) as outer, watching(anatomy, (2,)) as inner:
        model(**tiny.prompt(model))

    assert list(outer.states) == [1]
    assert list(inner.states) == [2]
    assert not traces(model)


def test_a_head_that_was_never_called_is_reported():
    model = tiny.model_of("llama")

    with watching(anatomy_of(model)) as seen:
        pass

    with pytest.raises(UnknownLayoutError, match="does not call its output embeddings"):
        seen.finished()


def test_the_state_is_found_in_a_tensor_or_a_tuple():
    state = torch.zeros(1, 2, 3)

    assert state_of(state) is state
    assert state_of((state, None)) is state


@pytest.mark.parametrize("named", [False, True])
def test_a_call_is_what_comes_besides_the_state(named):
    state, mask = torch.zeros(1), torch.ones(1)

    args, kwargs = ((), {"hidden_states": state}) if named else ((state,), {})

    assert call_of(args, {**kwargs, "m": mask}) == ((), {"m": mask})
