"""However many lines there are, a product is the product."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone uses
from torch.profiler import ProfilerActivity, profile

import tiny
from offramp.blocks import products
from offramp.blocks.anatomy import anatomy_of
from offramp.blocks.engines import engine_for_many
from offramp.blocks.products import Matrix, is_helped, product

LINES = (0, 1, 2, 3, 4, 5, 6, 8, 15, 16, 17, 47, 48, 60)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def weights():
    torch.manual_seed(0)
    return torch.randn(40, 24), torch.randn(40)


@pytest.fixture(params=["an Intel", "another"])
def processor(request, monkeypatch):
    """Either kind of processor, whatever this one is."""
    monkeypatch.setattr(products, "is_intel", lambda: request.param == "an Intel")
    return request.param


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    """So many threads; three do not divide the 40 rows of the matrix."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("lines", LINES)
@pytest.mark.parametrize("packed", [False, True])
def test_a_product_is_that_of_linear(weights, processor, threads, lines, packed):
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
@pytest.mark.parametrize(
    ("intel", "packed", "lines"),
    [
        (True, False, range(6, 16)),
        (True, True, range(4, 48)),
        (False, False, ()),
        (False, True, range(2, 48)),
    ],
)
def test_onednn_is_asked_where_it_is_faster(weights, monkeypatch, intel, packed, lines):
    monkeypatch.setattr(products, "is_intel", lambda: intel)
    matrix, asked = Matrix(weights[0], packed=packed), []
    monkeypatch.setattr(matrix, "_by_onednn", lambda states: asked.append(len(states)) or states)

    with torch.no_grad():
        for count in range(60):
            matrix(torch.randn(count, 24))

    assert asked == list(lines)


@pytest.mark.skipif(not is_helped(torch.ones(1)), reason="this PyTorch has no MKL and oneDNN")
def test_onednn_is_asked_for_few_different_numbers_of_lines(weights, monkeypatch):
    monkeypatch.setattr(products, "is_intel", lambda: True)
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


@pytest.mark.skipif(not is_helped(torch.ones(1)), reason="this PyTorch has no MKL and oneDNN")
@pytest.mark.parametrize(
    ("threads", "lines"), [(1, [1, 2, 3, 4]), (2, [*range(1, 17)])], indirect=["threads"]
)
def test_mkl_gets_the_matrix_on_the_left_where_it_is_faster(weights, monkeypatch, threads, lines):
    monkeypatch.setattr(products, "is_intel", lambda: False)
    asked, left = [], products.from_the_left
    monkeypatch.setattr(
        products, "from_the_left", lambda some, by: asked.append(len(some)) or left(some, by)
    )

    with torch.no_grad():
        for count in range(60):
            product(torch.randn(count, 24), weights[0])

    assert asked == lines


@pytest.mark.parametrize("lines", [1, 8])
def test_gradients_are_those_of_linear(weights, processor, lines):
    matrix = Matrix(weights[0], packed=True)
    states = torch.randn(lines, 24, requires_grad=True)

    matrix(states).sum().backward()

    torch.testing.assert_close(states.grad, weights[0].sum(0).expand(lines, -1), **CLOSE)


def test_matrices_that_are_not_whole_in_memory_are_multiplied_too(weights, processor):
    turned, states = weights[0].t(), torch.randn(1, 40)

    with torch.no_grad():
        found = product(states, turned)

    torch.testing.assert_close(found, F.linear(states, turned), **CLOSE)


@pytest.mark.parametrize("lines", LINES)
def test_a_product_without_a_copy_is_that_of_linear(weights, processor, threads, lines):
    states, (matrix, bias) = torch.randn(lines, 24), weights

    with torch.no_grad():
        found = product(states, matrix, bias)

    torch.testing.assert_close(found, F.linear(states, matrix, bias), **CLOSE)
    assert found.is_contiguous()


@pytest.mark.parametrize(("most", "name"), [(2**20, "packed"), (100, "plain")])
def test_many_texts_get_packed_matrices_where_they_are_small(monkeypatch, most, name):
    monkeypatch.setattr(products, "PACKED_BYTES", most)

    assert engine_for_many(anatomy_of(tiny.model_of("llama"))).name == (
        name if is_helped(torch.ones(1)) else "plain"
    )


def test_other_families_get_their_own_engine():
    assert engine_for_many(anatomy_of(tiny.model_of("gpt2"))).name == "family"
