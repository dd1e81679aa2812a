"""Sum the losses of many exits without ever holding their scores of all positions.

In:  what each exit's head reads, [N, D], for N positions. Out: the weighted sum of their losses,
     differentiable, and each exit's own sum.
Law: loss and gradients equal the plain computation's, to 1e-10 in float64
     (tests/training/test_chunked.py); the memory beyond them is some chunks of scores, whatever
     the number of exits and positions (benchmarks/train_exits.py).
Not here: the losses themselves (offramp.training.objectives).

How: the gradient with respect to the scores of a chunk is computed at once, in the forward pass,
and turned into gradients of the head's input and of the head; then the scores are dropped. Hsu et
al. 2024 (Liger), arXiv:2410.10989, section 3.2, do so for one head. Differs from the paper: many
exits share one chunk of the teacher's scores, and any objective's gradient comes from autograd.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone uses
from jaxtyping import Float, Int
from torch import Tensor, nn

from offramp.blocks.projections import can_gather
from offramp.errors import ConfigError
from offramp.training.candidates import Candidates, Drawn
from offramp.training.objectives import Objective, Teacher

CHUNK_SCORES = 2**23
"""Scores in a chunk, 32 MB in float32: enough rows to keep a processor busy with each product."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What the exits of some positions shall say.

    Attributes:
        tokens: The text's next tokens, [N].
        weights: What each position counts, [N].
        teacher: What the base's head reads at these positions, [N, D]; None if nobody asks it.
    """

    tokens: Int[Tensor, " rows"]
    weights: Float[Tensor, " rows"]
    teacher: Float[Tensor, "rows width"] | None


@dataclass(frozen=True, kw_only=True)
class Heads:
    """How head inputs become scores.

    Attributes:
        exits: The head of each exit.
        exit_weights: What each exit's loss counts.
        base: The base's head, which the teacher goes through.
        complete: What follows a head: scale, soft cap, bias; of some tokens only if told which.
        candidates: Score these tokens only; None scores the whole vocabulary.
        seed: Decides the draw of candidates.
        on_text: For each exit, whether it learns the text's next tokens over the whole vocabulary,
            whatever the objective and the candidates are; empty: none does.
    """

    exits: Sequence[nn.Module]
    exit_weights: Sequence[float]
    base: nn.Module
    complete: Callable[[Tensor, Tensor | None], Tensor]
    candidates: Candidates | None = None
    seed: int = 0
    on_text: Sequence[bool] = ()

    @property
    def trained(self) -> list[nn.Parameter]:
        """The heads' parameters that need a gradient, each once.

        Raises:
            ConfigError: A head that is no plain linear layer shall be trained.
        """
        found: dict[int, nn.Parameter] = {}
        for head in self.exits:
            for parameter in head.parameters():
                if parameter.requires_grad:
                    found[id(parameter)] = parameter
            if not can_gather(head) and any(p.requires_grad for p in head.parameters()):
                raise ConfigError(
                    f"cannot train a head of type {type(head).__name__}; only plain linear heads "
                    "can be trained, freeze it"
                )
        return list(found.values())


def chunked_loss(
    inputs: Sequence[Float[Tensor, "rows width"]],
    targets: Targets,
    heads: Heads,
    objective: Objective,
    *,
    chunk: int | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, " exits"]]:
    """Sum losses over exits and positions.

    Args:
        inputs: What each exit's head reads; gradients flow back into it.
        targets: What they shall say.
        heads: How they say it.
        objective: What the difference costs.
        chunk: Positions at a time; by default as many as give ``CHUNK_SCORES`` scores.

    Returns:
        The sum, weighted by exit and position, and the sum of each exit, weighted by position.
    """
    size = chunk or max(16, CHUNK_SCORES // vocabulary_of(heads.base))
    trained = heads.trained
    learns = torch.is_grad_enabled()
    asked = [learns and each.requires_grad for each in inputs]
    plan = _Plan(targets, heads, objective, size, asked, trained if learns else [])
    total, sums = _Chunked.apply(plan, *inputs, *trained)  # type: ignore[no-untyped-call]
    return total, sums


class _Plan(NamedTuple):
    """What a chunked sum is made of."""

    targets: Targets
    heads: Heads
    objective: Objective
    size: int
    asked: list[bool]
    """Which inputs need a gradient."""
    trained: list[nn.Parameter]
    """Which parameters of heads do."""


class _Chunked(torch.autograd.Function):
    """Computes the gradients of the sum together with the sum."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        targets, heads = plan.targets, plan.heads
        inputs = tensors[: len(plan.asked)]
        wide = torch.float64 if inputs[0].dtype is torch.float64 else torch.float32
        sums = torch.zeros(len(inputs), dtype=wide, device=targets.weights.device)
        backwards = [
            torch.zeros_like(each) if asked else None
            for each, asked in zip(inputs, plan.asked, strict=True)
        ]
        by_parameter = {id(each): torch.zeros_like(each) for each in plan.trained}
        generator = torch.Generator().manual_seed(heads.seed)
        for start in range(0, len(targets.tokens), plan.size):
            rows = slice(start, start + plan.size)
            goal = _Goal.of(plan, rows, generator)
            for index, (head, given) in enumerate(zip(heads.exits, inputs, strict=True)):
                read = given[rows].detach()
                loss, gradient, columns = goal.loss(index, read, plan)
                sums[index] += loss
                if gradient is None:
                    continue
                _gather_(head, read, gradient, columns, by_parameter)
                if (back := backwards[index]) is not None:
                    back[rows] = _through(head, read, gradient, columns).to(given)
        weights = torch.tensor(heads.exit_weights, dtype=wide, device=sums.device)
        ctx.gradients = [*backwards, *by_parameter.values()]
        ctx.mark_non_differentiable(sums)
        return (sums * weights).sum(), sums

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        return (None, *(None if each is None else each.mul_(outer[0]) for each in gradients))


