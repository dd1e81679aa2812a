"""Ask an exit whether its answer would be the last layer's, without asking what it is.

In:  the state of one exit. Out: a confidence from 0 to 1, at the price of D operations where a
     head costs D times the vocabulary.
Law: an untrained gate is undecided about everything: 0.5 (tests/blocks/test_gates.py).
Not here: training it (offramp.training.gates), acting on it (offramp.decoding).
Source: Schuster et al. 2022, "CALM", arXiv:2207.07061, section 3.4 (a linear classifier per
     layer). Differs from the paper: one classifier for each exit, on the state brought to length
     one per dimension, since the length of a state grows with depth.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Gate(nn.Module):
    """A linear probe of the state.

    Attributes:
        threshold: Leave at this confidence or above; found by calibration.
    """

    threshold: Tensor

    def __init__(self, width: int, like: Tensor | None = None) -> None:
        super().__init__()
        place = {} if like is None else {"device": like.device, "dtype": like.dtype}
        self.linear = nn.Linear(width, 1, **place)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("threshold", torch.tensor(0.5, **place))

    def logit(self, state: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows"]:
        """Give the log-odds that the exit's answer is the last layer's."""
        mean_square = state.float().square().mean(-1, keepdim=True)
        scaled = state * torch.rsqrt(mean_square + 1e-6).to(state)
        return self.linear(scaled).squeeze(-1)  # type: ignore[no-any-return]

    def confidence(self, state: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows"]:
        """Give the probability that the exit's answer is the last layer's, 0 to 1."""
        return self.logit(state).sigmoid()
