"""Time ELMER, which writes a text in one pass, against BART, which writes token after token.

Base size (6+6 layers, width 768, vocabulary 50,265), random weights, sources of 256 tokens, 64
tokens out, float32 unless a way says int8, everything interleaved in one process:

    bart            greedy with its cache, by generate of the same transformers; the base of ratios
    bart-6-1        the same with one decoder layer ("deep encoder, shallow decoder")
    bart-beam4      four beams (not run unless asked for)
    bart-int8       bart, its linear layers quantised dynamically by PyTorch
    elmer           one pass, all layers, a canvas of 64, plain head
    elmer-gate-K    everybody leaves at exit K, which a gate of one linear layer decides
    elmer-entropy-K the same, decided by the entropy of its scores, which then are the text's
    elmer-gate-never, elmer-entropy-never
                    every exit is asked and nobody leaves: what asking costs
    elmer-soft      each layer hands its best tokens to the next, as the released code did
    elmer-ctc       CTC head, a canvas of twice the text (128)
    elmer-dag       directed acyclic decoder, lookahead, a canvas of four times the text (256)
    elmer-int8      elmer, quantised like bart-int8

Each is timed twice: ``call`` is the whole ``generate`` from ids to ids, ``decoder`` the same with
the encoder's output given. Both end with ids that have been read off; making ids of words and words
of ids is not counted. Garbage collection is off, a round before the first does not count, the
order turns from round to round, and ratios are taken within rounds. Beside each way stands what it
multiplies and reads, and the ratio that follows if nothing but that took time (elmer_costs.py).

Example:
    python benchmarks/elmer.py --batch 1 8 --rounds 7 --out benchmarks/results/elmer.json
"""

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from elmer_costs import Sizes, rates
from elmer_report import SCOPES, summed, table, targets, works_of
from elmer_ways import BASE, PAD, Way, Ways
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging

from offramp.blocks.machine import machine_facts

PAUSE = 0.02
"""Seconds for threads of the way before to go to sleep."""


class Bench:
    """The ways, and one batch of sources.

    Args:
        ways: By name.
        sizes: Of models and texts.
        batch: Sources.
        seed: Of the sources.
    """

    def __init__(self, ways: dict[str, Way], sizes: Sizes, *, batch: int, seed: int) -> None:
        self.ways, self.sizes = ways, sizes
        draw = torch.Generator().manual_seed(seed)
        ids = torch.randint(3, sizes.vocab - 1, (batch, sizes.source), generator=draw)
        self.device = ways[BASE].model.device
        self.ids = ids.to(self.device)
        self.mask = torch.ones_like(self.ids)
        encoder = ways[BASE].model.model.encoder
        self.states = encoder(input_ids=self.ids, attention_mask=self.mask).last_hidden_state
        self.order = random.Random(seed)

    def inputs(self, scope: str) -> dict[str, Any]:
        """Give what a way is called with."""
        if scope == "call":
            return {"input_ids": self.ids, "attention_mask": self.mask}
        states = BaseModelOutput(last_hidden_state=self.states)
        return {"encoder_outputs": states, "attention_mask": self.mask}

    def written(self) -> dict[str, dict[str, Any]]:
        """Let every way write once in each scope, and check what it is to be."""
        found = {}
        for name, way in self.ways.items():
            texts = {scope: way.run(**self.inputs(scope)) for scope in SCOPES}
            if way.decoding is not None:
                run = way.model.generate(
                    **self.inputs("call"), decoding=way.decoding, return_dict_in_generate=True
                ).layers
                assert int(run.count_nonzero()) == way.layers, (name, run)
            if way.weight_bytes == 4:
                assert torch.equal(texts["call"], texts["decoder"]), name
            count = (texts["call"] != PAD).sum(-1).double().mean().item()
            assert not way.whole or count == self.sizes.tokens, (name, count)
            found[name] = {"tokens": round(count, 2)}
        return found

    def round(self) -> dict[str, dict[str, float]]:
        """Time every way in each scope, in a drawn order; seconds."""
        found: dict[str, dict[str, float]] = {scope: {} for scope in SCOPES}
        for scope in SCOPES:
            names = list(self.ways)
            self.order.shuffle(names)
            for name in names:
                found[scope][name] = self._timed(self.ways[name], self.inputs(scope))
        return found

    def _timed(self, way: Way, inputs: dict[str, Any]) -> float:
        gc.collect()
        time.sleep(PAUSE)
        gc.disable()
        self._wait()
        start = time.perf_counter()
        way.run(**inputs)
        self._wait()
        taken = time.perf_counter() - start
        gc.enable()
        return taken

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Neighbours:
    """How much of the machine others used meanwhile, where the system tells."""

    STAT = Path("/proc/stat")

    def __init__(self) -> None:
        self.begun = time.perf_counter(), self._others()

    def _others(self) -> float:
        """Give seconds of processors that others have used, what was stolen included."""
        if not self.STAT.is_file():
            return 0.0
        user, nice, system, _, _, irq, softirq, steal = map(int, self.STAT.read_text().split()[1:9])
        ticks = user + nice + system + irq + softirq + steal
        return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()

    def processors(self) -> float:
        """Give the processors that others kept busy since the beginning, on average."""
        start, others = self.begun
        return round((self._others() - others) / (time.perf_counter() - start), 3)