@dataclass(frozen=True, kw_only=True)
class _Goal:
    """What all exits shall say in one chunk, and of which tokens."""

    teacher: Teacher | None
    tokens: Tensor
    weights: Tensor
    drawn: Drawn | None

    @classmethod
    def of(cls, plan: _Plan, rows: slice, generator: torch.Generator) -> "_Goal":
        targets, heads = plan.targets, plan.heads
        teacher, tokens, drawn = None, targets.tokens[rows], None
        if targets.teacher is not None:
            scores = heads.complete(heads.base(targets.teacher[rows]), None).detach()
            if heads.candidates is not None:
                drawn = heads.candidates.draw(scores, tokens, generator=generator)
                scores = scores[:, drawn.columns]
            teacher = plan.objective.prepare(scores, None if drawn is None else drawn.log_count)
        return cls(teacher=teacher, tokens=tokens, weights=targets.weights[rows], drawn=drawn)

    def loss(
        self, index: int, read: Tensor, plan: _Plan
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Give one exit's loss, its gradient by the head's output, and the columns of that.

        There is no gradient where nobody needs one.
        """
        head, scale = plan.heads.exits[index], plan.heads.exit_weights[index]
        on_text = bool(plan.heads.on_text) and plan.heads.on_text[index]
        drawn = None if on_text else self.drawn
        columns = None if drawn is None else drawn.columns
        tokens = self.tokens if drawn is None else drawn.tokens
        log_count = None if drawn is None else drawn.log_count
        objective = NEXT_TOKEN if on_text else plan.objective
        with torch.no_grad():
            raw = head(read) if columns is None else _some(head, read, columns)
        needed = plan.asked[index] or any(
            own is each for own in head.parameters() for each in plan.trained
        )
        with torch.set_grad_enabled(needed):
            raw = raw.detach().requires_grad_(needed)
            scores = plan.heads.complete(raw, columns)
            losses = objective.losses(scores, self.teacher, tokens, log_count)
            loss = (losses * self.weights).sum()
            gradient = torch.autograd.grad(loss * scale, raw)[0] if needed else None
        return loss.detach(), gradient, columns


NEXT_TOKEN = Objective(name="next-token")


def _some(head: nn.Module, read: Tensor, columns: Tensor) -> Tensor:
    """Score some tokens."""
    weight: Tensor = head.weight  # type: ignore[assignment]
    bias: Tensor | None = head.bias  # type: ignore[assignment]
    return F.linear(read, weight[columns], None if bias is None else bias[columns])


def _gather_(
    head: nn.Module,
    read: Tensor,
    gradient: Tensor,
    columns: Tensor | None,
    by_parameter: dict[int, Tensor],
) -> None:
    """Add the gradient of a chunk's scores to those of its head's parameters, if asked for."""
    summed = by_parameter.get(id(getattr(head, "weight", None)))
    if summed is not None:
        if columns is not None:
            summed.index_add_(0, columns, (gradient.mT @ read).to(summed))
        elif torch.is_autocast_enabled(gradient.device.type):
            summed.add_(gradient.mT @ read)
        else:
            summed.addmm_(gradient.mT.to(summed), read.to(summed))
    summed = by_parameter.get(id(getattr(head, "bias", None)))
    if summed is not None:
        if columns is None:
            summed.add_(gradient.sum(0))
        else:
            summed.index_add_(0, columns, gradient.sum(0).to(summed))


def _through(head: nn.Module, read: Tensor, gradient: Tensor, columns: Tensor | None) -> Tensor:
    """Take the gradient of a chunk's scores back to what its head read."""
    if not can_gather(head):
        with torch.enable_grad():
            leaf = read.requires_grad_()
            (back,) = torch.autograd.grad(head(leaf), leaf, gradient)
        return back
    weight: Tensor = head.weight  # type: ignore[assignment]
    return gradient @ (weight if columns is None else weight[columns]).to(gradient)


def vocabulary_of(head: nn.Module) -> int:
    """Give how many tokens a head scores; a quantised weight may have any shape."""
    return int(getattr(head, "out_features", 0)) or len(head.weight)  # type: ignore[arg-type]
