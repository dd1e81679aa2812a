"""Measure what a share of the positions, and candidates, cost in quality for equal text read.

In:  a file of text that the embedded default model wrote (offramp.training.self_text). Out: the
     held-out divergence of its exits 12, 20 and 28 after three trainings on the same rows in the
     same order: all positions, a quarter, a quarter with candidates. Run by
     ``benchmarks/train_exits.py --quality``.

Lenses in float32 on a bfloat16 base, started from the closed form on the text of the training,
trained by ``train_exits`` in bfloat16 autocast. Divergence: KL(last layer || exit) in nats, whole
vocabulary, all positions that are learned in rows not trained on. Each exit is compared by itself,
and the worst one counts: a mean of nats would be that of the early exits. Where training gains
little over the closed form every way looks alike, so ``gain_kept`` says how much of the gain is
kept.
"""

import statistics
import sys
import time
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.utils.data import DataLoader

from offramp import attach_exits, load_default
from offramp.logits.labels import NO_LABEL
from offramp.training.closed_form import fit_closed_form
from offramp.training.data import Collator, DataSettings, load_rows
from offramp.training.exits import shifted, train_exits
from offramp.training.objectives import Objective
from offramp.training.settings import TrainSettings
from offramp.training.student import Lesson, Student

EXITS = (12, 20, 28)
WAYS: dict[str, dict[str, Any]] = {
    "all": {"positions": 1.0},
    "quarter": {"positions": 0.25},
    "quarter_candidates": {"positions": 0.25, "candidates": 512},
}
TARGETS = {"quarter_kl_of_all": "at most 1.05", "quarter_candidates_kl_of_all": "at most 1.05"}


def prepared() -> tuple[Any, Any]:
    """Load the default with fresh lenses, in float32 on a bfloat16 base."""
    model, tokenizer = load_default(dtype=torch.bfloat16)
    for exit in model.exit_numbers:
        del model.exits[str(exit)]
    attach_exits(model, EXITS, "lens")
    model.exits.float()
    return model, tokenizer


def split(asked: Any, tokenizer: Any) -> tuple[Any, Any]:
    """Give the rows to train on and those held out, which share no text."""
    rows = load_rows(DataSettings(source=str(asked.data), block_size=256), tokenizer)
    held = rows.select(range(asked.held_out))
    texts = {tuple(row["input_ids"]) for row in held}
    apart = [
        place
        for place in range(asked.held_out, len(rows))
        if tuple(rows[place]["input_ids"]) not in texts
    ]
    wanted = asked.train_steps * asked.rows
    if len(apart) < wanted:
        print(f"{len(apart)} rows for {wanted}: some are read again", file=sys.stderr)
    return rows.select(apart[:wanted]), held


@torch.no_grad()
def divergence(model: Any, batches: Any) -> list[float]:
    """Give the mean divergence of each exit on all positions and the whole vocabulary."""
    lesson = Lesson(
        objective=Objective(name="distillation"), exit_weights=dict.fromkeys(EXITS, 1.0)
    )
    student, sums, count = Student(model, lesson).eval(), torch.zeros(len(EXITS)), 0
    for batch in batches:
        with torch.autocast("cpu", torch.bfloat16):
            sums += student(**batch, num_items_in_batch=1)["exit_losses"]
        count += int((batch["shift_labels"] != NO_LABEL).sum())
    return (sums / count).tolist()


def trained(model: Any, train: Any, collate: Any, settings: TrainSettings) -> float:
    """Train as ``offramp`` does, into a folder that is thrown away; give the seconds."""
    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        train_exits(
            model,
            train,
            folder,
            settings,
            collate=collate,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
    return time.perf_counter() - start


def measure_quality(asked: Any) -> dict[str, Any]:
    """Train each way with each seed, from the same start, and compare."""
    model, tokenizer = prepared()
    train, held = split(asked, tokenizer)
    collate = Collator(tokenizer)
    give = shifted(collate, model)
    held_batches = list(DataLoader(held, batch_size=8, collate_fn=give))
    fit_closed_form(model, DataLoader(train, batch_size=8, collate_fn=give), exits=EXITS)
    start = {name: value.clone() for name, value in model.exits.state_dict().items()}
    before = divergence(model, held_batches)
    print(f"closed form        {shown(before)}", flush=True)
    runs: list[dict[str, Any]] = []
    for seed in range(asked.seeds):
        for name, ways in WAYS.items():
            settings = TrainSettings(
                **ways,
                learning_rate=asked.learning_rate,
                max_steps=asked.train_steps,
                batch_size=asked.rows,
                precision="bfloat16",
                seed=seed,
            )
            model.exits.load_state_dict(start)
            seconds = trained(model, train, collate, settings)
            kl = divergence(model, held_batches)
            runs.append({"way": name, "seed": seed, "kl": kl, "seconds": round(seconds, 1)})
            print(f"seed {seed} {name:18} {shown(kl)} {seconds:.0f} s", flush=True)
    return compared(before, runs) | {
        "rows": {"train": len(train), "held_out": len(held)},
        "tokens": {"train": tokens(train), "held_out": tokens(held)},
    }


def compared(before: list[float], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Set each way against all positions, seed by seed and exit by exit; the worst exit counts."""
    full = {run["seed"]: run["kl"] for run in runs if run["way"] == "all"}
    found, ratios = dict[str, float](), dict[str, dict[str, list[float]]]()
    for name in [*WAYS][1:]:
        mine = {run["seed"]: run["kl"] for run in runs if run["way"] == name}
        ratios[name], kept = {}, []
        for place, exit in enumerate(EXITS):
            pairs = [(mine[seed][place], full[seed][place]) for seed in full]
            each = [own / whole for own, whole in pairs]
            gains = [(before[place] - own) / (before[place] - whole) for own, whole in pairs]
            kept.append(statistics.median(gains))
            ratios[name][str(exit)] = each
            print(
                f"{name:18} exit {exit}: {statistics.median(each):.4f}x the KL of all positions "
                f"({min(each):.4f} to {max(each):.4f}; at most 1.05), gain kept {kept[-1]:.3f}"
            )
        worst = max(map(statistics.median, ratios[name].values()))
        found[f"{name}_kl_of_all"] = round(worst, 4)
        found[f"{name}_gain_kept"] = round(min(kept), 4)
    return {
        "model": "SmolLM2-135M-Instruct bfloat16, lens exits float32",
        "exits": EXITS,
        "targets": TARGETS,
        "measured": found,
        "ratios": ratios,
        "closed_form_kl": before,
        "runs": runs,
    }


def tokens(rows: Any) -> int:
    """Count the tokens that are learned."""
    return sum(label != NO_LABEL for row in rows for label in row["labels"][1:])


def shown(kl: list[float]) -> str:
    """Write the divergence of each exit."""
    return "  ".join(f"{exit}: {each:.4f}" for exit, each in zip(EXITS, kl, strict=True))
