"""Divide states by the root of their mean square, in as few operations as there can be.

In:  states. Out: states of that norm, times a weight.
Law: what ``torch.nn.functional.rms_norm`` gives, up to rounding (tests/blocks/test_norm.py).

On a processor PyTorch makes this norm of nine operations, two norms a block, and each operation
finds the caches full of the matrix before it. With float32 on a processor four are enough:
norm(x), hypot with the root of width times epsilon, x over that, times weight and root of width.
Elsewhere one kernel does it all.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone uses
from jaxtyping import Float
from torch import Tensor


class Norm:
    """A norm's weight, ready to be used.

    Args:
        weight: [width].
        epsilon: Added to the mean square.

    Example:
        >>> Norm(torch.ones(2), 0.0)(torch.tensor([[3.0, 3.0]])).tolist()
        [[1.0, 1.0]]
    """

    def __init__(self, weight: Tensor, epsilon: float) -> None:
        self._weight, self._epsilon = weight, epsilon
        self._few = weight.dtype == torch.float32 and weight.device.type == "cpu"
        if self._few:
            self._grown = weight * math.sqrt(len(weight))
            self._least = torch.tensor(math.sqrt(len(weight) * epsilon))

    def __call__(self, states: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens width"]:
        """Norm each line."""
        if not self._few:
            return F.rms_norm(states, self._weight.shape, self._weight, self._epsilon)
        sizes = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
        return states.div(torch.hypot(sizes, self._least)).mul_(self._grown)
