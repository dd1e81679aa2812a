"""Fit ``cast`` and ``lens`` exits without gradients: ridge regression on streamed sums.

In:  a model with such exits, and batches of text. Out: the exits, fitted in place.
Law: where the last layer is an affine function of the exit's state, the fit finds it; it does not
     depend on how the text is cut into batches (tests/training/test_closed_form.py).
Not here: making it better by gradients (offramp.training.exits).
Sources: cast, Din et al. 2023, arXiv:2303.09435, section 2.3 (least squares between layers, there
     without a ridge); lens, Belrose et al. 2023, arXiv:2303.08112, who train by gradients only.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from offramp.blocks.projections import Cast, Lens, Projection
from offramp.errors import ConfigError, InputError
from offramp.models.view import View
from offramp.training.objectives import Objective
from offramp.training.student import Lesson, Student


@dataclass
class Sums:
    """What a ridge regression with intercept needs of its data, in float64.

    Attributes:
        count: Rows so far.
        inputs: Sum of x xᵀ, with a one appended to each x, [D+1, D+1].
        products: Sum of x yᵀ, [D+1, D].
    """

    count: int = 0
    inputs: Tensor = field(default_factory=lambda: torch.zeros(()))
    products: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add_(self, x: Float[Tensor, "rows width"], y: Float[Tensor, "rows out"]) -> None:
        """Take in some rows."""
        x, y = x.double(), y.double()
        x = torch.cat((x, x.new_ones(len(x), 1)), dim=-1)
        self.count += len(x)
        self.inputs = self.inputs.to(x) + x.mT @ x
        self.products = self.products.to(x) + x.mT @ y

    def solve(
        self, ridge: float, *, intercept: bool
    ) -> tuple[Float[Tensor, "out width"], Float[Tensor, " out"]]:
        """Give the matrix and the intercept.

        Args:
            ridge: Added to the diagonal, as a share of its mean; the intercept is not shrunk.
            intercept: False: it is zero.
        """
        width = len(self.inputs) - 1
        size = width + intercept
        system = self.inputs[:size, :size].clone()
        diagonal = system.diagonal()[:width]
        diagonal += ridge * diagonal.mean()
        solved = torch.linalg.solve(system, self.products[:size])
        bias = solved[width] if intercept else solved.new_zeros(solved.shape[-1])
        return solved[:width].mT, bias


def fit_closed_form(
    model: Any,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    exits: Sequence[int],
    ridge: float = 1e-4,
    share: float = 1.0,
    advance: Callable[[int], None] = lambda positions: None,
) -> int:
    """Fit exits so that what they hand to the head is close to what the last layer hands to it.

    Args:
        model: A model with exits, changed in place.
        batches: ``input_ids``, ``shift_labels`` and what else the model takes.
        exits: Which; each ``cast`` or ``lens``.
        ridge: Strength of the ridge, as a share of the mean square of the inputs; above 0.
        share: Of the positions used, above 0, at most 1.
        advance: Called with the number of positions of each batch.

    Returns:
        How many positions were used.

    Raises:
        ConfigError: No exit is named, one is of another kind, or the ridge is not above 0.
        InputError: There is no text.
    """
    projections = _fittable(model, exits)
    model.calibration = None  # it was found for exits as they were
    if not ridge > 0:
        raise ConfigError(f"ridge must be above 0, got {ridge}; try 1e-4")
    depth = model.depth
    lesson = Lesson(
        objective=Objective(), exit_weights=dict.fromkeys((*projections, depth), 1.0), share=share
    )
    student = Student(model, lesson).eval()
    sums = {exit: Sums() for exit in projections}
    count = 0
    for batch in batches:
        with torch.no_grad():
            view, chosen = student.see(batch)
        for exit, projection in projections.items():
            sums[exit].add_(*_pair(view, exit, depth, projection))
        count += int(chosen.sum())
        advance(int(chosen.sum()))
    if count == 0:
        raise InputError("no text to fit exits on; give at least one row with two tokens")
    with torch.no_grad():
        for exit, projection in projections.items():
            matrix, bias = sums[exit].solve(ridge, intercept=isinstance(projection, Lens))
            projection.linear.weight.copy_(matrix)
            if isinstance(projection, Lens):
                projection.linear.bias.copy_(bias)
    return count


def _fittable(model: Any, exits: Sequence[int]) -> dict[int, Cast | Lens]:
    found: dict[int, Cast | Lens] = {}
    for exit in model.check_exits(tuple(exits), attached_only=True):
        projection: Projection = model.exits[str(exit)]
        if not isinstance(projection, Cast | Lens):
            raise ConfigError(
                f"exit {exit} is '{projection.mode.short}', which has no closed form; only 'cast' "
                "and 'lens' have one"
            )
        found[exit] = projection
    if not found:
        raise ConfigError("no exit to fit; name 'cast' or 'lens' exits that are attached")
    return found


def _pair(view: View, exit: int, depth: int, projection: Cast | Lens) -> tuple[Tensor, Tensor]:
    """Give what the matrix reads and what it shall add up to."""
    state = view.keep(view.seen.states[exit])
    if isinstance(projection, Cast):
        return view.anatomy.finish(state), view.seen.finished()
    return state, view.keep(view.seen.states[depth]) - state
