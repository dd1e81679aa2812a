r"""Keep what the head of the embedded default reads, at every token of texts that it wrote.

    python recipes/default_drafter/keep.py --self plain*.jsonl self*.jsonl --output kept

The base runs in bfloat16. One file for each part of the texts, so that parts can run side by side
(--part 0 --parts 2) and a part that is there is not made again.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModelForCausalLM

from offramp.models.default import ensure_default

LONGEST = 384


def rows_of(paths: list[Path]) -> list[tuple[list[int], int]]:
    """Give each text's tokens, and how many of them are its prompt; short texts first."""
    rows = []
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if "completion" in row:
                tokens = (row["prompt"] + row["completion"])[:LONGEST]
                rows.append((tokens, len(row["prompt"])))
    return sorted(rows, key=lambda row: len(row[0]))


@torch.no_grad()
def read(rows: list[tuple[list[int], int]]) -> dict[str, Tensor]:
    """Run the base over texts, and keep what its head reads."""
    base = AutoModelForCausalLM.from_pretrained(ensure_default(), dtype=torch.bfloat16).model
    states, tokens, spans, at = [], [], [], 0
    with tqdm(total=sum(len(row) for row, _ in rows), unit=" tokens") as bar:
        for first in range(0, len(rows), 16):
            some = rows[first : first + 16]
            width = max(len(row) for row, _ in some)
            ids = torch.tensor([row + [2] * (width - len(row)) for row, _ in some])
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row, _ in some])
            finished = base(ids, attention_mask=mask, use_cache=False).last_hidden_state
            for (row, prompt), each in zip(some, finished, strict=True):
                states.append(each[: len(row)].clone())
                tokens.extend(row)
                spans.append((at, len(row), prompt))
                at += len(row)
            bar.update(int(mask.sum()))
    return {
        "states": torch.cat(states),
        "tokens": torch.tensor(tokens, dtype=torch.int32),
        "rows": torch.tensor(spans),
    }


def main() -> None:
    """Run the base over a part of the texts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--self", nargs="+", required=True, dest="self_text", type=Path)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    plan = parser.parse_args()
    torch.set_num_threads(plan.threads)
    path = plan.output / f"{plan.part}of{plan.parts}.safetensors"
    if path.exists():
        print(path, "is there")
        return
    plan.output.mkdir(parents=True, exist_ok=True)
    save_file(read(rows_of(plan.self_text)[plan.part :: plan.parts]), path)


if __name__ == "__main__":
    main()
