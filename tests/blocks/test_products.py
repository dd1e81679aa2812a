"""However many lines there are, a product is the product."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone uses
from torch.profiler import ProfilerActivity, profile

import tiny
from offramp.blocks import products
from offramp.blocks.anatomy import anatomy_of
from offramp.blocks.engines import engine_for_many
from offramp.blocks.products import Matrix, filled_up, is_helped

LINES = (0, 1, 3, 4, 5, 6, 8, 15, 16, 47, 48, 60)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def weights():
    torch.manual_seed(0)
    return torch.randn(40, 24), torch.randn(40)


@pytest.mark.parametrize("lines", LINES)
@pytest.mark.parametrize("packed", [False, True])
def test_a_product_is_that_of_linear(weights, lines, packed):
    states, (matrix, bias) = torch.randn(lines, 24), weights
    before = torch.randn(lines, 40)
    kept = before.clone()

    with torch.no_grad():
        found = Matrix(matrix, bias, packed=packed)(states)
        added = Matrix(matrix, packed=packed).added(before, states)

    torch.testing.assert_close(found, F.linear(states, matrix, bias), **CLOSE)
    torch.testing.assert_close(added, kept + states @ matrix.t(), **CLOSE)
    assert torch.equal(before, kept)


@pytest.mark.skipif(not is_helped(torch.ones(1)), reason="this PyTorch has no MKL and oneDNN")
@pytest.mark.parametrize(("packed", "lines"), [(False, range(6, 16)), (True, range(4, 48))])
def test_onednn_is_asked_where_it_is_faster(weights, monkeypatch, packed, lines):
    matrix, asked = Matrix(weights[0], packed=packed), []
    monkeypatch.setattr(matrix, "_by_onednn", lambda states: asked.append(len(states)) or states)

    with torch.no_grad():
        for count in range(60):
            matrix(torch.randn(count, 24))

    assert asked == list(lines)


@pytest.mark.skipif(not is_helped(torch.ones(1)), reason="this PyTorch has no MKL and oneDNN")
def test_onednn_is_asked_for_few_different_numbers_of_lines(weights):
    matrix = Matrix(weights[0], packed=True)

    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        for count in range(1, 60):
            matrix(torch.randn(count, 24))

    shapes = {
        tuple(event.input_shapes[0])
        for event in seen.events()
        if event.name == "mkldnn::_linear_pointwise"
    }
    asked = sorted(shape[0] for shape in shapes)
    assert asked == [*range(4, 17), *range(20, 49, 4)]  # it keeps code and room for each


def test_gradients_are_those_of_linear(weights):
    matrix = Matrix(weights[0], packed=True)
    states = torch.randn(8, 24, requires_grad=True)

    matrix(states).sum().backward()

    torch.testing.assert_close(states.grad, weights[0].sum(0).expand(8, -1), **CLOSE)


@pytest.mark.parametrize("lines", range(1, 20))
def test_lines_of_zeros_change_no_product(lines):
    states, matrix = torch.randn(lines, 24), torch.randn(24, 40)

    product = (filled_up(states) @ matrix)[:lines]

    torch.testing.assert_close(product, states @ matrix, **CLOSE)


@pytest.mark.parametrize(("most", "name"), [(2**20, "packed"), (100, "plain")])
def test_many_texts_get_packed_matrices_where_they_are_small(monkeypatch, most, name):
    monkeypatch.setattr(products, "PACKED_BYTES", most)

    assert engine_for_many(anatomy_of(tiny.model_of("llama"))).name == (
        name if is_helped(torch.ones(1)) else "plain"
    )


def test_other_families_get_their_own_engine():
    assert engine_for_many(anatomy_of(tiny.model_of("gpt2"))).name == "family"
