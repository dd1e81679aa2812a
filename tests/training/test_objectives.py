"""Objectives against their definitions, written out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offramp.errors import ConfigError
from offramp.training.objectives import (
    OBJECTIVES,
    Objective,
    distillation_loss,
    next_token_loss,
)

seeds = st.integers(0, 2**16)


def scores_of(seed, *, rows=5, vocab=11, scale=3.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    own, last = torch.randn(2, rows, vocab, generator=generator, dtype=torch.float64) * scale
    return own.to(dtype), last.to(dtype), torch.randint(vocab, (rows,), generator=generator)


@given(seed=seeds, temperature=st.floats(0.3, 4.0))
def test_distillation_is_the_softened_divergence_times_the_square(seed, temperature):
    own, last, _ = scores_of(seed)
    p, q = (last / temperature).softmax(-1), (own / temperature).softmax(-1)

    loss = distillation_loss(own, last, temperature=temperature)

    assert torch.allclose(loss, (p * (p / q).log()).sum(-1) * temperature**2, atol=1e-10)


@given(seed=seeds)
def test_next_token_is_minus_the_log_of_the_tokens_probability(seed):
    own, _, tokens = scores_of(seed)

    loss = next_token_loss(own, tokens)

    assert torch.allclose(loss, -own.softmax(-1)[range(5), tokens].log(), atol=1e-10)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mixed_is_the_weighted_mean_of_both(share):
    own, last, tokens = scores_of(1)

    loss = Objective(name="mixed", share=share, temperature=2.0).losses(own, last, tokens)

    distilled = distillation_loss(own, last, temperature=2.0)
    assert torch.allclose(loss, share * distilled + (1 - share) * next_token_loss(own, tokens))


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_losses_are_float32_and_not_negative_whatever_the_scores_are(name, dtype):
    own, last, tokens = scores_of(2, dtype=dtype)

    loss = Objective(name=name).losses(own, last, tokens)
    same = Objective(name=name).losses(last, last, tokens)

    assert loss.dtype == torch.float32
    assert min(loss.min(), same.min()) > -1e-6


@given(seed=seeds, name=st.sampled_from(sorted(OBJECTIVES)), temperature=st.floats(0.5, 3.0))
def test_a_score_that_stands_for_several_tokens_counts_as_them_all(seed, name, temperature):
    own, last, tokens = scores_of(seed)
    count = torch.arange(1, 12)
    tokens = torch.zeros_like(tokens)  # the only one that stands for itself
    objective = Objective(name=name, temperature=temperature)

    short = objective.losses(own, last, tokens, count.double().log())

    written_out = (each.repeat_interleave(count, dim=-1) for each in (own, last))
    assert torch.allclose(short, objective.losses(*written_out, tokens), atol=1e-10)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0, got 0"),
        ({"share": 1.5}, "share must be from 0 to 1, got 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Objective(**wrong)


def test_an_unknown_objective_is_refused():
    objective = Objective()
    object.__setattr__(objective, "name", "magic")  # tests check types at calls, users do not

    with pytest.raises(ConfigError, match="unknown objective 'magic'; use one of next-token"):
        objective.__post_init__()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_only_next_token_needs_no_teacher(name):
    assert Objective(name=name).needs_teacher == (name != "next-token")
