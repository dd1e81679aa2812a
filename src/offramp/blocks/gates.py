"""Ask an exit whether its answer would be the last layer's, without asking what it is.

In:  the state of one exit. Out: a confidence from 0 to 1, at the price of D operations where a
     head costs D times the vocabulary.
Law: an untrained gate is undecided about everything, 0.5, and never leaves by itself; confidence is
     computed in float32, whatever the gate is kept in, so that it is fine enough for any threshold
     (tests/blocks/test_gates.py).
Not here: training it (offramp.training.gates), acting on it (offramp.decoding).
Source: Schuster et al. 2022, "CALM", arXiv:2207.07061, section 3.4 (a linear classifier per
     layer). Differs from the paper: one classifier for each exit, on the state brought to length
     one per dimension, since the length of a state grows with depth.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone uses
from jaxtyping import Bool, Float
from torch import Tensor, nn

NEVER = 1.01
"""A threshold that no confidence reaches."""


class Gate(nn.Module):
    """A linear probe of the state.

    Attributes:
        threshold: Leave at this confidence or above; ``NEVER`` until it is trained.
    """

    threshold: Tensor

    def __init__(self, width: int, like: Tensor | None = None) -> None:
        super().__init__()
        device, dtype = (None, None) if like is None else (like.device, like.dtype)
        self.linear = nn.Linear(width, 1, device=device, dtype=dtype)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("threshold", torch.tensor(NEVER, device=device, dtype=dtype))

    def logit(self, state: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows"]:
        """Give the log-odds that the exit's answer is the last layer's."""
        return self.logit_of_scaled(self.scaled(state))

    @staticmethod
    def scaled(state: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        """Give states in float32, their mean square brought to one."""
        state = state.float()
        return state * torch.rsqrt(state.square().mean(-1, keepdim=True) + 1e-6)

    def logit_of_scaled(self, scaled: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows"]:
        """Give the log-odds of scaled states."""
        weight, bias = self.linear.weight.float(), self.linear.bias.float()
        with torch.autocast(weight.device.type, enabled=False):
            return F.linear(scaled.to(weight.device), weight, bias).squeeze(-1)

    def confidence(self, state: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows"]:
        """Give the probability that the exit's answer is the last layer's, 0 to 1."""
        return self.logit(state).sigmoid()

    def leaves(
        self, confidence: Float[Tensor, "*rows"], threshold: float | None = None
    ) -> Bool[Tensor, "*rows"]:
        """Say where to leave.

        Args:
            confidence: What this gate gave.
            threshold: Leave above it, so that 1 never leaves; None is the gate's own, which is the
                lowest of the confidences that were precise enough and so counts itself.
        """
        if threshold is None:
            return confidence >= self.threshold.float()
        return confidence > threshold
