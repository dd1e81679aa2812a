"""Multiply a few lines of float32 by a matrix, faster than PyTorch does by itself.

In:  lines of states and a matrix. Out: their products.
Law: what ``torch.nn.functional.linear`` gives, up to the order of sums; where gradients are kept it
     is that (tests/blocks/test_products.py).

PyTorch asks MKL, which is fast with up to 3 lines and with 16 or more, not between. oneDNN is, most
of all with a copy of the matrix laid out for it. Blocks of the default model, ms, two threads and
one of an Intel Xeon (docs/lab-log.md, 2026-11-22, "a few lines at a time"):

    lines                1    3    4    6    8   12   16   24   32
    MKL, 2 threads      23   25   40   43   52   55   57   66   75
    oneDNN              33   45   45   44   48   54   59   69   76
    oneDNN, packed      28   31   34   34   40   42   45   53   63
    MKL, 1 thread       43   49   74   82   97  117   90  105  120
    oneDNN              49   71   72   75   81   88   99  111  135
    oneDNN, packed      44   54   54   57   63   69   77   93  108

On processors that are not Intel's MKL is slow with few lines: it reads one line's matrix with one
thread, and two lines cost it two. Given the matrix on the left, as the first factor, it is not; cut
into as many matrices as there are threads, which one call multiplies, it uses them all. The same on
an AMD EPYC without AVX-512 (2026-11-23, "why is PyTorch slow on AMD?"; benchmarks/products.py):

    lines                1    2    3    4    5    6    8   12   16   24   32
    MKL, 2 threads      39   67   81   70   75   79   73   84   88  103  126
    matrix on the left  36   35   49   40   49   66   64   78   63   90   95
    the same, cut       27
    oneDNN              39   57   56   67   57   65   69   67   78   89  102
    oneDNN, packed      29   33   36   39   40   48   44   48   56   67   82
    MKL, 1 thread       43   69   88   77   85   83   84   92  124  132  149
    matrix on the left  42   60   77   65   83   98   95  131  120  151  165
    oneDNN              49   91   93   89   90  102  103  101  130  136  167
    oneDNN, packed      46   55   55   65   67   67   75   77  106  121  140

oneDNN keeps 0.6 MB of code and room for every number of lines and shape of a matrix, up to 1,024 of
them in a process. So beyond 16 lines, where a line more costs least, lines of zeros are added up to
the next multiple of 4: 21 numbers instead of 44.
"""

import math
from collections.abc import Iterable
from functools import cache

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone uses
from jaxtyping import Float
from torch import Tensor, nn

from offramp.blocks.machine import is_intel

FEWEST, FULL = 6, 16
"""Lines from which oneDNN multiplies faster than MKL, and from which it does not any more."""

PACKED_FEWEST, PACKED_FULL = 4, 48
"""The same where it has a copy of the matrix."""

PACKED_FEWEST_ELSEWHERE = 2
"""The first of them where the processor is not Intel's."""

LEFT = (1, 2, 4, 5, 16)
"""Lines for which MKL is fastest with the matrix on the left where the processor is not Intel's."""

LEFT_ALONE = 4
"""The most of them with one thread."""

PACKED_BYTES = 2 * 2**30
"""Blocks' matrices of at most so many bytes are copied without being asked: 500 M parameters."""


