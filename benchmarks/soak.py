"""Write texts in every way for hours, and see whether memory stays flat.

Calls are drawn from a seed: plain, Contrast, DoLa, FixedExit, EarlyExit, SelfSpeculation,
sampling, beams, ragged batches, ``exit_logits``, ELMER in one pass, several engines
(benchmarks/soak_ways.py), in one process, on the default model and the shipped ELMER.

Policy of a reading: resident memory is read twice, as it stands (``resident_mb``) and after
``gc.collect()`` and glibc's ``malloc_trim(0)`` (``kept_mb``); the slope is fitted to the private
part (``RssAnon``) of the second, since pages of mapped weight files come and go with what other
processes need. Between readings neither is called. Threads, open files and living tensors are
counted as well. At every reading one call with a fixed seed is made again and must give what it
gave first, bit for bit.

Before the time begins each way makes its largest call, so that later ones need no larger pieces of
memory. The first ``--warm-up`` share of the time is left out of the fit. The standard error allows
for readings that depend on those before them (Newey and West 1987). The result is written at every
reading, so that a cut loses nothing.

Example:
    python benchmarks/soak.py --minutes 110 --out benchmarks/results/soak.json
"""

import argparse
import ctypes
import gc
import json
import math
import os
import random
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy
import torch
from soak_ways import ENGINES, Ways
from transformers.utils import logging

from offramp.blocks.machine import machine_facts

SECONDS = 30.0
"""Between readings."""


def status() -> dict[str, float]:
    """Read this process's memory, in MB, and its threads, as the kernel counts them."""
    found = dict(
        line.split(":", 1)
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    )
    memory = {
        name: int(found[field].split()[0]) / 1024
        for name, field in (("resident", "VmRSS"), ("private", "RssAnon"), ("peak", "VmHWM"))
    }
    return {**memory, "threads": int(found["Threads"])}


def reading(since: float, texts: int) -> dict[str, float]:
    """Read memory as it stands and after what may be freed is freed."""
    before = status()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    after = status()
    living = gc.get_objects()
    return {
        "minutes": round((time.monotonic() - since) / 60, 3),
        "texts": texts,
        "resident_mb": round(before["resident"], 2),
        "kept_mb": round(after["private"], 2),
        "peak_mb": round(after["peak"], 2),
        "threads": after["threads"],
        "files": len(os.listdir("/proc/self/fd")),
        "objects": len(living),
        "tensors": sum(issubclass(type(each), torch.Tensor) for each in living),
    }


def slope(minutes: list[float], values: list[float]) -> dict[str, float] | None:
    """Fit a straight line; give its slope per hour and the standard error of that."""
    if len(values) < 10:
        return None
    x, y = numpy.asarray(minutes) / 60, numpy.asarray(values)
    x = x - x.mean()
    rise = float((x * y).sum() / (x * x).sum())
    score = x * (y - y.mean() - rise * x)
    lags = math.floor(4 * (len(y) / 100) ** (2 / 9))
    total = float((score * score).sum())
    for lag in range(1, lags + 1):
        total += 2 * (1 - lag / (lags + 1)) * float((score[lag:] * score[:-lag]).sum())
    error = math.sqrt(max(total, 0.0)) / float((x * x).sum())
    return {
        "per_hour": round(rise, 3),
        "standard_error": round(error, 3),
        "low": round(rise - 1.96 * error, 3),
        "high": round(rise + 1.96 * error, 3),
    }


