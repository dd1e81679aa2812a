"""Time every way to write the same text, on the embedded default model, in one process.

Float32, greedy, fixed prompts of four kinds (speed_prompts.json): questions in the chat template,
beginnings of stories, beginnings of programs, paragraphs to be summarised. Texts end where the
model ends them, at ``--new-tokens`` at the latest. One prompt at a time (or one batch): every
method writes it once, in an order that rotates; whole calls are timed, prompt included, garbage
collection off, after a warm-up of each method that does not count. Methods with several variants
first compete on a few prompts, and the fastest is measured. All have the same number of threads.

Methods:
    generate             transformers, the same weights without exits; all is compared with it
    generate+lookup      transformers' prompt lookup
    generate+early-exit  transformers' assistant_early_exit
    economize            the package's early-exit drafts (speed_rivals.py says what to install)
    onnxruntime-genai    ONNX Runtime GenAI, float32
    ours                 Autoregressive(); ours+acd: its target is Contrast(lower=12)
    ours+drafter         SelfSpeculation() by the trained drafter; +lookup: also copying
    ours+exit            SelfSpeculation(draft_exit=...)
    ours+acd+...         the same for the contrasted target
    early-exit           EarlyExit by every rule at several thresholds: the curve
All of ours but early-exit are repeated for each of ``--engines``; names then end in ``@`` and the
engine.

Example:
    python benchmarks/speed.py --length 30 --batch 1 --rows --ledger
"""

import argparse
import gc
import json
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch
from speed_costs import costs_table, roofline, row_scaling
from speed_ledger import ledger, ledger_table
from speed_report import Run, differences, quality, summary, table, targets
from speed_rivals import Skipped
from speed_ways import (
    METHODS,
    RIVALS,
    Setting,
    Way,
    batches,
    encoded,
    makers,
    prompts_of,
    read,
    text_of,
)
from transformers.utils import logging

from offramp import OfframpError, load_default
from offramp.blocks.engines import engine_for
from offramp.blocks.machine import processor_name

PACKAGES = ("torch", "transformers", "offramp", "economize", "onnxruntime", "onnxruntime-genai")
TUNE_TOKENS = 48
PAUSE = 0.02
"""Seconds for threads of the method before to go to sleep."""


class Bench:
    """The methods, and how they are run.

    Args:
        asked: The command line.
    """

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        model, tokenizer = load_default()
        self.setting = Setting(
            model=model, tokenizer=tokenizer, threads=asked.threads, scratch=asked.scratch
        )
        prompts = prompts_of(asked.length)
        self.texts = [text_of(tokenizer, prompt) for prompt in prompts]
        self.kinds = [prompt["kind"] for prompt in prompts]
        self.places = batches(prompts, asked.batch, asked.runs)
        self.end: int = model.config.eos_token_id
        self.skipped: dict[str, str] = {}
        self.tuned: dict[str, dict[str, float]] = {}
        self.ways: dict[str, Way] = {}

    def inputs(self, places: list[int]) -> Any:
        """Encode some prompts."""
        return encoded(self.setting.tokenizer, [self.texts[place] for place in places])

    def prepare(self) -> None:
        """Make the methods, warm them up, and choose among variants."""
        for name, maker in makers(self.asked.methods, self.asked.engines).items():
            try:
                variants = maker(self.setting)
                variants = variants[: self.asked.variants] if self.asked.variants else variants
                for way in variants:
                    way.call(self.inputs(self.places[0]), 4)
            except Skipped as reason:
                self.skipped[name] = str(reason)
            except Exception as error:
                if name not in RIVALS:
                    raise
                self.skipped[name] = f"failed: {type(error).__name__}: {error}"
            else:
                self._enter(name, variants)

    def _enter(self, name: str, variants: list[Way]) -> None:
        if name.startswith("early-exit"):
            self.ways.update({f"{name} {way.variant}": way for way in variants})
            return
        self.ways[name] = variants[0] if len(variants) == 1 else self._fastest(name, variants)

    def _fastest(self, name: str, variants: list[Way]) -> Way:
        rates: dict[str, list[float]] = {way.variant: [] for way in variants}
        for places in batches(prompts_of(self.asked.length), self.asked.batch, self.asked.tune):
            inputs = self.inputs(places)
            for way in variants:
                seconds, raw = timed(way, inputs, min(TUNE_TOKENS, self.asked.new_tokens))
                rows = read(raw, inputs, self.end)
                rates[way.variant].append(sum(map(len, rows)) / seconds)
        medians = {variant: statistics.median(some) for variant, some in rates.items()}
        self.tuned[name] = {variant: round(rate, 2) for variant, rate in medians.items()}
        return max(variants, key=lambda way: medians[way.variant])

    def measure(self, number: int) -> Run:
        """Let every method write one prompt or batch; the order depends on the number."""
        places = self.places[number]
        inputs = self.inputs(places)
        run = Run(
            places=places,
            kinds=[self.kinds[place] for place in places],
            prompts=[
                ids[mask.bool()].tolist()
                for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
            ],
        )
        names = list(self.ways)
        first = number % len(names)
        order = names[first:] + names[:first]
        for name in order if number % 2 == 0 else order[::-1]:
            way = self.ways[name]
            run.seconds[name], raw = timed(way, inputs, self.asked.new_tokens)
            run.rows[name] = read(raw, inputs, self.end)
            if way.decoding is not None:
                run.notes[name] = notes(raw, run.rows[name])
        return run


