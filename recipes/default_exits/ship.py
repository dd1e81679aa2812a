"""Put separately trained exits together, train their gates, and round all to bfloat16.

python recipes/default_exits/ship.py --self self*.jsonl --prose prose --exits low high
"""

import argparse
from pathlib import Path

import torch
from train import EXITS, SEED, batches, prepared, rows_of

from offramp.models.checkpoint import TABLE, read_own
from offramp.models.storage import save_exits
from offramp.training.data import Collator
from offramp.training.exits import shifted
from offramp.training.gates import train_gates

ROWS = 800


def main() -> None:
    """Read each folder into one model, then gates, then the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--self", nargs="+", required=True, dest="self_text")
    parser.add_argument("--prose", required=True)
    parser.add_argument("--prose-tokens", type=int, default=150_000)
    parser.add_argument("--exits", nargs="+", required=True, type=Path)
    parser.add_argument("--projection", choices=("cast", "lens"), default="cast")
    parser.add_argument("--no-gates", action="store_true")
    parser.add_argument("--output", default="shipped")
    plan = parser.parse_args()
    model, tokenizer = prepared(EXITS, plan.projection, torch.bfloat16)
    stored = [read_own(folder / TABLE) for folder in plan.exits]
    assert sorted(exit for each in stored for exit in each.projections) == list(EXITS)
    for each in stored:
        each.fill_(model.exits)
    if not plan.no_gates:
        rows = rows_of(
            plan.self_text, plan.prose, tokenizer=tokenizer, prose_tokens=plan.prose_tokens
        )
        few = rows.shuffle(seed=SEED + 1).select(range(ROWS))
        with torch.autocast("cpu", torch.bfloat16):
            texts = batches(few, shifted(Collator(tokenizer), model))
            for report in train_gates(model, texts, exits=EXITS):
                print(report, flush=True)
    model.exits.to(torch.bfloat16)
    save_exits(model, plan.output)


if __name__ == "__main__":
    main()
