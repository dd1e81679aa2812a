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
from typing import Literal, NamedTuple

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
    return F.cross_entropy(_wide(scores), tokens, reduction="none")


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
    exit, last = _wide(scores) / temperature, _wide(teacher) / temperature
    if log_count is not None:  # after the temperature: it softens scores, it does not unmake tokens
        exit, last = exit + log_count, last + log_count
    exit, last = F.log_softmax(exit, dim=-1), F.log_softmax(last, dim=-1)
    divergence = F.kl_div(exit, last, reduction="none", log_target=True).sum(-1)
    return divergence * temperature**2


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
        teacher: Float[Tensor, "rows vocab"] | None,
        tokens: Int[Tensor, " rows"],
        log_count: Float[Tensor, " vocab"] | None = None,
    ) -> Float[Tensor, " rows"]:
        """Give the loss of each row.

        Args:
            scores: Of the exit.
            teacher: Of the last layer; None for ``next-token``.
            tokens: Where among the scores the text's next tokens are.
            log_count: Logarithm of how many tokens each score stands for; None: each for itself.
        """
        return OBJECTIVES[self.name](self, Case(scores, teacher, tokens, log_count))


class Case(NamedTuple):
    """What an objective is asked about; see ``Objective.losses``."""

    scores: Tensor
    teacher: Tensor | None
    tokens: Tensor
    log_count: Tensor | None


def _next_token(_: Objective, case: Case) -> Tensor:
    scores = case.scores if case.log_count is None else _wide(case.scores) + case.log_count
    return next_token_loss(scores, case.tokens)


def _distilled(objective: Objective, case: Case) -> Tensor:
    assert case.teacher is not None
    return distillation_loss(
        case.scores, case.teacher, temperature=objective.temperature, log_count=case.log_count
    )


def _mixed(objective: Objective, case: Case) -> Tensor:
    return torch.lerp(_next_token(objective, case), _distilled(objective, case), objective.share)


OBJECTIVES: Mapping[str, Callable[[Objective, Case], Tensor]] = {
    "next-token": _next_token,
    "distillation": _distilled,
    "mixed": _mixed,
}