class Soak:
    """One run.

    Args:
        ways: What is called.
        options: The command line.
    """

    def __init__(self, ways: Ways, options: argparse.Namespace) -> None:
        self.ways, self.options = ways, options
        self.readings: list[dict[str, float]] = []
        self.calls, self.texts, self.tokens = dict.fromkeys(ways.calls, 0), 0, 0
        self.first: dict[str, torch.Tensor] = {}
        self.repeats, self.changed = 0, []
        self.since = time.monotonic()

    def warm(self) -> None:
        """Make the largest call of each way, and one with a seed that is called again later."""
        for name in self.ways.calls:
            self.ways.largest(name)
            self.first[name] = self.ways.call(name, self.options.seed).found
            print(f"warm: {name}", flush=True)

    def run(self) -> None:
        """Call until the time is over."""
        draw, names = random.Random(self.options.seed), list(self.ways.calls)
        self.warm()
        self.since = last = time.monotonic()
        while time.monotonic() - self.since < 60 * self.options.minutes:
            name = draw.choice(names)
            done = self.ways.call(name, draw.randrange(1 << 31))
            self.calls[name] += 1
            self.texts += done.texts
            self.tokens += done.tokens
            del done
            if time.monotonic() - last >= self.options.every:
                self.again(names[len(self.readings) % len(names)])
                self.note()
                last = time.monotonic()
        self.note()

    def again(self, name: str) -> None:
        """Make a call of the warm-up again and compare."""
        self.repeats += 1
        if not torch.equal(self.ways.call(name, self.options.seed).found, self.first[name]):
            self.changed.append({"way": name, "texts": self.texts})

    def note(self) -> None:
        """Read memory, log it, and write all that is known."""
        self.readings.append(reading(self.since, self.texts))
        print(json.dumps(self.readings[-1]), flush=True)
        part = self.options.out.with_suffix(".part")
        part.write_text(json.dumps(self.result(), indent=1) + "\n", encoding="utf-8")
        part.replace(self.options.out)

    def result(self) -> dict[str, Any]:
        """Give the run so far."""
        start = self.options.warm_up * self.options.minutes
        warm = [each for each in self.readings if each["minutes"] >= start]
        minutes = [each["minutes"] for each in warm]
        fits = {
            name: slope(minutes, [each[name] for each in warm])
            for name in ("kept_mb", "resident_mb", "threads", "files", "objects", "tensors")
        }
        fit = fits["kept_mb"]
        return {
            "command": f"python benchmarks/soak.py --minutes {self.options.minutes:g}",
            "commit": self.options.commit,
            "offramp": version("offramp"),
            "machine": machine_facts(self.ways.model),
            "seed": self.options.seed,
            "minutes": self.readings[-1]["minutes"],
            "warm_up_minutes": start,
            "texts": self.texts,
            "tokens": self.tokens,
            "calls": self.calls,
            "repeated": self.repeats,
            "changed": self.changed,
            "kept_mb": {"first": warm[0]["kept_mb"], "last": warm[-1]["kept_mb"]} if warm else None,
            "slopes": fits,
            "flat": fit is not None and fit["high"] < 0.01 * warm[0]["kept_mb"],
            "readings": self.readings,
        }


def row(result: dict[str, Any]) -> str:
    """Give the row of docs/reliability.md."""
    fit, kept = result["slopes"]["kept_mb"], result["kept_mb"]
    if fit is None:
        return "| too short for a slope |"
    return (
        f"| {result['minutes']:.0f} min | {result['texts']:,} texts, {result['tokens']:,} tokens, "
        f"{sum(result['calls'].values()):,} calls of {len(result['calls'])} ways | "
        f"{kept['first']:.0f} → {kept['last']:.0f} MB | {fit['per_hour']:+.2f} ± "
        f"{fit['standard_error']:.2f} MB/h (95 %: {fit['low']:+.2f} to {fit['high']:+.2f}) | "
        f"{len(result['changed'])} of {result['repeated']} |"
    )


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=110)
    parser.add_argument("--every", type=float, default=SECONDS, help="seconds between readings")
    parser.add_argument("--warm-up", type=float, default=0.15, help="share left out of the fit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=24, help="new tokens of a text at most")
    parser.add_argument("--longest", type=int, default=200, help="prompt tokens at most")
    parser.add_argument("--engines", nargs="*", default=list(ENGINES))
    parser.add_argument("--out", type=Path, default=Path("soak.json"))
    parser.add_argument("--row", type=Path, help="only print the row of docs/reliability.md")
    options = parser.parse_args()
    if options.row is not None:
        print(row(json.loads(options.row.read_text(encoding="utf-8"))))
        return
    logging.set_verbosity_error()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    here = Path(__file__).parent
    asked = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True
    )
    options.commit = asked.stdout.strip()
    ways = Ways(most=options.most, longest=options.longest, engines=tuple(options.engines))
    soak = Soak(ways, options)
    soak.run()
    print(row(soak.result()), flush=True)


if __name__ == "__main__":
    main()
