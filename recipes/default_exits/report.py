r"""Measure untrained, fitted and trained exits of the embedded default on texts nobody trained on.

    python recipes/default_exits/report.py --texts held-out --exits closed-form=out/closed-form \
        lens=out --output report.json

Everything in float32. The table goes to stdout, every number to the JSON file; what is in the file
already, a variant on a text, is not measured again.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from train import EXITS, batches

import offramp
from offramp.evaluation.exits import measure_exits
from offramp.models.attach import attach_exits
from offramp.training.data import Collator, DataSettings, load_rows

TEXTS = {
    "greedy answers": "greedy.jsonl",
    "sampled answers": "sampled.jsonl",
    "prose (Brown)": "brown.txt",
    "greedy answers to template questions": "template.jsonl",
}


def variants(given: list[str]) -> Iterator[tuple[str, Any]]:
    """Give a name and a way to load for each variant, untrained first."""
    yield "direct", None
    for each in given:
        name, _, folder = each.partition("=")
        yield name, folder


def text(path: Path, tokenizer: Any, *, limit: int) -> Iterator[Any]:
    """Give a text in batches."""
    rows = load_rows(
        DataSettings(source=str(path), block_size=256, limit=limit, shuffle=False), tokenizer
    )
    return batches(rows, Collator(tokenizer))


def main() -> None:
    """Measure what is missing, then print all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", required=True, type=Path)
    parser.add_argument("--exits", nargs="*", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--limit", type=int, default=12_000, help="tokens of each text")
    parser.add_argument("--output", required=True, type=Path)
    plan = parser.parse_args()
    found = json.loads(plan.output.read_text()) if plan.output.exists() else {}
    for name, folder in variants(plan.exits):
        measured = found.setdefault(name, {})
        if measured.keys() >= TEXTS.keys():
            continue
        model, tokenizer = offramp.load_default(exits=folder)
        if folder is None:
            model.exits.clear()
            attach_exits(model, EXITS, "direct")
        model.to(torch.float32)
        for title, file in TEXTS.items():
            if title not in measured:
                rows = text(plan.texts / file, tokenizer, limit=plan.limit)
                measured[title] = measure_exits(model, rows).as_json()
        plan.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    show(found)


def show(found: dict[str, Any]) -> None:
    """Print agreement with the last layer and KL, a table for each text."""
    for title in TEXTS:
        tables = {
            name: {row["exit"]: row for row in texts[title]["exits"]}
            for name, texts in found.items()
        }
        facts = next(iter(found.values()))[title]
        print(f"\n### {title} ({facts['tokens']} tokens, {facts['rows']} rows)\n")
        print("| exit | " + " | ".join(tables) + " |")
        print("|---|" + "---|" * len(tables))
        for exit in EXITS:
            cells = []
            for table in tables.values():
                row = table.get(exit)
                cells.append(
                    "" if row is None else f"{row['agreement']:.3f}, {row['divergence']:.2f}"
                )
            print(f"| {exit} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
