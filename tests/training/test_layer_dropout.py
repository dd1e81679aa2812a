"""LayerSkip's scales, curricula and dropout, against the paper's formulas written out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
from offramp import attach_exits
from offramp.blocks.watch import watch
from offramp.training.layer_dropout import CURRICULA, dropout_rates, exit_scales, layers_dropped

depths = st.integers(1, 40)


def scales(exits, *, depth, curriculum="none", step=0, progress=1.0):
    return exit_scales(exits, depth=depth, curriculum=curriculum, step=step, progress=progress)


@given(depth=st.integers(2, 40))
def test_without_a_curriculum_scales_are_the_papers(depth):
    """Section 4.2, equation 5: e(l) of the exit after block l, counted from 0."""

    def e(block):
        if block == depth - 1:
            return depth - 1 + 0.2 * sum(i for i in range(depth - 2 + 1))
        return 0.2 * sum(i for i in range(block + 1))

    exits = (*range(2, depth), "original")
    total = sum(e(each - 1 if each != "original" else depth - 1) for each in exits)

    ours = scales(exits, depth=depth)

    for each in exits:
        block = depth - 1 if each == "original" else each - 1
        assert ours[each] == pytest.approx(e(block) / total)


@given(
    depth=depths,
    picked=st.sets(st.integers(0, 40), max_size=6),
    original=st.booleans(),
    curriculum=st.sampled_from(CURRICULA),
    step=st.integers(0, 99),
    progress=st.floats(0, 1),
)
def test_scales_sum_to_one(depth, picked, original, curriculum, step, progress):
    exits = (*sorted(each for each in picked if each <= depth), *["original"] * original) or (0,)

    ours = scales(exits, depth=depth, curriculum=curriculum, step=step, progress=progress)

    assert tuple(ours) == exits
    assert sum(ours.values()) == pytest.approx(1)
    assert min(ours.values()) >= 0


@given(depth=depths, curriculum=st.sampled_from(["none", "gradual"]))
def test_at_the_end_every_exit_counts_and_deeper_ones_more(depth, curriculum):
    exits = (*range(depth), "original")

    ours = list(scales(exits, depth=depth, curriculum=curriculum).values())

    assert ours[0] > 0
    assert ours == sorted(ours)
    assert len(set(ours)) == len(ours)


def test_gradual_adds_exits_from_the_deepest_down_during_the_first_half():
    exits = (1, 2, 3, "original")

    def active(progress):
        ours = scales(exits, depth=4, curriculum="gradual", progress=progress)
        return [exit for exit, scale in ours.items() if scale]

    assert active(0.0) == ["original"]
    assert active(0.2) == [3, "original"]
    assert active(0.3) == [2, 3, "original"]
    assert active(0.5) == active(1.0) == [1, 2, 3, "original"]


def test_rotating_takes_each_exit_in_turn_beside_the_deepest():
    exits = (1, 2, 3, "original")

    active = [
        [exit for exit, scale in each.items() if scale]
        for each in (scales(exits, depth=4, curriculum="rotating", step=step) for step in range(4))
    ]

    assert active == [[3, "original"], [2, "original"], [1, "original"], [3, "original"]]


def test_the_bases_own_head_is_the_deepest_even_beside_an_exit_there():
    ours = scales((4, "original"), depth=4, curriculum="gradual", progress=0.0)

    assert ours == {4: 0.0, "original": 1.0}
    assert len(set(scales((4, "original"), depth=4).values())) == 1


@given(depth=st.integers(2, 60), highest=st.floats(0, 0.99))
def test_rates_rise_from_never_to_the_highest(depth, highest):
    rates = dropout_rates(depth, highest)

    assert rates[0] == 0
    assert rates[-1] == pytest.approx(highest)
    assert rates == sorted(rates)
    for block, rate in enumerate(rates):  # section 4.1: D(l) = exp(l ln 2 / (L - 1)) - 1
        assert rate == pytest.approx(highest * (2 ** (block / (depth - 1)) - 1))


def test_a_single_block_is_never_left_out():
    assert dropout_rates(1, 0.5) == [0.0]


def states_of(model, inputs, rates, seed=0):
    anatomy = model.anatomy
    generator = torch.Generator().manual_seed(seed)
    looking = watch(anatomy, range(5), keep=lambda each: each, run_head=False, last_block=4)
    with (
        torch.no_grad(),
        layers_dropped(anatomy.blocks, rates, generator=generator),
        looking as seen,
    ):
        type(model).base_forward(model, **inputs, use_cache=False)
    return [seen.states[exit] for exit in range(5)]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "opt", "gemma2", "bloom"])
def test_dropped_rows_are_the_input_state_and_the_others_the_blocks_output(family):
    model = attach_exits(tiny.model_of(family), (1,))
    inputs = tiny.prompt(model, rows=8)
    whole = states_of(model, inputs, [0.0] * 4)

    states = states_of(model, inputs, [0.0, 0.5, 0.0, 0.0])

    stayed = [torch.equal(a, b) for a, b in zip(states[1], states[2], strict=True)]
    assert 0 < sum(stayed) < 8
    for row, dropped in enumerate(stayed):
        if not dropped:
            assert torch.allclose(states[2][row], whole[2][row], atol=1e-5)


def test_a_rate_of_zero_changes_nothing():
    model = attach_exits(tiny.model_of("llama"), (1,))
    inputs = tiny.prompt(model)
    with torch.no_grad():
        before = model(**inputs).logits

    states = states_of(model, inputs, dropout_rates(4, 0.0))

    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, before)
        assert torch.equal(model.lm_head(model.model.norm(states[4])), before)


def test_the_share_of_rows_left_out_is_the_rate():
    model = attach_exits(tiny.model_of("llama"), (1,))
    inputs = tiny.prompt(model, rows=400, length=1)
    rates = dropout_rates(4, 0.6)

    states = states_of(model, inputs, rates)

    for block, rate in enumerate(rates):
        same = (states[block] == states[block + 1]).all(-1).float().mean()
        assert abs(same - rate) < 5 * (0.25 / 400) ** 0.5


def test_blocks_are_whole_again_afterwards_even_after_an_error():
    model = attach_exits(tiny.model_of("llama"), (1,))
    inputs = tiny.prompt(model)
    with torch.no_grad():
        before = model(**inputs).logits
    generator = torch.Generator()

    with (
        pytest.raises(RuntimeError),
        layers_dropped(model.anatomy.blocks, [0.9] * 4, generator=generator),
    ):
        raise RuntimeError

    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, before)
