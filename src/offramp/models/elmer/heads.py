"""The small parts that BART lacks: what is handed over, steps of a path, the length of a target.

In:  states. Out: scores.
Law: nothing here looks at a target.
Source: Huang et al. 2022, "DA-Transformer", arXiv:2205.07459, section 3.1 (several heads mixed by
     a gate); Ghazvininejad et al. 2019, "Mask-Predict", arXiv:1904.09324, section 3 (length as a
     class). Differs from the first: queries and keys read the states alone, which hold their place.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import initialization as init

from offramp.logits.dag import dag_mixed_transitions


class Joint(nn.Linear):
    """Join states with the embeddings of what they say.

    It begins as the states alone, so that a soft exit changes nothing until it is trained. The
    published one begins at random, and puts what the layers below have learned out of place.
    """


class Spread(nn.Linear):
    """Bring the source's states to a canvas.

    It begins as the identity, as small as embeddings are, so that places stay told apart.
    """

    def begin(self, std: float) -> None:
        """Set the weights of a model that is not trained yet; ``std`` is that of embeddings."""
        init.copy_(self.weight, std * torch.eye(len(self.weight)))


class Steps(nn.Module):
    """Score the step from each place of a canvas to each later one."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.gate = nn.Linear(width, heads)

    def forward(
        self, states: Float[Tensor, "batch canvas width"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch canvas canvas"]:
        """Give log-probabilities of steps from u (rows) to v; -inf where v is not later."""
        split = (*states.shape[:2], self.heads, -1)
        query = self.query(states).view(split).transpose(1, 2)
        key = self.key(states).view(split).transpose(1, 2)
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        return dag_mixed_transitions(scores, self.gate(states), lengths)


class LengthHead(nn.Module):
    """Score the length of a target, from the mean state of its source."""

    def __init__(self, width: int, longest: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, longest)

    def forward(
        self,
        source: Float[Tensor, "batch source width"],
        mask: Bool[Tensor, "batch source"] | None,
    ) -> Float[Tensor, "batch longest"]:
        """Give scores of the lengths 1, 2, ..., the end token counted."""
        if mask is None:
            return self.linear(source.mean(1))  # type: ignore[no-any-return]
        weight = mask[..., None].to(source.dtype)
        pooled = (source * weight).sum(1) / weight.sum(1).clamp(min=1)
        return self.linear(pooled)  # type: ignore[no-any-return]


def length_loss(
    logits: Float[Tensor, "batch longest"], lengths: Int[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """Give the sum over rows of the negative log-probability of the true lengths, in nats."""
    return torch.nn.functional.cross_entropy(
        logits.float(), lengths.clamp(1, logits.shape[1]) - 1, reduction="sum"
    )
