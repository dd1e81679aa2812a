"""MAUVE of histograms is what the formula gives, and buckets do not depend on order."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offramp.evaluation.mauve import MIXTURES, SCALE, buckets_of, mauve_measures, mauve_of
from offramp.evaluation.resampling import value_of

COUNTS = st.lists(st.integers(0, 9), min_size=2, max_size=6).filter(any)


def mauve(people, model):
    return float(mauve_of(torch.tensor([[*people, *model]], dtype=torch.float64))[0])


def by_hand(people, model):
    """The area under the curve, point by point, in plain Python."""

    def divergence(own, mixed):
        return sum(p * math.log(p / m) for p, m in zip(own, mixed, strict=True) if p)

    p, q = ([count / sum(some) for count in some] for some in (people, model))
    points = [(1.0, 0.0)]
    for step in range(MIXTURES):
        share = 1e-6 + (1 - 2e-6) * step / (MIXTURES - 1)
        mixed = [share * a + (1 - share) * b for a, b in zip(p, q, strict=True)]
        points.append(tuple(math.exp(-SCALE * divergence(own, mixed)) for own in (q, p)))
    points.append((0.0, 1.0))
    return sum((a[0] - b[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))


@given(pair=COUNTS.flatmap(lambda p: st.tuples(st.just(p), st.permutations(p))))
def test_it_is_the_area_under_the_curve(pair):
    assert mauve(*pair) == pytest.approx(by_hand(*pair), abs=1e-12)


@given(people=COUNTS)
def test_equal_histograms_have_mauve_one(people):
    assert mauve(people, [3 * count for count in people]) == pytest.approx(1)


def test_disjoint_histograms_have_almost_none():
    assert mauve([5, 0], [0, 5]) < 0.05


def test_texts_that_stand_apart_get_buckets_of_their_own_in_any_order():
    draw = torch.Generator().manual_seed(1)
    centres = torch.eye(3).double().repeat_interleave(8, 0)
    vectors = centres + 0.01 * torch.randn(24, 3, generator=draw).double()
    shuffled = torch.randperm(24, generator=draw)

    buckets = buckets_of(vectors, count=3)

    assert len({tuple(set(some)) for some in buckets.view(3, 8).tolist()}) == 3
    assert torch.equal(buckets_of(vectors[shuffled], count=3), buckets[shuffled])


def test_a_model_that_writes_as_people_do_has_more_of_it():
    draw = torch.Generator().manual_seed(2)
    people, alike = torch.randn(2, 100, 4, generator=draw).double()
    apart = alike + torch.tensor([3.0, 0, 0, 0])

    near, far = mauve_measures(people, [alike, apart], features="random vectors")

    assert value_of(near) > 0.8 > 0.4 > value_of(far)
    assert "not GPT-2's" in near.flavour


def test_too_few_or_equal_texts_end_in_no_error():
    same = torch.ones(20, 4).double()

    (score,) = mauve_measures(same, [same], features="ones")

    assert value_of(score) == pytest.approx(1)
    assert mauve_measures(same[:14], [same[:14]], features="ones") == []
