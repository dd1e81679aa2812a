"""See how often a bound of early exit holds on texts kept back, in many splits of the same texts.

    python recipes/default_exits/splits.py new-answers.jsonl --exits "20;24;28" --output splits.json

Each split draws anew which two thirds of the texts are for calibration; the rest is kept back, and
its mean loss set beside the bound. Splits share texts, and a mean over a third of them scatters, so
the share of splits that hold is near the promised rate and not a test of it; the test is a
simulation (tests/evaluation/test_risk.py).
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from train import batches

import offramp
from offramp.config import parse_exits
from offramp.evaluation.promises import BOUNDS, Promise, divide, promise_of
from offramp.evaluation.recording import record, recorded_exits
from offramp.evaluation.replay import Ladder, Recorded, Replay, replay
from offramp.training.data import Collator, DataSettings, load_rows


def recorded(model: Any, tokenizer: Any, path: str, exits: tuple[int, ...]) -> list[Recorded]:
    """Run the model over the texts once."""
    rows = load_rows(DataSettings(source=path, block_size=1024, shuffle=False), tokenizer)
    return record(model, batches(rows, Collator(tokenizer)), exits=exits)


def played(texts: list[Recorded], ladder: Ladder) -> list[Replay]:
    """Play each text alone, once for all splits."""
    return [replay([each], ladder=ladder) for each in texts]


def joined(some: list[Replay]) -> Replay:
    """Put texts together."""
    tokens = torch.cat([each.tokens for each in some])
    blocks = torch.stack([each.blocks * int(each.tokens) for each in some]).sum(0)
    return Replay(
        ladder=some[0].ladder,
        thresholds=some[0].thresholds,
        changed=torch.cat([each.changed for each in some], dim=1),
        tokens=tokens,
        blocks=blocks / int(tokens.sum()),
    )


def only(texts: list[Recorded], places: list[int]) -> list[Recorded]:
    """Leave some exits."""
    return [Recorded(each.confidence[:, places], each.agrees[:, places]) for each in texts]


def splits(texts: list[Replay], count: int) -> Iterator[list[Promise]]:
    """Calibrate on two thirds, again and again."""
    for seed in range(count):
        used, kept = divide(texts, 0.33, seed=seed)
        yield promise_of(joined(used), joined(kept), rule="gate", bound=BOUNDS[0])


def summary(found: list[Promise]) -> dict[str, float]:
    """Sum up one bound over all splits."""
    kept = [each.held_out for each in found if each.held_out is not None]
    bound = found[0].found.bound
    return {
        "bound": bound,
        "splits": len(found),
        "usable": statistics.mean(each.found.usable for each in found),
        "held": statistics.mean(each.risk < bound for each in kept),
        "risk": statistics.mean(each.risk for each in kept),
        "risk_lowest": min(each.risk for each in kept),
        "risk_highest": max(each.risk for each in kept),
        "saved": statistics.mean(each.saved for each in kept),
        "saved_lowest": min(each.saved for each in kept),
        "saved_highest": max(each.saved for each in kept),
    }


def main() -> None:
    """Record, split, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts")
    parser.add_argument("--exits", nargs="*", default=[], help="such as '20;24;28'; by default all")
    parser.add_argument("--count", type=int, default=200, help="of splits (default 200)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True)
    plan = parser.parse_args()
    torch.set_num_threads(plan.threads)
    model, tokenizer = offramp.load_default()
    lists = [parse_exits(each) for each in plan.exits] or [recorded_exits(model, "gate")]
    every = tuple(sorted({exit for exits in lists for exit in exits}))
    texts = recorded(model, tokenizer, plan.texts, every)
    found = []
    for exits in lists:
        some = only(texts, [every.index(exit) for exit in exits])
        drawn = splits(played(some, Ladder(exits=exits, depth=model.depth)), plan.count)
        rows = [summary(list(each)) for each in zip(*drawn, strict=True)]
        found.append({"exits": exits, "texts": len(texts), "bounds": rows})
        plan.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"{len(texts)} texts, exits {', '.join(map(str, exits))}")
        for row in rows:
            print(", ".join(f"{name} {value:g}" for name, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
