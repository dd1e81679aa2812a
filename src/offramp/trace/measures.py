"""Work out what exits say at some positions, from their scores.

In:  scores of N positions, [N, V], of one exit and of the last layer. Out: numbers and few tokens.
     Pure: no model.
Law: the last layer's divergence from itself is 0 (tests/trace/test_reading.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from offramp.errors import ConfigError
from offramp.trace.values import rounded


@dataclass(frozen=True)
class Scored:
    """What one exit, or a rule, says at N positions.

    Attributes:
        log_p: Log-probabilities, [N, V]; not kept beyond a chunk of positions.
        best: The best tokens, the best first, [N, top].
    """

    log_p: Float[Tensor, "places vocab"]
    best: Int[Tensor, "places top"]

    @classmethod
    def of(cls, scores: Float[Tensor, "places vocab"], *, top: int, what: str) -> "Scored":
        """Normalise scores, in float32 or in float64 if they are.

        Raises:
            ConfigError: They are NaN.
        """
        log_p = (scores if scores.dtype == torch.float64 else scores.float()).log_softmax(-1)
        if bool(log_p[:, 0].isnan().any()):
            raise ConfigError(f"{what} gives NaN instead of scores; load the model in float32")
        return cls(log_p, log_p.topk(min(top, log_p.shape[-1]), dim=-1).indices)

    def probabilities(self, tokens: Int[Tensor, "places some"]) -> list[list[float]]:
        """Give the probabilities of some tokens of each position."""
        found: list[list[float]] = self.log_p.gather(-1, tokens).exp().tolist()
        return found

    def entropies(self) -> list[float]:
        """Give the entropies, in nats."""
        found: list[float] = (-(self.log_p.exp() * self.log_p).nansum(-1)).clamp(min=0).tolist()
        return found

    def divergences(self, truth: "Scored") -> list[float]:
        """Give KL(truth || this), in nats; infinite where this calls impossible what is not."""
        terms = (truth.log_p - self.log_p).mul_(truth.log_p.exp())  # NaN where the truth is 0
        found: list[float] = terms.nansum(-1).clamp(min=0).tolist()
        return found

    def among(self, chosen: Bool[Tensor, "places vocab"], most: int) -> tuple[Tensor, list[int]]:
        """Give the best of some tokens, as many as there are or ``most``, and their number."""
        counts = chosen.sum(-1)
        width = min(most, int(counts.max()))
        order = self.log_p.masked_fill(~chosen, -torch.inf).topk(width, dim=-1).indices
        return order, counts.tolist()


def target_probabilities(scored: Scored, targets: Sequence[int | None]) -> list[float | None]:
    """Give the probability of each position's target, None where there is none."""
    tokens = torch.tensor([[each or 0] for each in targets], device=scored.log_p.device)
    shares = scored.probabilities(tokens)
    return [
        None if target is None else rounded(share)
        for target, (share,) in zip(targets, shares, strict=True)
    ]
