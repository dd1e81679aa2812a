"""Weights of 8 or 4 bits, in blocks that share a scale.

In:  a matrix. Out: whole numbers and scales, as ``MatMulNBits`` of ONNX Runtime reads them.
Law: each weight is within half a scale of what it was (tests/blocks/test_onnx.py).
Source: the 4-bit form is that of llama.cpp's Q4_0: a block's largest value in size, sign included,
     is -8 scales, so that none of the 16 numbers is wasted.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone uses
from jaxtyping import Float, UInt8
from torch import Tensor

BLOCK = 32
"""Weights, side by side in a row, that share a scale."""


def in_blocks(
    matrix: Float[Tensor, "lines depth"], *, bits: int
) -> tuple[UInt8[Tensor, "lines blocks bytes"], Float[Tensor, "lines blocks"]]:
    """Round a matrix to whole numbers times a scale for each block.

    Args:
        matrix: What is multiplied by, a line for each output.
        bits: Of a number: 8 or 4.

    Returns:
        Numbers, moved up by half their range so that they are at least 0, two in a byte for 4 bits
        (the earlier one low); and the scales.

    Example:
        >>> numbers, scales = in_blocks(torch.linspace(-1, 1, 64)[None], bits=4)
        >>> numbers.shape, scales.tolist()
        (torch.Size([1, 2, 16]), [[0.125, -0.125]])
    """
    half = 2 ** (bits - 1)
    lines, depth = matrix.shape
    parts = F.pad(matrix, (0, -depth % BLOCK)).view(lines, -1, BLOCK)
    low, high = parts.aminmax(dim=-1, keepdim=True)
    largest = torch.where(-low > high, low, high)
    scales = largest.abs() / (half - 1) if bits == 8 else largest / -half
    divisors = torch.where(scales == 0, 1.0, scales)
    rounded = (parts / divisors).round_().add_(half).clamp_(0, 2 * half - 1)
    numbers = rounded.to(torch.uint8)
    if bits == 4:
        numbers = numbers[..., 0::2] | (numbers[..., 1::2] << 4)
    return numbers, scales[..., 0]
