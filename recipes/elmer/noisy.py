"""Pairs of noisy and clean prose, to pre-train an autoregressive BART on what ELMER is given.

    python recipes/elmer/noisy.py --data FOLDER --task synopsis --rows 76800

In:  FOLDER/prose/train.jsonl and the task's tokenizer. Out: FOLDER/noisy-TASK.jsonl, a pair a line,
     for train.py --kind ar --pairs.
Law: noise and rows are those of ``offramp pretrain --no-mix`` with the same block size and seed.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_files import write_rows
from train import TASKS
from transformers import AutoTokenizer

from offramp import ElmerConfig
from offramp.training.data import DataSettings
from offramp.training.pretraining_data import corruptor_for
from offramp.training.pretraining_settings import PretrainSettings
from offramp.training.pretraining_text import load_blocks


def pairs(rows: Any, tokenizer: Any) -> Iterator[dict[str, object]]:
    """Give what was corrupted, as text with its masks, and what it was."""
    config = ElmerConfig(
        vocab_size=len(tokenizer),
        mask_token_id=tokenizer.mask_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        max_position_embeddings=512,
    )
    corrupt = corruptor_for(config, tokenizer, noise=PretrainSettings(), seed=0)
    framing = (tokenizer.bos_token, tokenizer.eos_token)
    for number, row in enumerate(rows):
        exercise = corrupt(row["input_ids"], epoch=0, row=number)
        source, target = (tokenizer.decode(exercise[name]) for name in ("input_ids", "labels"))
        for mark in framing:
            source, target = source.replace(mark, ""), target.replace(mark, "")
        if source.strip() and target.strip():
            yield {"source": source, "target": target}


def drawn_blocks(data: Path, tokenizer: Any, size: int, most: int) -> tuple[Any, int]:
    """Give so many blocks of the prose at most, in random order, and how many there are in all."""
    prose = DataSettings(source=str(data / "prose" / "train.jsonl"), block_size=size)
    rows = load_blocks(prose, tokenizer, mix=False)
    return rows.shuffle(seed=0).select(range(min(most, len(rows)))), len(rows)


def main() -> None:
    """Write the pairs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--rows", type=int, required=True)
    plan = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(plan.data / plan.task / "tokenizer")
    some, whole = drawn_blocks(plan.data, tokenizer, TASKS[plan.task]["max_target"], plan.rows)
    count = write_rows(plan.data / f"noisy-{plan.task}.jsonl", pairs(some, tokenizer))
    print(f"{count} of {whole} rows")


if __name__ == "__main__":
    main()
