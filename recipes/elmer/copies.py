"""Pairs whose target is a run of words of their source, so that a model learns to look there.

    python recipes/elmer/copies.py --data FOLDER --task synopsis --rows 76800

A small autoregressive model that is given noisy prose first learns to go on from its own words, and
long does not look at the source. Here it has nothing else to go by: in every second pair the words
are shuffled.

In:  FOLDER/prose/train.jsonl and the task's tokenizer. Out: FOLDER/copies-TASK-MOST.jsonl, a pair a
     line, for train.py --kind ar --pairs.
Source: Krishna et al. 2021, "Does Pretraining for Summarization Require Knowledge Transfer?",
     arXiv:2109.04953 (copying tasks on texts that mean nothing).
"""

import argparse
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_files import write_rows
from noisy import drawn_blocks
from train import TASKS
from transformers import AutoTokenizer

FEWEST = 4
"""Words of the shortest target; a source has twice as many or more."""


def pairs(texts: Iterable[str], most: int, seed: int) -> Iterator[dict[str, object]]:
    """Give texts, half with shuffled words, and a run of each, every second from its start."""
    chance = random.Random(seed)
    for text in texts:
        words = text.split()
        if len(words) < 2 * FEWEST:
            continue
        if chance.random() < 0.5:
            chance.shuffle(words)
        size = chance.randint(FEWEST, min(most, len(words)))
        start = chance.randint(0, len(words) - size) if chance.random() < 0.5 else 0
        yield {"source": " ".join(words), "target": " ".join(words[start : start + size])}


def main() -> None:
    """Write the pairs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--most", type=int, default=16, help="words of the longest target")
    plan = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(plan.data / plan.task / "tokenizer")
    some, whole = drawn_blocks(plan.data, tokenizer, 64, plan.rows)
    texts = (tokenizer.decode(row, skip_special_tokens=True) for row in some["input_ids"])
    name = f"copies-{plan.task}-{plan.most}.jsonl"
    count = write_rows(plan.data / name, pairs(texts, plan.most, seed=0))
    print(f"{count} of {whole} rows")


if __name__ == "__main__":
    main()
