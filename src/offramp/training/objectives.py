"""Say what an exit shall learn: one function for each objective, scores in, losses out.

In:  an exit's scores of the vocabulary, and the last layer's or the text's next tokens. Out: one
     loss per row, in nats.
Law: every loss is computed in float32 or wider, whatever the scores came in; none is below 0, but
     for rounding (tests/training/test_objectives.py).
Not here: which rows, and without holding all their scores at once (offramp.training.chunked).

To add one: a function here, and a row of ``OBJECTIVES``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone uses
from jaxtyping import Float, Int
from torch import Tensor

from offramp.errors import ConfigError

ObjectiveName = Literal["next-token", "distillation", "mixed"]


def next_token_loss(
    scores: Float[Tensor, "rows vocab"], tokens: Int[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    """Give the cross-entropy of the text's next tokens, the published objective.

    Source: Gera et al. 2023, arXiv:2305.01628, section 3 (summed over exits by the caller).

    Example:
        >>> next_token_loss(torch.zeros(1, 8), torch.tensor([3])).exp().round().item()
        8.0
    """
    found: Tensor = _CrossEntropy.apply(scores, tokens)  # type: ignore[no-untyped-call]
    return found


def distillation_loss(
    scores: Float[Tensor, "rows vocab"],
    teacher: Float[Tensor, "rows vocab"],
    *,
    temperature: float = 1.0,
    log_count: Float[Tensor, " vocab"] | None = None,
) -> Float[Tensor, " rows"]:
    """Give the divergence KL(last layer || exit), both softened, times the squared temperature.

    Source: Hinton et al. 2015, arXiv:1503.02531, section 2; as the objective of exits, Belrose et
    al. 2023 (tuned lens), arXiv:2303.08112.

    Args:
        scores: Of the exit.
        teacher: Of the last layer.
        temperature: Above 0.
        log_count: Logarithm of how many tokens each score stands for; None: each for itself.

    Example:
        >>> same = torch.tensor([[1.0, 2.0, 3.0]])
        >>> distillation_loss(same, same).item()
        0.0
    """
    last = Teacher.of(teacher, temperature=temperature, log_count=log_count)
    return last.divergence(scores)


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """The last layer's side of a distillation, computed once for all exits.

    Attributes:
        probabilities: Softened.
        negative_entropy: Sum of p log p of each row.
        temperature: Above 0.
        log_count: As in ``distillation_loss``.
    """

    probabilities: Float[Tensor, "rows vocab"]
    negative_entropy: Float[Tensor, " rows"]
    temperature: float
    log_count: Float[Tensor, " vocab"] | None

    @classmethod
    def of(
        cls,
        scores: Float[Tensor, "rows vocab"],
        *,
        temperature: float = 1.0,
        log_count: Float[Tensor, " vocab"] | None = None,
    ) -> "Teacher":
        """Soften the last layer's scores; they get no gradient."""
        log_p = _softened(scores.detach(), temperature, log_count)
        p = log_p.exp()
        return cls(
            probabilities=p,
            negative_entropy=_row_products(p, log_p.clamp(min=torch.finfo(log_p.dtype).min)),
            temperature=temperature,
            log_count=log_count,
        )

    def divergence(self, scores: Float[Tensor, "rows vocab"]) -> Float[Tensor, " rows"]:
        """Give KL(last layer || exit) of each row, times the squared temperature."""
        found: Tensor = _Divergence.apply(scores, self)  # type: ignore[no-untyped-call]
        return found


class _CrossEntropy(torch.autograd.Function):
    """A cross-entropy whose gradient is written over what the forward pass computed.

    Autograd would keep several tables of scores and pass over each; this keeps one, and its
    gradient by the scores z is softmax(z) less one at the text's token.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, tokens: Tensor) -> Tensor:
        wide = _wide(scores)
        q, at = wide.softmax(-1), tokens[:, None]
        best, place = q.max(-1, keepdim=True)  # no less than 1 / V: its logarithm is exact
        ctx.q, ctx.at, ctx.dtype = q, at, scores.dtype
        return (wide.gather(1, place) - best.log() - wide.gather(1, at))[:, 0]

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        q, ctx.q = ctx.q, None
        each = outer[0][:, None]
        return q.mul_(each).scatter_add_(1, ctx.at, -each).to(ctx.dtype), None


class _Divergence(torch.autograd.Function):
    """A divergence with one table as well: its gradient is T (softmax(z / T) - p)."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, teacher: Teacher) -> Tensor:
        log_q = _softened(scores, teacher.temperature, teacher.log_count)
        lowest = torch.finfo(log_q.dtype).min
        crossed = _row_products(teacher.probabilities, log_q.clamp_(min=lowest))
        ctx.log_q, ctx.teacher, ctx.dtype = log_q, teacher, scores.dtype
        return (teacher.negative_entropy - crossed) * teacher.temperature**2

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        teacher, q = ctx.teacher, ctx.log_q.exp_()
        ctx.log_q = None
        gradient = q.sub_(teacher.probabilities).mul_(teacher.temperature * outer[0][:, None])
        return gradient.to(ctx.dtype), None


