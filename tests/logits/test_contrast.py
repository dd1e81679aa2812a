import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from offramp.errors import ConfigError
from offramp.logits.contrast import contrast_logits, contrast_sparse, plausible_set

GOLDEN = Path(__file__).parents[1] / "golden" / "multi_exit"
CASES = json.loads((GOLDEN / "acd_vectors.json").read_text())


def scores(seed: int, *shape: int, spread: float = 4.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * spread


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"case{case['case']}")
def test_equals_the_published_function(case):
    vectors = load_file(GOLDEN / "acd_vectors.safetensors")
    upper, lower, expected = (
        vectors[f"{k}_{case['case']}"] for k in ("upper", "lower", "contrasted")
    )
    settings = {"alpha": case["alpha"], "minimum_candidates": case["minimum_candidates"]}

    dense = contrast_logits(upper, lower, **settings)
    flat = lower.reshape(-1, lower.shape[-1])
    sparse = contrast_sparse(
        upper, lambda ids: flat.gather(-1, ids), most_candidates=10**9, **settings
    )

    assert torch.allclose(dense, expected, atol=1e-4)
    assert torch.allclose(sparse, expected, atol=1e-4)


@given(
    seed=st.integers(0, 10**6),
    alpha=st.floats(1e-4, 1.0),
    minimum=st.integers(1, 70),
    spread=st.floats(0.01, 30.0),
)
def test_rows_sum_to_one_and_sparse_equals_dense(seed, alpha, minimum, spread):
    upper, lower = scores(seed, 3, 2, 61, spread=spread), scores(seed + 1, 3, 2, 61, spread=spread)
    settings = {"alpha": alpha, "minimum_candidates": minimum}

    dense = contrast_logits(upper, lower, **settings)
    flat = lower.reshape(-1, 61) - 7.0  # any constant per row cancels
    sparse = contrast_sparse(
        upper, lambda ids: flat.gather(-1, ids), most_candidates=10**9, **settings
    )

    assert torch.allclose(dense.logsumexp(-1), torch.zeros(3, 2), atol=1e-5)
    assert torch.allclose(sparse, dense, atol=1e-4)


@given(seed=st.integers(0, 10**6), alpha=st.floats(1e-3, 1.0))
def test_outside_the_plausible_set_the_upper_probability_stays(seed, alpha):
    upper, lower = scores(seed, 4, 61), scores(seed + 1, 4, 61)
    log_upper = upper.log_softmax(-1)

    result = contrast_logits(upper, lower, alpha=alpha)

    outside = ~plausible_set(log_upper, alpha=alpha, minimum_candidates=1)
    assert torch.equal(result[outside], log_upper[outside])
    probability = log_upper.exp()
    expected = probability >= alpha * probability.amax(-1, keepdim=True) * (1 + 1e-5)
    assert bool((expected <= ~outside).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spread", [1.0, 30.0, 1000.0])
def test_half_precision_gives_no_nan_and_returns_float32(dtype, spread):
    upper, lower = (scores(seed, 8, 500, spread=spread).to(dtype) for seed in (0, 1))

    result = contrast_logits(upper, lower)

    assert result.dtype == torch.float32
    assert not result.isnan().any()
    assert torch.allclose(result.logsumexp(-1), torch.zeros(8), atol=1e-4)


def test_impossible_tokens_stay_impossible_and_break_nothing():
    upper = torch.tensor([2.0, 1.0, -torch.inf, 0.5])
    lower = torch.tensor([1.0, -torch.inf, 3.0, 0.5])

    dense = contrast_logits(upper, lower)
    sparse = contrast_sparse(upper, lambda ids: lower[None].gather(-1, ids), most_candidates=99)

    assert dense[2] == -torch.inf
    assert not dense.isnan().any()
    assert torch.allclose(dense.exp(), sparse.exp(), atol=1e-6)
    assert dense.exp().sum() == pytest.approx(1)


def test_a_row_is_the_same_alone_and_in_a_batch():
    upper, lower = scores(3, 5, 61), scores(4, 5, 61)

    together = contrast_logits(upper, lower)
    alone = torch.stack([contrast_logits(upper[i], lower[i]) for i in range(5)])

    assert torch.equal(together, alone)


def test_one_plausible_token_asks_the_lower_exit_nothing():
    upper = torch.tensor([[50.0, 0.0, 0.0]])

    def forbidden(ids):
        raise AssertionError("asked")

    result = contrast_sparse(upper, forbidden, most_candidates=99)

    assert torch.equal(result, upper.log_softmax(-1))


def test_sparse_gives_up_where_the_whole_head_is_cheaper():
    assert contrast_sparse(torch.zeros(2, 61), lambda ids: ids * 0.0, most_candidates=100) is None


def test_sparse_asks_each_row_only_for_its_plausible_tokens_and_padding():
    upper = torch.tensor([[9.0, 8.9, 0.0, 0.0], [0.0, 5.0, 4.9, 4.8]])
    asked = []

    contrast_sparse(upper, lambda ids: asked.append(ids) or ids * 0.0, most_candidates=99)

    assert asked[0].shape == (2, 3)
    assert set(asked[0][0][:2].tolist()) == {0, 1}
    assert set(asked[0][1].tolist()) == {1, 2, 3}


@pytest.mark.parametrize("alpha", [0.0, -0.1, 1.1, float("nan")])
def test_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(ConfigError, match="alpha must be"):
        contrast_logits(torch.zeros(3), torch.zeros(3), alpha=alpha)


def test_no_candidates_and_other_shapes_are_refused():
    with pytest.raises(ConfigError, match="minimum_candidates"):
        contrast_logits(torch.zeros(3), torch.zeros(3), minimum_candidates=0)
    with pytest.raises(ConfigError, match="shapes differ"):
        contrast_logits(torch.zeros(2, 3), torch.zeros(1, 3))


def test_gradients_flow_to_both_exits_and_are_finite():
    upper, lower = (scores(seed, 2, 31).double().requires_grad_() for seed in (5, 6))

    contrast_logits(upper, lower).gather(-1, torch.tensor([[3], [4]])).sum().backward()

    assert upper.grad.isfinite().all()
    assert lower.grad.isfinite().all()
