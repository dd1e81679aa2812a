"""Train the exits that ship with the embedded default, and their gates.

    python recipes/default_exits/train.py --self self1.jsonl self2.jsonl --prose prose --output out

The base runs in bfloat16, the exits are float32 until they are saved. Killed and started again, it
goes on from its last checkpoint. See README.md beside this file for the data and the log.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from offramp.models.attach import attach_exits
from offramp.models.checkpoint import TABLE, read_own
from offramp.models.default import ensure_default
from offramp.models.storage import save_exits
from offramp.training.closed_form import fit_closed_form
from offramp.training.data import Collator, DataSettings, load_rows
from offramp.training.exits import shifted, train_exits
from offramp.training.gates import train_gates
from offramp.training.settings import TrainSettings
from offramp.training.states import KeptStates, keep_states
from offramp.training.student import Student

EXITS = tuple(range(2, 30, 2))
SEED = 0


def rows_of(self_text: list[str], prose: str, *, tokenizer: Any, prose_tokens: int) -> Any:
    """Give self-generated rows and blocks of prose, short rows beside short ones."""
    chats = load_rows(DataSettings(source=self_text, block_size=384, seed=SEED), tokenizer)
    works = sorted(Path(prose).glob("*.txt"))
    blocks = [
        load_rows(
            DataSettings(source=str(work), block_size=256, limit=prose_tokens // len(works)),
            tokenizer,
        )
        for work in works
    ]
    rows = datasets.concatenate_datasets([chats, *blocks])
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]["input_ids"]))
    print(f"{len(chats)} chats, {sum(map(len, blocks))} blocks of prose", flush=True)
    print(sum(map(len, rows["input_ids"])), "tokens", flush=True)
    return rows.select(order)


def batches(rows: Any, collate: Any, *, size: int = 8) -> Iterator[Any]:
    """Give batches in order, for what needs no Trainer."""
    for start in range(0, len(rows), size):
        yield collate([rows[place] for place in range(start, min(start + size, len(rows)))])


def main() -> None:
    """Fit, keep states, train, add gates, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--self", nargs="+", required=True, dest="self_text")
    parser.add_argument("--prose", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--start", type=Path, help="exits to begin with, in place of a fit")
    parser.add_argument("--prose-tokens", type=int, default=150_000)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--epochs", type=float, default=3)
    plan = parser.parse_args()
    base = ensure_default()
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    attach_exits(model, EXITS, "lens").exits.float()
    model.name_or_path = ""  # whoever loads these exits gives the base
    rows = rows_of(plan.self_text, plan.prose, tokenizer=tokenizer, prose_tokens=plan.prose_tokens)
    collate = Collator(tokenizer)
    few = rows.shuffle(seed=SEED).select(range(min(400, len(rows))))
    out = Path(plan.output)
    settings = TrainSettings(
        positions=1.0,
        candidates=512,
        learning_rate=plan.learning_rate,
        epochs=plan.epochs,
        precision="bfloat16",
        save_steps=100,
        log_steps=20,
        keep=3,
        seed=SEED,
    )
    with torch.autocast("cpu", torch.bfloat16):
        fitted = plan.start or out / "closed-form"
        start_(model, batches(few, shifted(collate, model)), fitted)
        student = Student(model, settings.lesson(EXITS))
        count = keep_states(student, batches(rows, shifted(collate, model)), out / "states")
        print(count, "positions kept", flush=True)
    kept = KeptStates(student, out / "states")
    print(train_exits(model, kept, out, settings, collate=collate, use_cpu=True), flush=True)
    with torch.autocast("cpu", torch.bfloat16):
        for report in train_gates(model, batches(few, shifted(collate, model)), exits=EXITS):
            print(report, flush=True)
    model.exits.to(torch.bfloat16)
    save_exits(model, out / "shipped")


def start_(model: Any, texts: Iterator[Any], folder: Path) -> None:
    """Fit exits in closed form, or read what was fitted before."""
    if (folder / TABLE).exists():
        read_own(folder / TABLE).fill_(model.exits)
        return
    print(fit_closed_form(model, texts, exits=EXITS), "positions fitted", flush=True)
    save_exits(model, folder)


if __name__ == "__main__":
    main()