def heading(asked: argparse.Namespace, sizes: Sizes, model: Any) -> dict[str, Any]:
    """Say what was measured, on what."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "benchmark": "elmer",
        "sizes": asdict(sizes),
        "weights": "random",
        "rounds": asked.rounds,
        "seed": asked.seed,
        "note": asked.note,
        "machine": machine_facts(model) | {"offramp": version("offramp")},
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
        "results": [],
    }


def command_line() -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=None, help="ways beside bart; default most")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda (without the int8 ways)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5, help="of the bare products")
    parser.add_argument("--note", default="", help="what else ran on the machine")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/elmer.json"))
    for field in fields(Sizes):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=int, default=field.default, help="size"
        )
    return parser.parse_args()


def chosen(asked: argparse.Namespace, ways: Ways) -> dict[str, Way]:
    """Make the ways asked for."""
    known = list(ways.makers())
    only = asked.only or [name for name in known if name != "bart-beam4"]
    if asked.device != "cpu":
        only = [name for name in only if not name.endswith("int8")]
    if strange := sorted(set(only) - set(known)):
        raise SystemExit(f"no way {', '.join(strange)}; there are {', '.join(known)}")
    return ways.made(only)


@torch.inference_mode()
def measure(asked: argparse.Namespace, ways: dict[str, Way], sizes: Sizes, batch: int) -> Any:
    """Measure one batch size."""
    bench = Bench(ways, sizes, batch=batch, seed=asked.seed)
    written = bench.written()
    gc.collect()
    gc.freeze()  # what lives by now is not looked through before each call
    rounds, neighbours = [], Neighbours()
    for number in range(asked.rounds):
        rounds.append(bench.round())
        print(f"batch {batch}: round {number + 1} of {asked.rounds}", file=sys.stderr, flush=True)
    busy = neighbours.processors()
    rows = {work.rows for way in ways.values() for work in works_of(way, "call", batch)}
    speeds = rates(ways[BASE].model, sizes, rows, asked.repeats)
    found = summed(ways, rounds, batch=batch, speeds=speeds)
    return {
        "batch": batch,
        "processors_busy_elsewhere": busy,
        "giga_operations_per_second": {
            str(number): round(speed / 1e9, 3) for number, speed in sorted(speeds.items())
        },
        "ways": {name: written[name] | found[name] for name in found},
    }


def main() -> None:
    """Measure, write JSON after every batch size, and print tables."""
    asked = command_line()
    torch.set_num_threads(asked.threads)
    logging.set_verbosity_error()
    sizes = Sizes(**{field.name: getattr(asked, field.name) for field in fields(Sizes)})
    with torch.inference_mode():
        ways = chosen(asked, Ways(sizes, seed=asked.seed, device=asked.device))
    result = heading(asked, sizes, ways[BASE].model)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    for batch in asked.batch:
        result["results"].append(measure(asked, ways, sizes, batch))
        result["targets"] = targets(result["results"])
        asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(table(result["results"][-1]))
    for target in result["targets"]:
        print(target)


if __name__ == "__main__":
    main()