class Matrix:
    """A matrix that lines are multiplied by.

    Args:
        plain: [out, in].
        bias: [out], added to each product.
        packed: Keep a copy that is laid out for a few lines, as large as the matrix.

    Example:
        >>> matrix = Matrix(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        >>> matrix(torch.ones(3, 2)).tolist()
        [[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]]
    """

    def __init__(self, plain: Tensor, bias: Tensor | None = None, *, packed: bool = False) -> None:
        self.plain, self.bias = plain, bias
        self._few = plain
        self._lines = range(FEWEST, FULL) if is_helped(plain) and is_intel() else range(0)
        if packed and is_helped(plain):
            self._few = torch.ops.mkldnn._reorder_linear_weight(plain.detach(), FULL // 2)
            fewest = PACKED_FEWEST if is_intel() else PACKED_FEWEST_ELSEWHERE
            self._lines = range(fewest, PACKED_FULL)

    def __call__(self, lines: Float[Tensor, "lines width"]) -> Float[Tensor, "lines out"]:
        """Multiply."""
        if self._has_few(lines):
            return self._by_onednn(lines)
        return product(lines, self.plain, self.bias)

    def added(
        self, states: Float[Tensor, "lines out"], lines: Float[Tensor, "lines width"]
    ) -> Float[Tensor, "lines out"]:
        """Multiply and add; without the bias."""
        if self._has_few(lines):
            return self._by_onednn(lines).add_(states)
        if _goes_left(lines, self.plain):
            return from_the_left(lines, self.plain).add_(states)
        return torch.addmm(states, lines, self.plain.t())

    def _has_few(self, lines: Tensor) -> bool:
        return len(lines) in self._lines and not torch.is_grad_enabled()

    def _by_onednn(self, lines: Tensor) -> Tensor:
        count = len(lines)
        more = -count % 4 if count > FULL else 0
        if more:
            lines = F.pad(lines, (0, 0, 0, more))
        found: Tensor = torch.ops.mkldnn._linear_pointwise(
            lines, self._few, self.bias, "none", [], ""
        )
        return found[:count] if more else found


def product(
    lines: Float[Tensor, "*lines width"],
    matrix: Float[Tensor, "out width"],
    bias: Float[Tensor, " out"] | None = None,
) -> Float[Tensor, "*lines out"]:
    """Multiply lines by a matrix that has no copy.

    Example:
        >>> product(torch.ones(1, 2), torch.tensor([[1.0, 0.0], [0.0, 2.0]])).tolist()
        [[1.0, 2.0]]
    """
    if _goes_left(lines, matrix):
        found = from_the_left(lines, matrix)
        return found if bias is None else found.add_(bias)
    count = len(lines)
    if FEWEST <= count < FULL and is_intel() and _is_simple(lines, matrix):
        return F.linear(F.pad(lines, (0, 0, 0, FULL - count)), matrix, bias)[:count]
    return F.linear(lines, matrix, bias)


def _goes_left(lines: Tensor, matrix: Tensor) -> bool:
    most = LEFT[-1] if torch.get_num_threads() > 1 else LEFT_ALONE
    return not is_intel() and 0 < len(lines) <= most and _is_simple(lines, matrix)


def _is_simple(lines: Tensor, matrix: Tensor) -> bool:
    return (
        lines.dim() == 2
        and not torch.is_grad_enabled()
        and matrix.is_contiguous()
        and is_helped(matrix)
    )


def from_the_left(
    lines: Float[Tensor, "lines width"], matrix: Float[Tensor, "out width"]
) -> Float[Tensor, "lines out"]:
    """Multiply 1 to ``LEFT[-1]`` lines with the matrix on the left, one line cut by threads."""
    count = len(lines)
    if count == 1:
        parts = math.gcd(torch.get_num_threads(), len(matrix))
        cut = matrix.view(parts, -1, matrix.shape[1])
        return torch.bmm(cut, lines.t().expand(parts, -1, -1)).view(1, -1)
    full = next(each for each in LEFT if count <= each)
    if full > count:
        lines = F.pad(lines, (0, 0, 0, full - count))
    return torch.mm(matrix, lines.t()).t()[:count].contiguous()


def matrices_of(blocks: Iterable[nn.Module]) -> list[Tensor]:
    """Give all that states are multiplied by in blocks."""
    return [each for block in blocks for each in block.parameters() if each.dim() == 2]


def copies_fit(matrices: Iterable[Tensor]) -> bool:
    """Tell whether matrices are small enough to be kept once more."""
    return sum(each.numel() * each.element_size() for each in matrices) <= PACKED_BYTES


def is_helped(matrix: Tensor) -> bool:
    """Tell whether oneDNN can take over from MKL for a matrix."""
    return matrix.dtype == torch.float32 and matrix.device.type == "cpu" and _has_both()


@cache
def _has_both() -> bool:
    """Tell whether this PyTorch has MKL and oneDNN; asked at every product."""
    mkl, onednn = torch.backends.mkl, torch.backends.mkldnn
    return (
        bool(mkl.is_available())  # type: ignore[no-untyped-call]
        and bool(onednn.is_available())  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
