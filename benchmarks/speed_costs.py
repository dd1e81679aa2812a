"""What memory allows, and what the parts of a step cost, for benchmarks/speed.py.

In:  the default model and an engine. Out: the roofline, and milliseconds of a step by its rows.
Not here: adding the parts up (benchmarks/speed_ledger.py).

Roofline: a step of one token reads every weight of the blocks and the head once. Two bandwidths are
measured, in turn: that of a sum over a buffer as large as the weights, and that of one ``F.linear``
of one row for each weight, which is what PyTorch can make of it.
"""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone uses
from speed_ways import LOWER, acd

from offramp.blocks.engines import engine_for
from offramp.config import ORIGINAL

ROWS = tuple(range(1, 9))


def in_turn(parts: dict[Any, Callable[[], Any]], repeats: int) -> dict[Any, list[float]]:
    """Time parts one after the other, forwards and backwards; milliseconds."""
    times: dict[Any, list[float]] = {name: [] for name in parts}
    for part in parts.values():
        part()
    gc.collect()
    gc.disable()
    for number in range(repeats):
        for name in [*parts] if number % 2 == 0 else [*parts][::-1]:
            start = time.perf_counter()
            parts[name]()
            times[name].append(1e3 * (time.perf_counter() - start))
    gc.enable()
    return times


def weights_of(model: Any) -> list[torch.Tensor]:
    """Give every matrix that a step multiplies with."""
    anatomy = model.anatomy
    some = [p for block in anatomy.blocks for p in block.parameters() if p.dim() == 2]
    return [*some, anatomy.head.weight]


def block_bytes(model: Any) -> int:
    """Count the bytes of one block's matrices."""
    return sum(each.nbytes for each in weights_of(model)[:-1]) // model.depth


@torch.inference_mode()
def roofline(model: Any, repeats: int) -> dict[str, Any]:
    """Say how many tokens per second the memory allows."""
    weights = weights_of(model)
    size = sum(each.nbytes for each in weights)
    rows = {width: torch.randn(1, width) for width in {each.shape[1] for each in weights}}
    buffer = torch.ones(size // 4)

    def products() -> None:
        for weight in weights:
            F.linear(rows[weight.shape[1]], weight)

    times = in_turn({"sum": buffer.sum, "linear": products}, repeats)
    found: dict[str, Any] = {"bytes_per_token": size}
    for name, taken in times.items():
        middle, best = statistics.median(taken), min(taken)
        found[name] = {
            "gigabytes_per_second": round(size / middle / 1e6, 2),
            "tokens_per_second": round(1e3 / middle, 2),
            "tokens_per_second_at_best": round(1e3 / best, 2),
        }
    return found


class Steps:
    """Parts of a step on one engine, in the middle of a text, that can be run over and over.

    Args:
        model: The default model.
        engine: Name of the engine.
        ids: A text.
        length: How much of it has been run.
    """

    def __init__(self, model: Any, engine: str, ids: list[int], length: int) -> None:
        self.model, self.engine, self.length = model, engine_for(model.anatomy, engine), length
        self.ids = ids * (1 + (length + ROWS[-1]) // len(ids))
        self.row = self.engine.row()
        self._run(self.ids[:length], 0, model.depth)
        count = ROWS[-1]
        lower = self._run(self.ids[length : length + count], 0, LOWER)
        top = self.engine.run(lower, LOWER, model.depth, [(self.row, count)])
        self.states = {LOWER: lower, model.depth: top}
        self.row.cut(length)

    def _run(self, ids: list[int], start: int, stop: int) -> torch.Tensor:
        pieces = [(self.row, len(ids))]
        states = self.engine.embed(torch.tensor(ids), pieces)
        return self.engine.run(states, start, stop, pieces)

    def blocks(self, count: int) -> torch.Tensor:
        """Run all blocks for so many rows, and forget them."""
        found = self._run(self.ids[self.length : self.length + count], 0, self.model.depth)
        self.row.cut(self.length)
        return found

    def view(self, count: int) -> Any:
        """Give what the exits say of so many rows."""
        states = {exit: each[:count] for exit, each in self.states.items()}
        return self.model.view_of(self.engine, states)

    def gated(self, exits: Sequence[int]) -> None:
        """Run all blocks for one row, and ask the gates of some exits on the way."""
        pieces = [(self.row, 1)]
        states = self.engine.embed(torch.tensor(self.ids[self.length : self.length + 1]), pieces)
        at = 0
        for exit in (*exits, self.model.depth):
            states = self.engine.run(states, at, exit, pieces)
            if exit < self.model.depth:
                self.model.exits[str(exit)].gate.confidence(states).tolist()
            at = exit
        self.row.cut(self.length)

    def head(self, count: int) -> Any:
        """Score the vocabulary for so many rows, and choose."""
        return self.view(count).logits(ORIGINAL).argmax(-1).tolist()

    def contrast(self, count: int) -> Any:
        """Score it by contrast, and choose."""
        return acd().scores(self.view(count), self.model).argmax(-1).tolist()

    def verify(self, count: int) -> None:
        """Take so many rows from tokens to choices."""
        found = {self.model.depth: self.blocks(count)}
        self.model.view_of(self.engine, found).logits(ORIGINAL).argmax(-1).tolist()


@torch.inference_mode()
def row_scaling(
    model: Any, engines: list[str], ids: list[int], repeats: int
) -> dict[str, dict[str, float]]:
    """Time one verification step of 1 to 8 rows after a prompt on each engine, all in turn."""
    parts: dict[Any, Callable[[], Any]] = {}
    for name in engines:
        steps = Steps(model, name, ids, len(ids))
        for count in ROWS:
            parts[name, count] = lambda steps=steps, count=count: steps.verify(count)
    times = in_turn(parts, repeats)
    found: dict[str, dict[str, float]] = {}
    for (name, count), taken in times.items():
        found.setdefault(name, {})[str(count)] = round(statistics.median(taken), 3)
    return found


def costs_table(result: dict[str, Any]) -> str:
    """Write roofline and rows as Markdown."""
    lines = []
    if roof := result.get("roofline"):
        lines += ["", f"{roof['bytes_per_token'] / 1e6:.0f} MB of weights per token", ""]
        lines += ["| bandwidth by | GB/s | tokens/s | at best |", "|---|---|---|---|"]
        for name in ("sum", "linear"):
            cells = [f"{value}" for value in roof[name].values()]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    if rows := result.get("rows"):
        lines += ["", f"| ms of a step of n rows | {' | '.join(map(str, ROWS))} |"]
        lines.append("|---" * (len(ROWS) + 1) + "|")
        for name, each in rows.items():
            lines.append(f"| {name} | {' | '.join(f'{ms:.1f}' for ms in each.values())} |")
    return "\n".join(lines)
