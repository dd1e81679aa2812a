"""A gate before anybody trained it, and how it computes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
from offramp import attach_exits
from offramp.blocks.gates import Gate
from offramp.blocks.projections import add_gate_

FAMILIES = ["llama", "gpt2", "opt", "gemma2"]


def trained_gate(dtype=torch.float32):
    gate = Gate(8, torch.zeros((), dtype=dtype))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        gate.linear.weight.copy_(torch.randn(1, 8, generator=generator) * 3)
        gate.linear.bias.fill_(0.5)
    return gate


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 8), (0, 8)])
def test_an_untrained_gate_is_undecided_about_everything(dtype, shape):
    gate = Gate(8, torch.zeros((), dtype=dtype))

    confidence = gate.confidence(torch.randn(shape).to(dtype))

    assert confidence.shape == shape[:-1]
    assert (confidence == 0.5).all()
    assert not gate.leaves(confidence).any()
    assert {each.dtype for each in (*gate.parameters(), gate.threshold)} == {dtype}


@given(seed=st.integers(0, 999), length=st.floats(1.0, 1000.0))
def test_only_the_direction_of_a_state_counts(seed, length):
    state = torch.randn(4, 8, generator=torch.Generator().manual_seed(seed))
    gate = trained_gate()

    assert torch.allclose(gate.logit(state * length), gate.logit(state), atol=1e-4)


def test_a_state_of_zeros_is_no_trouble():
    assert trained_gate().confidence(torch.zeros(2, 8)).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_confidence_is_float32_whatever_the_gate_is_kept_in(dtype):
    state = torch.randn(50, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    wide = trained_gate(dtype).float()

    confidence = trained_gate(dtype).confidence(state)

    assert confidence.dtype == torch.float32
    assert torch.allclose(confidence, wide.confidence(state.float()), atol=1e-6)


def test_mixed_precision_does_not_coarsen_it():
    state = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    gate = trained_gate()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = gate.confidence(state)

    assert torch.equal(mixed, gate.confidence(state))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("projection", ["direct", "lens", "cast", "head", "block"])
def test_every_exit_can_have_a_gate_that_fits_its_state(family, projection):
    model = attach_exits(tiny.model_of(family), (1, 3), projection)
    with torch.no_grad():
        before = model.exit_logits(**tiny.prompt(model), exits=(1, 3, "original"))

    gate = add_gate_(model.exits["3"], model.anatomy, 3)

    assert gate.linear.in_features == model.config.hidden_size
    assert model.exits["3"].gate is gate
    assert model.exits["1"].gate is None
    with torch.no_grad():
        after = model.exit_logits(**tiny.prompt(model), exits=(1, 3, "original"))
    assert all(torch.equal(before[exit], after[exit]) for exit in before)
