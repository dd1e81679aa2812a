"""Count what each way of benchmarks/elmer.py multiplies and reads, and what that should take.

In:  sizes of the models and of the texts. Out: operations, bytes, and ratios that these predict.
Not here: measuring the ways (benchmarks/elmer.py).

A product with a weight is two operations for each of its numbers and each row; attention is counted
too. Embeddings, norms, biases, softmax, masks and everything that Python does are not. What the
counted operations should take follows from how fast ``F.linear`` is on this machine with as many
rows as that part has: measured in the same process with the decoder's own matrices, one layer's
and the head's, which together are larger than the caches of a core.
"""

import math
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone uses


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of the models and of the texts; the defaults are BART base."""

    vocab: int = 50_265
    width: int = 768
    ffn: int = 3_072
    heads: int = 12
    encoder_layers: int = 6
    decoder_layers: int = 6
    source: int = 256
    tokens: int = 64

    @property
    def self_weights(self) -> int:
        """Numbers in the matrices of self-attention of a layer."""
        return 4 * self.width**2

    @property
    def decoder_weights(self) -> int:
        """Numbers that a place of a canvas is multiplied with in a decoder layer."""
        return self.self_weights + 2 * self.width**2 + 2 * self.width * self.ffn


@dataclass(frozen=True, kw_only=True)
class Work:
    """A part that is run with so many rows at a time.

    Attributes:
        rows: At a time.
        times: How many times; each time the weights are read again.
        weights: Numbers in its matrices.
        attention: Operations of attention, all times together.
    """

    rows: int
    times: int
    weights: int
    attention: float = 0.0

    @property
    def operations(self) -> float:
        """Multiplications and additions."""
        return 2.0 * self.rows * self.times * self.weights + self.attention

    @property
    def numbers_read(self) -> int:
        """Weights that come from memory."""
        return self.times * self.weights


def encoding(sizes: Sizes, batch: int) -> list[Work]:
    """Give the work of encoding sources."""
    layers, rows = sizes.encoder_layers, batch * sizes.source
    weights = layers * (sizes.self_weights + 2 * sizes.width * sizes.ffn)
    return [
        Work(
            rows=rows,
            times=1,
            weights=weights,
            attention=_attention(sizes, rows, sizes.source, layers),
        )
    ]


def _attention(sizes: Sizes, rows: float, seen: float, layers: int) -> float:
    return 4.0 * rows * seen * sizes.width * layers


def _cross(sizes: Sizes, batch: int, layers: int) -> Work:
    """Keys and values of the source."""
    return Work(rows=batch * sizes.source, times=1, weights=layers * 2 * sizes.width**2)


def step_by_step(sizes: Sizes, batch: int, *, layers: int, beams: int = 1) -> list[Work]:
    """Give the work of a decoder with a cache that writes a token at a time."""
    rows = batch * beams
    weights = layers * sizes.decoder_weights + sizes.vocab * sizes.width
    seen = sizes.source + (sizes.tokens + 1) / 2
    return [
        _cross(sizes, batch, layers),
        Work(
            rows=rows,
            times=sizes.tokens,
            weights=weights,
            attention=sizes.tokens * _attention(sizes, rows, seen, layers),
        ),
    ]


def one_pass(
    sizes: Sizes, batch: int, *, layers: int, canvas: int, scored: int = 1, joined: int = 0
) -> list[Work]:
    """Give the work of a decoder that writes all at once.

    Args:
        sizes: Of the model.
        batch: Texts.
        layers: How many are run.
        canvas: Places of each text.
        scored: Times that the head scores all places.
        joined: Times that tokens are handed to the next layer; the queries and keys of a directed
            acyclic decoder's steps are as many numbers.
    """
    weights = layers * sizes.decoder_weights
    weights += scored * sizes.vocab * sizes.width + joined * 2 * sizes.width**2
    rows = batch * canvas
    attention = _attention(sizes, rows, sizes.source + canvas, layers)
    return [
        _cross(sizes, batch, layers),
        Work(rows=rows, times=1, weights=weights, attention=attention),
    ]


@torch.inference_mode()
def rates(model: Any, sizes: Sizes, rows: set[int], repeats: int) -> dict[int, float]:
    """Measure how many operations a second ``F.linear`` makes with so many rows.

    Args:
        model: With a decoder of BART and a head.
        sizes: Its sizes.
        rows: Numbers of rows.
        repeats: Times each is run; the median counts.
    """
    layer = model.model.decoder.layers[0]
    some = [weight for weight in layer.parameters() if weight.dim() == 2]
    some = [*some, model.lm_head.weight]
    count = 2 * sum(weight.numel() for weight in some)
    states = {wide: torch.randn(max(rows), wide) for wide in (sizes.width, sizes.ffn)}
    states = {wide: each.to(some[0].device) for wide, each in states.items()}
    taken: dict[int, list[float]] = {number: [] for number in rows}
    for turn in range(repeats + 1):
        for number in sorted(rows):
            start = time.perf_counter()
            for weight in some:
                F.linear(states[weight.shape[1]][:number], weight)
            if some[0].device.type == "cuda":
                torch.cuda.synchronize()
            if turn:
                taken[number].append(time.perf_counter() - start)
    return {number: number * count / statistics.median(each) for number, each in taken.items()}


def seconds(works: list[Work], speeds: dict[int, float]) -> float:
    """Say what work should take, by the speed at the number of rows that is nearest."""
    total = 0.0
    for work in works:
        near = min(speeds, key=lambda rows: abs(math.log(rows / work.rows)))
        total += work.operations / speeds[near]
    return total


def counted(works: list[Work], bytes_per_weight: int) -> dict[str, float]:
    """Sum operations and bytes of weights up."""
    return {
        "giga_operations": round(sum(work.operations for work in works) / 1e9, 6),
        "weight_megabytes": round(
            sum(work.numbers_read for work in works) * bytes_per_weight / 1e6, 6
        ),
    }
