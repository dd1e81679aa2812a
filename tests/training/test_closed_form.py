"""Ridge regression against what was planted, and against plain least squares."""

import pytest
import torch
from torch import nn

import tiny
from offramp import attach_exits
from offramp.errors import ConfigError, ExitNotFoundError, InputError
from offramp.training.closed_form import Sums, fit_closed_form
from offramp.training.objectives import Objective
from offramp.training.student import Lesson, Student


def batches(rows=40, length=20, *, cut=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, tiny.VOCAB, (rows, length), generator=generator)
    shift = torch.cat((ids[:, 1:], ids.new_full((rows, 1), -100)), -1)
    for start in range(0, rows, cut):
        part = slice(start, start + cut)
        yield {"input_ids": ids[part], "shift_labels": shift[part]}


def test_the_sums_solve_the_plain_least_squares():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(50, width, generator=generator).double() for width in (6, 4))
    sums = Sums()
    for part in x.split(7), y.split(7):
        assert len(part) == 8
    for a, b in zip(x.split(7), y.split(7), strict=True):
        sums.add_(a, b)

    matrix, bias = sums.solve(1e-12, intercept=True)

    ones = torch.cat((x, torch.ones(50, 1)), -1)
    plain = torch.linalg.lstsq(ones, y).solution
    assert sums.count == 50
    assert torch.allclose(matrix, plain[:6].mT, atol=1e-6)
    assert torch.allclose(bias, plain[6], atol=1e-6)
    assert not sums.solve(1e-12, intercept=False)[1].any()


def test_a_stronger_ridge_shrinks_the_matrix_and_not_the_intercept():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 6, generator=generator)
    sums = Sums()
    sums.add_(x, 2 * x + 3)

    matrix, bias = sums.solve(1e6, intercept=True)

    assert matrix.abs().max() < 1e-3
    assert torch.allclose(bias, (2 * x + 3).mean(0).double(), atol=1e-3)


class Affine(nn.Module):
    """A block that does what a lens can undo."""

    def __init__(self, matrix, bias):
        super().__init__()
        self.matrix, self.bias = nn.Parameter(matrix), nn.Parameter(bias)

    def forward(self, hidden_states, *_, **__):
        return hidden_states + hidden_states @ self.matrix.mT + self.bias


def planted(projection):
    """A model whose last block is an affine map, so that exit 3 can say what the model says."""
    model = tiny.model_of("llama")
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(32, 32, generator=generator) * 0.3
    bias = torch.randn(32, generator=generator)
    model.model.layers[3] = Affine(matrix, bias)
    return attach_exits(model.double(), (3,), projection), matrix, bias


def test_a_lens_finds_the_affine_map_that_was_planted():
    model, matrix, bias = planted("lens")

    count = fit_closed_form(model, batches(), exits=(3,), ridge=1e-12)

    assert count == 40 * 19
    assert torch.allclose(model.exits["3"].linear.weight, matrix.double(), atol=1e-6)
    assert torch.allclose(model.exits["3"].linear.bias, bias.double(), atol=1e-6)


class Turned(nn.Module):
    """A last norm that, after the last block, also turns the state by a matrix."""

    def __init__(self, norm, matrix):
        super().__init__()
        self.norm, self.matrix, self.turns = norm, matrix, True
        self.weight = norm.weight

    def forward(self, state):
        normed = self.norm(state)
        return normed @ self.matrix.mT if state.dim() == 3 else normed


def test_a_cast_finds_the_linear_map_that_was_planted():
    model = tiny.model_of("llama").double()
    matrix = torch.randn(32, 32, generator=torch.Generator().manual_seed(1)).double()
    attach_exits(model, (3,), "cast")
    model.model.layers[3] = Affine(torch.zeros(32, 32).double(), torch.zeros(32).double())
    model.model.norm = Turned(model.model.norm, matrix)  # the base's own call has three dimensions

    fit_closed_form(model, batches(), exits=(3,), ridge=1e-12)

    assert torch.allclose(model.exits["3"].linear.weight, matrix, atol=1e-6)


@pytest.mark.parametrize("projection", ["cast", "lens"])
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_the_fit_does_not_depend_on_how_the_text_is_cut(projection, share):
    found = []
    for cut in (1, 7, 40):
        model = attach_exits(tiny.model_of("llama").double(), (1, 2), projection)
        count = fit_closed_form(model, batches(cut=cut), exits=(1, 2), share=share)
        found.append((count, [p.clone() for p in model.exits.parameters()]))

    for count, parameters in found[1:]:
        assert count == found[0][0]
        for ours, theirs in zip(parameters, found[0][1], strict=True):
            assert torch.allclose(ours, theirs, atol=1e-8)


def divergence(model, exits):
    lesson = Lesson(objective=Objective(), exit_weights=dict.fromkeys(exits, 1.0))
    with torch.no_grad():
        batch = next(batches(30, seed=9, cut=30))
        return Student(model, lesson).eval()(**batch)["exit_losses"]


@pytest.mark.parametrize("projection", ["cast", "lens"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma2"])
def test_fitted_exits_are_nearer_to_the_last_layer_on_other_text(projection, family):
    model = attach_exits(tiny.model_of(family), (2, 3), projection)
    before = divergence(model, (2, 3))
    base = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("exits.")}

    fit_closed_form(model, batches(120), exits=(2, 3), ridge=1e-2)

    assert (divergence(model, (2, 3)) < before).all()
    assert all(torch.equal(model.state_dict()[name], each) for name, each in base.items())


def test_exits_that_were_not_named_are_left_alone():
    model = attach_exits(tiny.model_of("llama"), (1, 2), "lens")
    told = []

    count = fit_closed_form(model, batches(), exits=(2,), advance=told.append)

    assert not model.exits["1"].linear.weight.any()
    assert model.exits["2"].linear.weight.any()
    assert sum(told) == count


@pytest.mark.parametrize("projection", ["head", "direct", "block"])
def test_exits_without_a_closed_form_are_refused(projection):
    model = attach_exits(tiny.model_of("llama"), (1,), projection)

    with pytest.raises(ConfigError, match=f"exit 1 is '{projection}', which has no closed form"):
        fit_closed_form(model, batches(), exits=(1,))


def test_nothing_to_fit_or_to_fit_on_is_refused():
    model = attach_exits(tiny.model_of("llama"), (1,), "lens")

    with pytest.raises(ConfigError, match="no exit to fit"):
        fit_closed_form(model, batches(), exits=())
    with pytest.raises(ConfigError, match="ridge must be above 0, got 0"):
        fit_closed_form(model, batches(), exits=(1,), ridge=0.0)
    with pytest.raises(ExitNotFoundError, match="exit 2 is not attached"):
        fit_closed_form(model, batches(), exits=(2,))
    with pytest.raises(InputError, match="no text to fit"):
        fit_closed_form(model, [], exits=(1,))
