"""Give a product with a matrix as many lines as it is fast with.

In:  lines of states. Out: the same, and perhaps lines of zeros after them.
Law: the lines that were there are the same, up to the order of sums in what is made of them.

MKL multiplies 6 to 15 lines of float32 by a matrix no faster than 16, and often slower: with the
weights of 30 blocks, on one thread, 1, 4, 6, 8, 12 and 16 lines took 71, 122, 139, 166, 199 and
121 ms (docs/lab-log.md, 2026-11-22, "eight texts in one step").
"""

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone uses
from jaxtyping import Float
from torch import Tensor

FEWEST, FULL = 6, 16


def filled_up(states: Float[Tensor, "lines width"]) -> Float[Tensor, "more width"]:
    """Add lines of zeros where the product is faster with them.

    Example:
        >>> [len(filled_up(torch.ones(lines, 2))) for lines in (5, 6, 16, 17)]
        [5, 16, 16, 17]
    """
    slow = FEWEST <= len(states) < FULL
    if slow and states.dtype == torch.float32 and states.device.type == "cpu":
        return F.pad(states, (0, 0, 0, FULL - len(states)))
    return states
