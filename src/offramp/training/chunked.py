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
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone uses
from jaxtyping import Float, Int
from torch import Tensor, nn

from offramp.blocks.projections import can_gather
from offramp.errors import ConfigError
from offramp.training.candidates import Candidates, Drawn
from offramp.training.objectives import Objective

CHUNK_SCORES = 2**24
"""Scores in a chunk, 64 MB in float32: enough rows to keep a processor busy with each product."""


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
    """

    exits: Sequence[nn.Module]
    exit_weights: Sequence[float]
    base: nn.Module
    complete: Callable[[Tensor, Tensor | None], Tensor]
    candidates: Candidates | None = None
    seed: int = 0

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
    size = chunk or max(16, CHUNK_SCORES // _vocabulary(heads.base))
    trained = heads.trained
    total, sums = _Chunked.apply(  # type: ignore[no-untyped-call]
        (targets, heads, objective, size, len(inputs), trained), *inputs, *trained
    )
    return total, sums


class _Chunked(torch.autograd.Function):
    """Computes the gradients of the sum together with the sum."""

    @staticmethod
    def forward(ctx: Any, plan: tuple[Any, ...], *tensors: Tensor) -> tuple[Tensor, Tensor]:
        targets, heads, objective, size, count, trained = plan
        inputs = tensors[:count]
        wide = torch.float64 if inputs[0].dtype is torch.float64 else torch.float32
        sums = torch.zeros(count, dtype=wide, device=targets.weights.device)
        backwards = [torch.zeros_like(each) for each in inputs]
        by_parameter = {id(each): torch.zeros_like(each) for each in trained}
        generator = torch.Generator().manual_seed(heads.seed)
        for start in range(0, len(targets.tokens), size):
            rows = slice(start, start + size)
            goal = _Goal.of(targets, rows, heads, generator)
            for index, (head, given) in enumerate(zip(heads.exits, inputs, strict=True)):
                read = given[rows].detach()
                scale = heads.exit_weights[index]
                loss, gradient = goal.loss(head, read, (heads, objective, scale))
                sums[index] += loss
                back = _through(head, read, gradient, goal.columns, by_parameter)
                backwards[index][rows] = back.to(given)
        weights = torch.tensor(heads.exit_weights, dtype=wide, device=sums.device)
        ctx.gradients = [*backwards, *(by_parameter[id(each)] for each in trained)]
        ctx.mark_non_differentiable(sums)
        return (sums * weights).sum(), sums

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        return (None, *(each.mul_(outer[0]) for each in gradients))


@dataclass(frozen=True, kw_only=True)
class _Goal:
    """What all exits shall say in one chunk, and of which tokens."""

    teacher: Tensor | None
    tokens: Tensor
    weights: Tensor
    drawn: Drawn | None

    @classmethod
    def of(cls, targets: Targets, rows: slice, heads: Heads, generator: torch.Generator) -> "_Goal":
        teacher, tokens, drawn = None, targets.tokens[rows], None
        if targets.teacher is not None:
            teacher = heads.complete(heads.base(targets.teacher[rows]), None).detach()
            if heads.candidates is not None:
                drawn = heads.candidates.draw(teacher, tokens, generator=generator)
                teacher = teacher[:, drawn.columns] + drawn.log_count
                tokens = drawn.tokens
        return cls(teacher=teacher, tokens=tokens, weights=targets.weights[rows], drawn=drawn)

    @property
    def columns(self) -> Tensor | None:
        return None if self.drawn is None else self.drawn.columns

    def loss(self, head: nn.Module, read: Tensor, plan: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        """Give the loss of one exit, and its gradient with respect to the head's output."""
        heads, objective, scale = plan
        with torch.no_grad():
            raw = head(read) if self.columns is None else _some(head, read, self.columns)
        with torch.enable_grad():
            raw = raw.detach().requires_grad_()
            scores = heads.complete(raw, self.columns)
            if self.drawn is not None:
                scores = scores + self.drawn.log_count
            loss = (objective.losses(scores, self.teacher, self.tokens) * self.weights).sum()
            (gradient,) = torch.autograd.grad(loss * scale, raw)
        return loss.detach(), gradient


def _some(head: nn.Module, read: Tensor, columns: Tensor) -> Tensor:
    """Score some tokens."""
    weight: Tensor = head.weight  # type: ignore[assignment]
    bias: Tensor | None = head.bias  # type: ignore[assignment]
    return F.linear(read, weight[columns], None if bias is None else bias[columns])


def _through(
    head: nn.Module,
    read: Tensor,
    gradient: Tensor,
    columns: Tensor | None,
    by_parameter: dict[int, Tensor],
) -> Tensor:
    """Take the gradient of a chunk's scores back through its head."""
    if not can_gather(head):
        with torch.enable_grad():
            leaf = read.requires_grad_()
            (back,) = torch.autograd.grad(head(leaf), leaf, gradient)
        return back
    weight: Tensor = head.weight  # type: ignore[assignment]
    bias: Tensor | None = head.bias  # type: ignore[assignment]
    if (summed := by_parameter.get(id(weight))) is not None:
        if columns is not None:
            summed.index_add_(0, columns, (gradient.mT @ read).to(summed))
        elif torch.is_autocast_enabled(gradient.device.type):
            summed.add_(gradient.mT @ read)
        else:
            summed.addmm_(gradient.mT.to(summed), read.to(summed))
    if bias is not None and (summed := by_parameter.get(id(bias))) is not None:
        if columns is None:
            summed.add_(gradient.sum(0))
        else:
            summed.index_add_(0, columns, gradient.sum(0).to(summed))
    return gradient @ (weight if columns is None else weight[columns]).to(gradient)


def _vocabulary(head: nn.Module) -> int:
    return int(getattr(head, "out_features", 0)) or head.weight.shape[0]  # type: ignore[union-attr]