def timed(way: Way, inputs: Any, tokens: int) -> tuple[float, Any]:
    """Time one whole call."""
    gc.collect()
    time.sleep(PAUSE)
    gc.disable()
    start = time.perf_counter()
    raw = way.call(inputs, tokens)
    seconds = time.perf_counter() - start
    gc.enable()
    return seconds, raw


def notes(raw: Any, rows: list[list[int]]) -> dict[str, list[Any]]:
    """Give what a loop of ours reported, without what fills shorter rows."""
    found: dict[str, list[Any]] = {
        name: [row[: len(own)] for row, own in zip(raw[name].tolist(), rows, strict=True)]
        for name in ("exits", "blocks")
    }
    return found | {name: raw[name].tolist() for name in ("drafted", "accepted", "copied")}


def heading(asked: argparse.Namespace) -> dict[str, Any]:
    """Say what was measured, on what."""
    found = {each.name: each.version for each in distributions()}
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "benchmark": "speed",
        "model": "SmolLM2-135M-Instruct float32",
        "length": asked.length,
        "batch": asked.batch,
        "new_tokens": asked.new_tokens,
        "runs_asked": asked.runs,
        "loop_share": asked.loop_share,
        "threads": asked.threads,
        "machine": f"{processor_name()}, {platform.system()}",
        "versions": {name: found[name] for name in PACKAGES if name in found},
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
    }


def results(bench: Bench, runs: list[Run]) -> dict[str, Any]:
    """Sum all methods up."""
    plain, bound = bench.setting.plain, bench.asked.loop_share
    found = {}
    for name, way in bench.ways.items():
        found[name] = summary(way, name, runs, bound)
        if way.same_as is not None:
            found[name]["same_ids"] = differences(plain, way, name, runs)
        if way.method.startswith("early-exit"):
            found[name]["quality"] = quality(plain, name, runs)
    return {"methods": found, "skipped": bench.skipped, "variants": bench.tuned}


def costs(bench: Bench, runs: list[Run]) -> dict[str, Any]:
    """Measure the roofline, and what else was asked for."""
    asked, model = bench.asked, bench.setting.model
    found: dict[str, Any] = {"roofline": roofline(model, asked.repeats)}
    engines = [name for name in asked.engines if works(model, name)]
    found["engines"] = {name: engine_for(model.anatomy, name).name for name in engines}
    if asked.rows:
        found["rows"] = row_scaling(model, engines, runs[0].prompts[0], asked.repeats)
    if asked.ledger:
        found["ledger"] = ledger(model, bench.ways, runs, engines, asked.repeats)
    return found


def works(model: Any, engine: str) -> bool:
    """Tell whether an engine is there and knows the model."""
    try:
        engine_for(model.anatomy, engine)
    except OfframpError:
        return False
    return True


def command_line() -> argparse.Namespace:
    """Read the arguments, and fill in those that depend on others."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--length", type=int, default=30, choices=(30, 500), help="of prompts")
    parser.add_argument("--batch", type=int, default=1, help="prompts in a call (default 1)")
    parser.add_argument("--new-tokens", type=int, default=128, help="at most (default 128)")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--engines", nargs="+", default=["auto", "onnxruntime"])
    parser.add_argument("--runs", type=int, help="prompts, or batches (default 24, or 12)")
    parser.add_argument("--tune", type=int, default=4, help="prompts for choosing variants")
    parser.add_argument("--variants", type=int, default=0, help="at most, of a method; 0 is all")
    parser.add_argument("--loop-share", type=float, default=0.3, help="repeated 4-grams of a loop")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", action="store_true", help="time a step of 1 to 8 rows")
    parser.add_argument("--ledger", action="store_true", help="add up what each method ran")
    parser.add_argument("--repeats", type=int, default=15, help="of each part of a step")
    parser.add_argument("--quick", action="store_true", help="2 prompts, 8 tokens: does it run?")
    parser.add_argument(
        "--scratch", type=Path, default=Path("build/speed"), help="models of others"
    )
    parser.add_argument(
        "--out", type=Path, help="default benchmarks/results/speed_LENGTH_BATCH.json"
    )
    asked = parser.parse_args()
    if asked.quick:
        asked.runs, asked.new_tokens, asked.variants, asked.repeats = 2, 8, 1, 1
    if asked.ledger and asked.batch > 1:
        parser.error("--ledger adds up one text at a time; leave out --batch")
    if asked.ledger:
        asked.methods = ["ours", *asked.methods]
    asked.engines = ["auto", *(name for name in asked.engines if name != "auto")]
    asked.runs = asked.runs or (24 if asked.batch == 1 else 12)
    name = f"speed_{asked.length}_{asked.batch}.json"
    asked.out = asked.out or Path(__file__).parent / "results" / name
    return asked


def main() -> None:
    """Measure, write JSON after every prompt, and print tables."""
    asked = command_line()
    torch.set_num_threads(asked.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    bench = Bench(asked)
    bench.prepare()
    result = heading(asked)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    runs: list[Run] = []
    for number in range(len(bench.places)):
        runs.append(bench.measure(number))
        result["runs"] = [run.as_json() for run in runs]
        asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"{number + 1} of {len(bench.places)}", file=sys.stderr, flush=True)
    result |= results(bench, runs) | costs(bench, runs)
    result["targets"] = targets(result["methods"])
    asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))
    print(costs_table(result))
    print(ledger_table(result))


if __name__ == "__main__":
    main()
