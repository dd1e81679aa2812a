"""Train exits of the embedded default from kept states of its base.

    python recipes/default_exits/train.py --self self*.jsonl --prose prose --states states --keep
    python recipes/default_exits/train.py --self self*.jsonl --prose prose --states states \
        --exits 16 18 20 22 24 26 28 --output high

The base runs in bfloat16 unless told otherwise, the exits are float32. On two cores, two processes
with half of the exits each take less time than one. Killed and started again, each goes on from its
last checkpoint. See README.md beside this file for the data and the logs; ship.py joins the exits.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from offramp.models.attach import attach_exits
from offramp.models.checkpoint import TABLE, read_own
from offramp.models.default import ensure_default
from offramp.models.storage import save_exits
from offramp.training.closed_form import fit_closed_form
from offramp.training.data import Collator, DataSettings, load_rows
from offramp.training.exits import shifted, train_exits
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
    """Keep states, or fit and train on what was kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--self", nargs="+", required=True, dest="self_text")
    parser.add_argument("--prose", required=True)
    parser.add_argument("--states", required=True, type=Path)
    parser.add_argument("--keep", action="store_true", help="only keep the states")
    parser.add_argument("--exits", nargs="+", type=int, default=EXITS)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--projection", choices=("cast", "lens"), default="cast")
    parser.add_argument(
        "--precision",
        choices=("bfloat16", "float32"),
        default="bfloat16",
        help="of the base and of the training's products; float32 is faster without AMX",
    )
    parser.add_argument("--prose-tokens", type=int, default=150_000)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--threads", type=int, default=2)
    plan = parser.parse_args()
    torch.set_num_threads(plan.threads)
    low = plan.precision == "bfloat16"
    model, tokenizer = prepared(plan.exits, plan.projection, getattr(torch, plan.precision))
    rows = rows_of(plan.self_text, plan.prose, tokenizer=tokenizer, prose_tokens=plan.prose_tokens)
    give = shifted(Collator(tokenizer), model)
    settings = TrainSettings(
        positions=1.0,
        candidates=512,
        learning_rate=plan.learning_rate,
        epochs=plan.epochs,
        precision=plan.precision,
        save_steps=100,
        log_steps=20,
        keep=3,
        seed=SEED,
    )
    student = Student(model, settings.lesson(tuple(model.exit_numbers)))
    if plan.keep:
        with torch.autocast("cpu", torch.bfloat16, enabled=low), tqdm(unit=" positions") as bar:
            keep_states(student, batches(rows, give), plan.states, advance=bar.update)
        return
    few = rows.shuffle(seed=SEED).select(range(min(400, len(rows))))
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        start_(model, batches(few, give), plan.output / "closed-form")
    kept = KeptStates(student, plan.states)
    done = train_exits(
        model, kept, plan.output, settings, collate=Collator(tokenizer), use_cpu=True
    )
    print(done, flush=True)


def prepared(exits: Sequence[int], projection: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Load the base in a dtype with fresh exits in float32."""
    base = ensure_default()
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    attach_exits(model, tuple(exits), projection).exits.float()
    model.name_or_path = ""  # whoever loads these exits gives the base
    return model, AutoTokenizer.from_pretrained(base)


def start_(model: Any, texts: Iterator[Any], folder: Path) -> None:
    """Fit exits in closed form, or read what was fitted before."""
    if (folder / TABLE).exists():
        read_own(folder / TABLE).fill_(model.exits)
        return
    count = fit_closed_form(model, texts, exits=model.exit_numbers)
    print(count, "positions fitted", flush=True)
    save_exits(model, folder)


if __name__ == "__main__":
    main()
