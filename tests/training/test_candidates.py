"""Scoring a part of the vocabulary against scoring all of it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from offramp.errors import ConfigError
from offramp.training.candidates import Candidates
from offramp.training.chunked import Heads, Targets, chunked_loss
from offramp.training.objectives import Objective

ROWS, WIDTH, VOCAB = 6, 8, 40
OBJECTIVES = [
    Objective(name="distillation"),
    Objective(name="distillation", temperature=2.0),
    Objective(name="mixed", share=0.4, temperature=0.7),
]


def loss_and_gradients(objective, candidates, *, seed=0, chunk=4, sharpness=1.0, rows=ROWS):
    """Two exits, one through the base's head and one through its own, both trained."""
    generator = torch.Generator().manual_seed(7)
    base, own = (nn.Linear(WIDTH, VOCAB, dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        for parameter in (*base.parameters(), *own.parameters()):
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(drawn * sharpness)
    draw = [torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64) for _ in range(3)]
    inputs = [each.requires_grad_() for each in draw[:2]]
    targets = Targets(
        tokens=torch.randint(VOCAB, (rows,), generator=generator),
        weights=torch.ones(rows),
        teacher=draw[2],
    )
    heads = Heads(
        exits=[base, own],
        exit_weights=[1.0, 1.5],
        base=base,
        complete=lambda raw, _: raw,
        candidates=candidates,
        seed=seed,
    )
    loss, _ = chunked_loss(inputs, targets, heads, objective, chunk=chunk)
    leaves = [*inputs, *base.parameters(), *own.parameters()]
    return loss.detach(), [each.double() for each in torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("top", [1, 5, VOCAB + 9])
@pytest.mark.parametrize("chunk", [1, 4, ROWS])
def test_with_all_others_drawn_it_is_the_whole_vocabulary(objective, top, chunk):
    expected, whole = loss_and_gradients(objective, None, chunk=chunk)

    loss, drawn = loss_and_gradients(objective, Candidates(top=top, others=VOCAB), chunk=chunk)

    assert torch.allclose(loss, expected, atol=1e-10, rtol=0)
    assert all(torch.allclose(a, b, atol=1e-10, rtol=0) for a, b in zip(drawn, whole, strict=True))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_mean_of_many_draws_is_near_the_whole_vocabulary(objective):
    expected, whole = loss_and_gradients(objective, None, sharpness=0.3)

    drawn = [
        loss_and_gradients(objective, Candidates(top=4, others=12), seed=seed, sharpness=0.3)
        for seed in range(300)
    ]

    mean = torch.stack([loss for loss, _ in drawn]).mean()
    assert abs(mean - expected) < 0.05 * expected
    for place, full in enumerate(whole):
        mean = torch.stack([gradients[place] for _, gradients in drawn]).mean(0)
        assert (mean - full).norm() < 0.15 * full.norm()


@given(
    seed=st.integers(0, 999),
    top=st.integers(1, 9),
    others=st.integers(1, 50),
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
)
def test_an_exit_that_equals_the_last_layer_has_no_divergence(seed, top, others, temperature):
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(WIDTH, VOCAB, dtype=torch.float64).requires_grad_(False)
    state = torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64)
    given_ = state.clone().requires_grad_()
    targets = Targets(
        tokens=torch.randint(VOCAB, (ROWS,), generator=generator),
        weights=torch.ones(ROWS),
        teacher=state,
    )
    heads = Heads(
        exits=[head],
        exit_weights=[1.0],
        base=head,
        complete=lambda raw, _: raw,
        candidates=Candidates(top=top, others=others),
        seed=seed,
    )

    loss, _ = chunked_loss([given_], targets, heads, Objective(temperature=temperature))
    loss.backward()

    assert abs(loss.item()) < 1e-12
    assert given_.grad.abs().max() < 1e-12


@given(seed=st.integers(0, 999), top=st.integers(1, 9), others=st.integers(1, 50))
def test_likely_and_next_tokens_are_in_and_nothing_twice(seed, top, others):
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(ROWS, VOCAB, generator=generator)
    tokens = torch.randint(VOCAB, (ROWS,), generator=generator)

    drawn = Candidates(top=top, others=others).draw(teacher, tokens, generator=generator)

    columns = drawn.columns.tolist()
    assert len(set(columns)) == len(columns)
    assert set(teacher.topk(top).indices.flatten().tolist()) <= set(columns)
    assert torch.equal(drawn.columns[drawn.tokens], tokens)
    assert torch.isclose(drawn.log_count.exp().sum(), torch.tensor(float(VOCAB)))
    assert torch.equal(drawn.log_count[drawn.tokens], torch.zeros(ROWS))


def test_another_seed_draws_others_and_the_same_seed_the_same():
    def columns(seed):
        generator = torch.Generator().manual_seed(seed)
        teacher = torch.arange(VOCAB).float().expand(2, -1)
        return (
            Candidates(top=1, others=5)
            .draw(teacher, torch.zeros(2, dtype=torch.long), generator=generator)
            .columns.tolist()
        )

    assert columns(1) == columns(1)
    assert columns(1) != columns(2)


@pytest.mark.parametrize("wrong", [{"top": 0}, {"others": 0}])
def test_fewer_than_one_is_refused(wrong):
    with pytest.raises(ConfigError, match="at least 1 top and 1 other token, got"):
        Candidates(**wrong)
