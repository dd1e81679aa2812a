"""Chunked losses against the plain computation that holds all scores at once."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tiny
from offramp.blocks.anatomy import anatomy_of
from offramp.errors import ConfigError
from offramp.models.view import View
from offramp.training.chunked import Heads, Targets, chunked_loss
from offramp.training.objectives import OBJECTIVES, Objective

ROWS, WIDTH = 7, 8


def problem(seed, *, bias=True, vocab=13, dtype=torch.float64):
    """Three exits: two through the base's head, which is trained too, one through its own."""
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator, dtype=dtype)
    base, own = (nn.Linear(WIDTH, vocab, bias=each, dtype=dtype) for each in (bias, False))
    with torch.no_grad():
        for parameter in (*base.parameters(), *own.parameters()):
            parameter.copy_(draw(parameter.shape))
    inputs = [draw(ROWS, WIDTH).requires_grad_() for _ in range(3)]
    targets = Targets(
        tokens=torch.randint(vocab, (ROWS,), generator=generator),
        weights=torch.rand(ROWS, generator=generator) + 0.5,
        teacher=draw(ROWS, WIDTH),
    )
    return inputs, targets, [base, own, base]


def capped(raw, columns, *, scale=1.7, cap=5.0, shift=None):
    out = cap * torch.tanh(raw * scale / cap)
    return out if shift is None else out + (shift if columns is None else shift[columns])


def plain(inputs, targets, heads, objective):
    """Sum the losses with all scores at once."""
    total, sums = 0.0, []
    teacher = heads.complete(heads.base(targets.teacher), None).detach()
    on_text = heads.on_text or [False] * len(inputs)
    for given_, head, weight, text in zip(
        inputs, heads.exits, heads.exit_weights, on_text, strict=True
    ):
        objective_ = Objective(name="next-token") if text else objective
        losses = objective_.losses(heads.complete(head(given_), None), teacher, targets.tokens)
        sums.append((losses * targets.weights).sum())
        total = total + weight * sums[-1]
    return total, torch.stack(sums)


def gradients(loss, inputs, heads):
    leaves = [*inputs, *dict.fromkeys(p for head in heads for p in head.parameters())]
    return torch.autograd.grad(loss * 0.37, leaves)


@given(
    seed=st.integers(0, 999),
    name=st.sampled_from(sorted(OBJECTIVES)),
    chunk=st.integers(1, ROWS + 1),
    bias=st.booleans(),
    weights=st.tuples(*[st.floats(0.0, 3.0)] * 3),
    on_text=st.sampled_from([(), (False, True, False), (True, True, True)]),
)
def test_loss_and_gradients_are_the_plain_ones(seed, name, chunk, bias, weights, on_text):
    inputs, targets, exits = problem(seed, bias=bias)
    heads = Heads(
        exits=exits,
        exit_weights=weights,
        base=exits[0],
        complete=partial(capped, shift=torch.linspace(-1, 1, 13, dtype=torch.float64)),
        on_text=on_text,
    )
    objective = Objective(name=name, temperature=1.5)
    expected, expected_sums = plain(inputs, targets, heads, objective)

    loss, sums = chunked_loss(inputs, targets, heads, objective, chunk=chunk)

    assert torch.allclose(loss, expected, atol=1e-10, rtol=0)
    assert torch.allclose(sums, expected_sums, atol=1e-10, rtol=0)
    for ours, theirs in zip(
        gradients(loss, inputs, exits), gradients(expected, inputs, exits), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    "family", ["llama", "gemma2", "bloom", "phi", "granite", "opt", "gpt_neox"]
)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_scores_are_completed_as_each_family_does(family, name):
    model = tiny.model_of(family).double()
    anatomy = anatomy_of(model)
    width = anatomy.head.weight.shape[1]
    generator = torch.Generator().manual_seed(3)
    inputs = [
        torch.randn(ROWS, width, generator=generator, dtype=torch.float64).requires_grad_()
        for _ in range(2)
    ]
    targets = Targets(
        tokens=torch.randint(tiny.VOCAB, (ROWS,), generator=generator),
        weights=torch.ones(ROWS),
        teacher=torch.randn(ROWS, width, generator=generator, dtype=torch.float64),
    )
    heads = Heads(
        exits=[anatomy.head] * 2,
        exit_weights=[1.0, 2.0],
        base=anatomy.head,
        complete=partial(View.complete, anatomy),
    )
    expected, _ = plain(inputs, targets, heads, Objective(name=name))

    loss, _ = chunked_loss(inputs, targets, heads, Objective(name=name), chunk=3)

    assert torch.allclose(loss, expected, atol=1e-10, rtol=0)
    for ours, theirs in zip(
        gradients(loss, inputs, heads.exits), gradients(expected, inputs, heads.exits), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-10, rtol=0)