def _softened(
    scores: Tensor, temperature: float, log_count: Tensor | None
) -> Float[Tensor, "rows vocab"]:
    """Give log-probabilities; the counts come after the temperature, which softens scores only."""
    scores = _wide(scores)
    if temperature != 1.0:
        scores = scores / temperature
    if log_count is not None:
        scores = scores + log_count
    return F.log_softmax(scores, dim=-1)


def _row_products(left: Tensor, right: Tensor) -> Float[Tensor, " rows"]:
    """Give the sum of products of each row, without a table of products or a lower precision."""
    with torch.autocast(left.device.type, enabled=False):
        products: Tensor = torch.linalg.vecdot(left, right)
    return products


def _wide(scores: Tensor) -> Tensor:
    return scores if scores.dtype in (torch.float32, torch.float64) else scores.float()


@dataclass(frozen=True, kw_only=True)
class Objective:
    """An objective with its settings.

    Attributes:
        name: ``next-token``: the text's next tokens. ``distillation``: the last layer's
            probabilities. ``mixed``: both.
        temperature: Softens both sides of a distillation; above 0.
        share: Of the distillation in ``mixed``, 0 to 1.

    Raises:
        ConfigError: A setting is unknown or out of its range.

    Example:
        >>> Objective(name="mixed", share=0.5).needs_teacher
        True
    """

    name: ObjectiveName = "distillation"
    temperature: float = 1.0
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.name not in OBJECTIVES:
            raise ConfigError(
                f"unknown objective {self.name!r}; use one of {', '.join(OBJECTIVES)}"
            )
        if not self.temperature > 0:
            raise ConfigError(f"temperature must be above 0, got {self.temperature}; try 1")
        if not 0 <= self.share <= 1:
            raise ConfigError(f"share must be from 0 to 1, got {self.share}; try 0.5")

    @property
    def needs_teacher(self) -> bool:
        """Whether the last layer's scores are needed."""
        return self.name != "next-token"

    def losses(
        self,
        scores: Float[Tensor, "rows vocab"],
        teacher: Float[Tensor, "rows vocab"] | Teacher | None,
        tokens: Int[Tensor, " rows"],
        log_count: Float[Tensor, " vocab"] | None = None,
    ) -> Float[Tensor, " rows"]:
        """Give the loss of each row.

        Args:
            scores: Of the exit.
            teacher: Scores of the last layer, or what ``prepare`` made of them for several exits;
                None for ``next-token``.
            tokens: Where among the scores the text's next tokens are.
            log_count: Logarithm of how many tokens each score stands for; None: each for itself.
        """
        if isinstance(teacher, Tensor):
            teacher = self.prepare(teacher, log_count)
        return OBJECTIVES[self.name](Case(self, scores, teacher, tokens, log_count))

    def prepare(self, teacher: Tensor, log_count: Tensor | None = None) -> Teacher:
        """Compute what all exits need of the last layer's scores, once."""
        return Teacher.of(teacher, temperature=self.temperature, log_count=log_count)


class Case(NamedTuple):
    """What an objective is asked about; see ``Objective.losses``."""

    objective: Objective
    scores: Tensor
    teacher: Teacher | None
    tokens: Tensor
    log_count: Tensor | None


def _next_token(case: Case) -> Tensor:
    scores = case.scores if case.log_count is None else _wide(case.scores) + case.log_count
    return next_token_loss(scores, case.tokens)


def _distilled(case: Case) -> Tensor:
    assert case.teacher is not None
    return case.teacher.divergence(case.scores)


def _mixed(case: Case) -> Tensor:
    return torch.lerp(_next_token(case), _distilled(case), case.objective.share)


OBJECTIVES: Mapping[str, Callable[[Case], Tensor]] = {
    "next-token": _next_token,
    "distillation": _distilled,
    "mixed": _mixed,
}
