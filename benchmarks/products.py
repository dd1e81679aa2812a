"""Time the ways to multiply a few lines by the matrices of the default model's blocks.

Five ways, in turn, medians over rounds: ``F.linear`` (MKL), the matrix on the left of ``torch.mm``,
the same for one line cut into as many matrices as there are threads, oneDNN, and oneDNN with a copy
of the matrix laid out for it. Which of them offramp takes is in ``offramp.blocks.products``; run
this where it should be seen whether it takes the right one.

Example:
    python benchmarks/products.py --threads 2
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone uses
from speed_costs import in_turn
from torch import Tensor

from offramp import load_default
from offramp.blocks.machine import is_intel, processor_name
from offramp.blocks.products import from_the_left, matrices_of

LINES = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 64)


def ways(matrices: list[Tensor]) -> dict[tuple[str, int], Callable[[], None]]:
    """Give a call for each way and number of lines that multiplies by all matrices."""
    copies = [torch.ops.mkldnn._reorder_linear_weight(each, 8) for each in matrices]
    pairs = list(zip(matrices, copies, strict=True))
    found: dict[tuple[str, int], Callable[[], None]] = {}
    for count in LINES:
        lines = {each.shape[1]: torch.randn(count, each.shape[1]) for each in matrices}
        products: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
            "linear": lambda some, plain, _: F.linear(some, plain),
            "left": lambda some, plain, _: torch.mm(plain, some.t()).t().contiguous(),
            "onednn": lambda some, plain, _: by_onednn(some, plain),
            "onednn, packed": lambda some, _, copy: by_onednn(some, copy),
        }
        if count == 1:
            products["left, cut"] = lambda some, plain, _: from_the_left(some, plain)
        for name, product in products.items():

            def call(lines: dict[int, Tensor] = lines, product: Callable = product) -> None:
                for plain, copy in pairs:
                    product(lines[plain.shape[1]], plain, copy)

            found[name, count] = call
    return found


def by_onednn(lines: Tensor, matrix: Tensor) -> Tensor:
    """Multiply by oneDNN."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(lines, matrix, None, "none", [], "")
    return found


def main() -> None:
    """Measure, write JSON, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="a file for JSON")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model, _ = load_default()
    matrices = [each.detach() for each in matrices_of(model.anatomy.blocks)]
    with torch.inference_mode():
        times = in_turn(ways(matrices), asked.rounds)
    table: dict[str, dict[int, float]] = {}
    for (name, count), taken in times.items():
        table.setdefault(name, {})[count] = round(statistics.median(taken), 1)
    print(f"| ms, {asked.threads} threads | {' | '.join(map(str, LINES))} |")
    print("|---" * (len(LINES) + 1) + "|")
    for name, row in table.items():
        print(f"| {name} | {' | '.join(str(row.get(count, '')) for count in LINES)} |")
    if asked.out:
        result = {
            "benchmark": "products",
            "intel": is_intel(),
            "threads": asked.threads,
            "torch": torch.__version__,
            "capability": torch.backends.cpu.get_cpu_capability(),
            "machine": processor_name(),
            "ms": table,
        }
        asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