def test_nothing_that_is_frozen_gets_a_gradient():
    inputs, targets, exits = problem(0)
    exits[0].requires_grad_(False)
    inputs[1] = inputs[1].detach()
    heads = Heads(exits=exits, exit_weights=[1.0] * 3, base=exits[0], complete=lambda raw, _: raw)

    chunked_loss(inputs, targets, heads, Objective(), chunk=2)[0].backward()

    assert [each.grad is None for each in inputs] == [False, True, False]
    assert exits[0].weight.grad is None
    assert exits[1].weight.grad is not None


def test_without_gradients_the_loss_is_the_same():
    inputs, targets, exits = problem(0)
    heads = Heads(exits=exits, exit_weights=[1.0] * 3, base=exits[0], complete=lambda raw, _: raw)
    loss, _ = chunked_loss(inputs, targets, heads, Objective(), chunk=2)

    with torch.no_grad():
        quiet, _ = chunked_loss(inputs, targets, heads, Objective(), chunk=2)

    assert torch.equal(loss, quiet)
    assert not quiet.requires_grad


def test_no_position_gives_no_loss_and_no_gradient():
    inputs, targets, exits = problem(0)
    none = Targets(
        tokens=targets.tokens[:0], weights=targets.weights[:0], teacher=targets.teacher[:0]
    )
    heads = Heads(exits=exits, exit_weights=[1.0] * 3, base=exits[0], complete=lambda raw, _: raw)

    loss, _ = chunked_loss([each[:0] for each in inputs], none, heads, Objective())
    loss.backward()

    assert loss == 0
    assert not exits[0].weight.grad.any()


class Packed(nn.Module):
    """A head as a quantiser makes it: no plain linear layer, weights that take no gradient."""

    def __init__(self, like):
        super().__init__()
        self.register_buffer("packed", like.weight.detach().clone().mT.contiguous())
        self.out_features = like.out_features

    def forward(self, state):
        return state @ self.packed


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_frozen_head_that_is_no_plain_layer_works(name):
    inputs, targets, exits = problem(4, bias=False)
    packed = Packed(exits[0])
    through = dict(exit_weights=[1.0] * 3, complete=lambda raw, _: raw)
    expected, _ = plain(
        inputs, targets, Heads(exits=exits, base=exits[0], **through), Objective(name=name)
    )

    loss, _ = chunked_loss(
        inputs,
        targets,
        Heads(exits=[packed, exits[1], packed], base=packed, **through),
        Objective(name=name),
        chunk=2,
    )

    assert torch.allclose(loss, expected, atol=1e-10)
    ours, theirs = (
        torch.autograd.grad(each, [*inputs, exits[1].weight]) for each in (loss, expected)
    )
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(ours, theirs, strict=True))


def test_a_head_that_is_no_plain_layer_cannot_be_trained():
    inputs, targets, exits = problem(4)
    odd = nn.Sequential(exits[0])
    heads = Heads(exits=[odd] * 3, exit_weights=[1.0] * 3, base=exits[0], complete=lambda r, _: r)

    with pytest.raises(ConfigError, match="cannot train a head of type Sequential"):
        chunked_loss(inputs, targets, heads, Objective())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_mixed_precision_is_near(name):
    inputs, targets, exits = problem(5, dtype=torch.float32)
    heads = Heads(exits=exits, exit_weights=[1.0, 0.5, 2.0], base=exits[0], complete=capped)
    expected, _ = plain(inputs, targets, heads, Objective(name=name))

    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = chunked_loss(inputs, targets, heads, Objective(name=name), chunk=3)

    assert loss.dtype == torch.float32
    assert torch.allclose(loss, expected, rtol=0.05)
    for ours, theirs in zip(
        gradients(loss, inputs, exits), gradients(expected, inputs, exits), strict=True
    ):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 0.05 * theirs.norm()


def test_the_default_chunk_holds_a_bounded_number_of_scores():
    widest = 0

    def watched(raw, _):
        nonlocal widest
        widest = max(widest, raw.numel())
        return raw

    head = nn.Linear(1, 2**18, bias=False)
    rows = torch.ones(70, 1)
    targets = Targets(
        tokens=torch.zeros(70, dtype=torch.long), weights=torch.ones(70), teacher=None
    )
    heads = Heads(exits=[head], exit_weights=[1.0], base=head, complete=watched)

    with torch.no_grad():
        chunked_loss([rows], targets, heads, Objective(name="next-token"))

    assert widest == 2**23
