"""Lay loaded weights where the processor reads them fastest.

In:  a model just loaded. Out: the same numbers, each matrix at the beginning of a cache line.
Law: nothing changes but the place; weights that were one stay one (tests/models/test_aligned.py).

Weights in the precision of their file are not copied when they are loaded: they stay where the file
is mapped, behind its header, whose length is a multiple of 8 bytes and seldom of 64. Then each read
of 64 bytes touches two cache lines, and writing a token takes a quarter longer
(docs/lab-log.md, 2026-11-24, "why do the same weights take longer once they are loaded?").
"""

import torch
from torch import nn

LINE = 64
"""Bytes of a cache line."""


def align(model: nn.Module) -> None:
    """Move weights on the processor that begin amid a cache line; to be called before training.

    Args:
        model: Just loaded, so that nobody else holds its memory.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> layer.weight.data = torch.zeros(5)[1:].view(2, 2)
        >>> align(layer)
        >>> layer.weight.data_ptr() % LINE
        0
    """
    moved: dict[tuple[int, torch.Size], torch.Tensor] = {}
    for parameter in model.parameters():
        data = parameter.data
        if type(data) is not torch.Tensor or data.device.type != "cpu" or not data.numel():
            continue
        at = data.data_ptr()
        if at % LINE:
            parameter.data = moved.setdefault((at, data.shape), data.clone())
