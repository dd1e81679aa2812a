"""Score a part of the vocabulary in place of all of it: the likely tokens, and some of the others.

In:  the last layer's scores of a chunk of positions. Out: the tokens to score there, and what each
     stands for.
Law: with all others drawn, every objective gives exactly what it gives on the whole vocabulary;
     with some drawn, an exit that equals the last layer still has divergence 0
     (tests/training/test_candidates.py).
Source: Jean et al. 2015, arXiv:1412.2007, section 3 (importance sampling of a softmax). Differs
     from the paper: one draw serves all exits and positions of a chunk, and the last layer's likely
     tokens are always in it, each standing for itself.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from offramp.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """How many tokens are scored.

    Attributes:
        top: Of each position the last layer's likeliest tokens.
        others: Drawn uniformly from the rest, for all positions of a chunk together.

    Raises:
        ConfigError: A number is below 1.
    """

    top: int = 16
    others: int = 512

    def __post_init__(self) -> None:
        if self.top < 1 or self.others < 1:
            raise ConfigError(
                f"candidates need at least 1 top and 1 other token, got {self.top} and "
                f"{self.others}; try 16 and 512"
            )

    def draw(
        self,
        teacher: Float[Tensor, "rows vocab"],
        tokens: Int[Tensor, " rows"],
        *,
        generator: torch.Generator,
    ) -> "Drawn":
        """Choose the tokens to score for a chunk of positions.

        Args:
            teacher: The last layer's scores.
            tokens: The text's next tokens, which are always among the candidates.
            generator: On the CPU.
        """
        vocabulary = teacher.shape[-1]
        likely = teacher.topk(min(self.top, vocabulary), dim=-1).indices
        sure = torch.zeros(vocabulary, dtype=torch.bool, device=teacher.device)
        sure[likely.flatten()] = True
        sure[tokens] = True
        rest = (~sure).nonzero().squeeze(-1)
        taken = min(self.others, len(rest))
        order = torch.randperm(len(rest), generator=generator)[:taken].to(rest.device)
        kept = sure.nonzero().squeeze(-1)
        columns = torch.cat((kept, rest[order]))
        stands_for = torch.ones(len(columns), device=teacher.device)
        stands_for[len(kept) :] = len(rest) / max(taken, 1)
        where = torch.zeros_like(sure, dtype=torch.long)
        where[kept] = torch.arange(len(kept), device=kept.device)
        return Drawn(columns=columns, log_count=stands_for.log(), tokens=where[tokens])


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The tokens to score.

    Attributes:
        columns: Their ids.
        log_count: Logarithm of how many tokens of the vocabulary each stands for; it is added to
            the scores, after a temperature, so that a softmax over the candidates estimates that
            over the vocabulary.
        tokens: Where among them the text's next tokens are.
    """

    columns: Int[Tensor, " candidates"]
    log_count: Float[Tensor, " candidates"]
    tokens: Int[Tensor, " rows"]
