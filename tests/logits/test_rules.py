import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from offramp.logits.rules import certainty, saturation, top_gap, top_probability

RULES = [top_probability, top_gap, certainty]
rows = arrays.arrays("float32", (3, 7), elements=st.floats(-60, 60, width=32)).map(torch.from_numpy)


@pytest.mark.parametrize("rule", RULES)
@given(logits=rows)
def test_confidence_is_from_0_to_1(rule, logits):
    confidence = rule(logits)

    assert confidence.shape == (3,)
    assert bool(((confidence >= 0) & (confidence <= 1)).all())


@pytest.mark.parametrize("rule", RULES)
@given(logits=rows, shift=st.floats(-5, 5))
def test_confidence_is_of_the_distribution(rule, logits, shift):
    torch.testing.assert_close(rule(logits), rule(logits + shift), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rule", RULES)
def test_one_possible_token_is_certain(rule):
    logits = torch.tensor([[-math.inf, 0.0, -math.inf]])

    assert rule(logits).tolist() == [1.0]


@pytest.mark.parametrize(("rule", "value"), [(top_probability, 0.7), (top_gap, 0.5)])
def test_known_values(rule, value):
    logits = torch.tensor([0.7, 0.2, 0.1]).log()

    assert rule(logits).item() == pytest.approx(value, abs=1e-6)


def test_entropy_of_a_fair_coin_among_four():
    logits = torch.tensor([0.0, 0.0, -math.inf, -math.inf])

    assert certainty(logits).item() == pytest.approx(0.5, abs=1e-6)


def test_saturation_is_a_cosine():
    state = torch.tensor([[3.0, 4.0], [1.0, 0.0], [1.0, 0.0]])
    before = torch.tensor([[6.0, 8.0], [0.0, 1.0], [-1.0, 0.0]])

    torch.testing.assert_close(saturation(state, before), torch.tensor([1.0, 0.0, 0.0]))
