"""Say what an exit shall learn: one function for each objective, scores in, losses out.

In:  an exit's scores of the vocabulary, and the last layer's or the text's next tokens. Out: one
     loss per row, in nats.
Law: every loss is computed in float32 or wider, whatever the scores came in, and is never negative
     (tests/training/test_objectives.py).
Not here: which rows, and without holding all their scores at once (offramp.training.chunked).

To add one: a function here, and a row of ``OBJECTIVES``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

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
) -> Float[Tensor, " rows"]:
    """Give the divergence KL(last layer || exit), both softened, times the squared temperature.

    Source: Hinton et al. 2015, arXiv:1503.02531, section 2; as the objective of exits, Belrose et
    al. 2023 (tuned lens), arXiv:2303.08112.

    Example:
        >>> same = torch.tensor([[1.0, 2.0, 3.0]])
        >>> distillation_loss(same, same).item()
        0.0
    """
    exit = F.log_softmax(_wide(scores) / temperature, dim=-1)
    last = F.log_softmax(_wide(teacher) / temperature, dim=-1)
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
    ) -> Float[Tensor, " rows"]:
        """Give the loss of each row."""
        return OBJECTIVES[self.name](self, scores, teacher, tokens)


def _distilled(
    objective: Objective, scores: Tensor, teacher: Tensor | None, _: Tensor
) -> Float[Tensor, " rows"]:
    assert teacher is not None
    return distillation_loss(scores, teacher, temperature=objective.temperature)


def _mixed(
    objective: Objective, scores: Tensor, teacher: Tensor | None, tokens: Tensor
) -> Float[Tensor, " rows"]:
    distilled = _distilled(objective, scores, teacher, tokens)
    return torch.lerp(next_token_loss(scores, tokens), distilled, objective.share)


OBJECTIVES: Mapping[str, Callable[[Objective, Tensor, Tensor | None, Tensor], Tensor]] = {
    "next-token": lambda _, scores, __, tokens: next_token_loss(scores, tokens),
    "distillation": _distilled,
    "mixed": _mixed,
}
