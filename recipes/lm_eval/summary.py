"""Hold several runs of ``offramp lm-eval --log_samples --output_path FOLDER`` together.

    python recipes/lm_eval/summary.py original=out/original exit20=out/exit20

For each task: accuracy with its standard error, or perplexity by word; and the difference (of
accuracy, or nats by word) from the first run over the questions that all answered, with the error
of that difference. Perplexity is infinite where a run calls a word impossible.
"""

import json
import math
import sys
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

Rows = dict[int, dict[str, Any]]


def read(folder: Path) -> dict[str, Rows]:
    """Read a run's answers, by task and question."""
    tasks: dict[str, Rows] = {}
    for path in sorted(folder.rglob("samples_*.jsonl")):
        name = path.name.removeprefix("samples_").rpartition("_")[0]
        lines = path.read_text(encoding="utf-8").splitlines()
        tasks[name] = {row["doc_id"]: row for row in map(json.loads, lines)}
    return tasks


def with_error(values: list[float], digits: int = 3) -> str:
    """Write a mean and its standard error."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return str(fmean(values))
    return f"{fmean(values):.{digits}f} ± {stdev(values) / len(values) ** 0.5:.{digits}f}"


def words(rows: Rows, numbers: list[int]) -> tuple[list[float], float]:
    """Give nats by word of each page, weighted by its words, and the perplexity by word."""
    pairs = [rows[number]["word_perplexity"] for number in numbers]
    mean = sum(count for _, count in pairs) / len(pairs)
    nats = [-log_p / mean for log_p, _ in pairs]
    return nats, math.exp(min(fmean(nats), 700)) if math.isfinite(fmean(nats)) else math.inf


def main() -> None:
    """Print a table for each task."""
    runs = {
        name: read(Path(folder)) for name, _, folder in (a.partition("=") for a in sys.argv[1:])
    }
    if not runs:
        sys.exit(__doc__)
    first = next(iter(runs))
    for task in sorted({task for run in runs.values() for task in run}):
        having = {name: run[task] for name, run in runs.items() if task in run}
        numbers = sorted(set.intersection(*(set(rows) for rows in having.values())))
        print(f"{task}, {len(numbers)} questions")
        for name, rows in having.items():
            if "acc" in rows[numbers[0]]:
                found = [float(rows[number]["acc"]) for number in numbers]
                base = [float(having.get(first, rows)[number]["acc"]) for number in numbers]
                shown = with_error(found)
            else:
                found, perplexity = words(rows, numbers)
                base, _ = words(having.get(first, rows), numbers)
                shown = f"{perplexity:.2f}  nats {with_error(found)}"
            change = [a - b for a, b in zip(found, base, strict=True)]
            print(f"  {name}  {shown}  from {first} {with_error(change)}")


if __name__ == "__main__":
    main()
