"""Which positions are chosen, and on what that depends."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from offramp.training.positions import choose_positions, position_weights


@st.composite
def batches(draw):
    """Rows of tokens with usable positions, each padded by up to 3 on the left and right."""
    width = draw(st.integers(1, 12))
    count = draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    tokens = torch.randint(0, 150_000, (count, width), generator=generator)
    usable = torch.rand(count, width, generator=generator) < 0.7
    return tokens, usable


shares, seeds = st.floats(0.01, 1.0), st.integers(-5, 10**9)


def padded(each, left, right, fill):
    return torch.nn.functional.pad(each, (left, right), value=fill)


@given(batch=batches(), share=shares, seed=seeds, left=st.integers(0, 3), right=st.integers(0, 3))
def test_a_row_is_chosen_alike_alone_and_with_mates_and_padding(batch, share, seed, left, right):
    tokens, usable = batch
    wide = padded(tokens, left, right, 9), padded(usable, left, right, False)

    together = choose_positions(*wide, share=share, seed=seed)
    backwards = choose_positions(*(each.flip(0) for each in wide), share=share, seed=seed)

    for row in range(len(tokens)):
        alone = choose_positions(tokens[[row]], usable[[row]], share=share, seed=seed)
        assert torch.equal(padded(alone[0], left, right, False), together[row])
    assert torch.equal(backwards.flip(0), together)


@given(batch=batches(), share=shares, seed=seeds)
def test_the_share_is_kept_and_every_row_with_something_to_learn_keeps_one(batch, share, seed):
    tokens, usable = batch

    chosen = choose_positions(tokens, usable, share=share, seed=seed)

    assert not (chosen & ~usable).any()
    for kept, able in zip(chosen.sum(-1).tolist(), usable.sum(-1).tolist(), strict=True):
        assert min(able, 1) <= kept <= able
        assert abs(kept - able * share) <= 1 + 1e-4


@given(batch=batches(), share=shares, seed=seeds)
def test_the_weights_of_a_row_sum_to_its_usable_positions(batch, share, seed):
    tokens, usable = batch
    chosen = choose_positions(tokens, usable, share=share, seed=seed)

    weights = position_weights(usable, chosen)

    sums = torch.zeros(len(tokens)).index_add_(0, chosen.nonzero()[:, 0], weights)
    assert torch.allclose(sums, usable.sum(-1).float())


def test_a_whole_share_takes_everything():
    tokens, usable = torch.arange(20).view(2, 10), torch.arange(20).view(2, 10) % 3 > 0

    assert torch.equal(choose_positions(tokens, usable, share=1.0, seed=3), usable)


def test_another_seed_or_another_token_draws_others():
    tokens, usable = torch.arange(100)[None], torch.ones(1, 100, dtype=torch.bool)
    changed = tokens.clone()
    changed[0, 50] = 7

    first = choose_positions(tokens, usable, share=0.3, seed=1)

    assert not torch.equal(first, choose_positions(tokens, usable, share=0.3, seed=2))
    assert not torch.equal(first, choose_positions(changed, usable, share=0.3, seed=1))


def test_over_many_seeds_every_position_is_chosen_as_often():
    tokens, usable = torch.arange(40)[None], torch.ones(1, 40, dtype=torch.bool)

    often = sum(
        choose_positions(tokens, usable, share=0.25, seed=seed).float() for seed in range(2000)
    )

    spread = math.sqrt(2000 * 0.25 * 0.75)
    assert (often - 500).abs().max() < 5 * spread
