"""Time and weigh the training of 12 exits, against a few plain lines that do the same.

A base of GPT-2 medium's shape with random weights, float32, frozen. All read the same tokens:

    plain            12 own heads, next token: all scores kept, 12 cross-entropies, one backward
    heads            the same by offramp: scores in chunks, dropped once their gradient is known
    lens             12 lenses, divergence from the last layer, all positions, whole vocabulary
    lens_quarter     the same on a random quarter of the positions
    lens_candidates  a quarter of the positions, likely tokens and 512 others

Speed: the ways take a training step in turn, in one process. Memory: each way in a process of its
own, the most it held beyond weights, gradients and optimiser state: ``memory`` in a step that
begins without gradients, as usual, ``memory_accumulating`` in one that adds to the gradients of a
batch before. Own heads are at every second block and at the last, lenses one block earlier: at the
last there is none to train.

Operations per token, two per multiplication with addition, for D wide, V tokens, S positions:
a block 24 D² + 2 S D, a product with a head 2 V D. Own heads need two products an exit, for scores
and the head's gradient; the states' gradient is a third one, which a frozen base never asks for.
Lenses need two, for scores and the state's gradient, and the teacher one. With a share of positions
only the base stays whole. ``arithmetic`` in the result counts it, to be compared with the clock.

``--quality`` measures instead what a share of positions costs (benchmarks/exits_quality.py).

Example:
    python benchmarks/train_exits.py --steps 7 --out benchmarks/results/train_exits.json
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone uses
from transformers import GPT2Config, GPT2LMHeadModel

from offramp import attach_exits
from offramp.blocks.machine import processor_name
from offramp.training.candidates import Candidates
from offramp.training.chunked import CHUNK_SCORES
from offramp.training.objectives import Objective
from offramp.training.student import Lesson, Student

TARGETS = {
    "heads_memory_of_plain": "at most 0.1",
    "heads_tokens_per_second_of_plain": "at least 0.95",
    "lens_quarter_tokens_per_second_of_heads": "at least 2.2",
}
PARTS = ["memory", "speed"]
TOP, OTHERS = 16, 512


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to train: which exits learn what."""

    exits: str
    objective: str
    share: float = 1.0
    candidates: Candidates | None = None


WAYS = {
    "plain": Way(exits="head", objective="next-token"),
    "heads": Way(exits="head", objective="next-token"),
    "lens": Way(exits="lens", objective="distillation"),
    "lens_quarter": Way(exits="lens", objective="distillation", share=0.25),
    "lens_candidates": Way(
        exits="lens",
        objective="distillation",
        share=0.25,
        candidates=Candidates(top=TOP, others=OTHERS),
    ),
}


def numbers_of(asked: Any, kind: str) -> tuple[int, ...]:
    """Give the exits of one kind: heads spread evenly up to the last, lenses one block earlier."""
    count = max(1, min(asked.exits, asked.blocks // 2))
    heads = (asked.blocks * (place + 1) // count for place in range(count))
    return tuple(exit - (kind == "lens") for exit in heads)


def build(asked: Any, kinds: set[str]) -> Any:
    """Make the base with random weights, and attach the exits of these kinds."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=asked.blocks,
        n_embd=asked.width,
        n_head=asked.width // 64,
        vocab_size=asked.vocabulary,
        n_positions=asked.length,
    )
    model = GPT2LMHeadModel(config).eval()
    for kind in sorted(kinds):
        attach_exits(model, numbers_of(asked, kind), kind)
    model.requires_grad_(False).exits.requires_grad_(True)
    return model.to(asked.device)


def plain_loss(model: Any, exits: tuple[int, ...]) -> Callable[..., torch.Tensor]:
    """Train own heads as one would write it down."""

    def loss(ids: torch.Tensor, labels: torch.Tensor, step: int) -> torch.Tensor:
        with torch.no_grad():
            base = model.transformer
            states = base(ids, output_hidden_states=True, use_cache=False).hidden_states
            read = [
                states[exit] if exit == len(base.h) else base.ln_f(states[exit]) for exit in exits
            ]
        scores = [model.exits[str(e)].linear(state) for e, state in zip(exits, read, strict=True)]
        return sum(F.cross_entropy(each.flatten(0, 1), labels.flatten()) for each in scores)

    return loss


def loss_of(model: Any, name: str, asked: Any) -> Callable[..., torch.Tensor]:
    """Give the function from tokens to the loss of one way."""
    way = WAYS[name]
    exits = numbers_of(asked, way.exits)
    if name == "plain":
        return plain_loss(model, exits)
    lesson = Lesson(
        objective=Objective(name=way.objective),
        exit_weights=dict.fromkeys(exits, 1.0),
        share=way.share,
        candidates=way.candidates,
        chunk=asked.chunk,
    )
    student = Student(model, lesson).train()
    return lambda ids, labels, step: student(ids, labels, step=step)["loss"]


def optimiser_of(model: Any, kind: str, asked: Any) -> Any:
    """Give the optimiser of the exits of one kind, as transformers' Trainer chooses it."""
    exits = [model.exits[str(exit)] for exit in numbers_of(asked, kind)]
    parameters = [each for exit in exits for each in exit.parameters()]
    return torch.optim.AdamW(parameters, lr=1e-5, weight_decay=0.0, fused=True)


def text(asked: Any, batch: int, length: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a batch: tokens, and the next token of each but the last."""
    draw = torch.Generator().manual_seed(step)
    ids = torch.randint(asked.vocabulary, (batch, length), generator=draw)
    labels = torch.cat((ids[:, 1:], torch.full((batch, 1), -100)), dim=1)
    return ids.to(asked.device), labels.to(asked.device)


def clock(device: str) -> float:
    """Read the clock when the device has done what it was told."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def take_step(loss: Any, optimiser: Any, batch: Any, step: int, device: str) -> dict[str, float]:
    """Train one step; give its seconds, with and without the optimiser, and its loss."""
    start = clock(device)
    optimiser.zero_grad(set_to_none=True)
    value = loss(*batch, step)
    value.backward()
    between = clock(device)
    optimiser.step()
    return {"step": clock(device) - start, "gradients": between - start, "loss": value.item()}


def measure_speed(asked: Any) -> dict[str, dict[str, list[float]]]:
    """Let the ways take a step in turn, forwards and backwards through them."""
    kinds = {WAYS[name].exits for name in asked.ways}
    model = build(asked, kinds)
    optimisers = {kind: optimiser_of(model, kind, asked) for kind in kinds}
    losses = {name: loss_of(model, name, asked) for name in asked.ways}
    if {"plain", "heads"} <= losses.keys():
        check_same(losses, optimisers["head"], text(asked, 1, min(64, asked.length), 0))
    taken: dict[str, dict[str, list[float]]] = {
        name: {"step": [], "gradients": []} for name in losses
    }
    for step in range(asked.steps + 1):
        batch = text(asked, asked.batch, asked.length, step)
        for name in [*losses] if step % 2 == 0 else [*losses][::-1]:
            optimiser = optimisers[WAYS[name].exits]
            times = take_step(losses[name], optimiser, batch, step, asked.device)
            optimiser.zero_grad(set_to_none=True)
            print(f"step {step} {name:16} {times['step']:.2f} s", file=sys.stderr, flush=True)
            for part in taken[name] if step else ():  # the first warms up
                taken[name][part].append(times[part])
    return taken


def check_same(losses: dict[str, Any], optimiser: Any, batch: Any) -> None:
    """See that plain and ours are the same training: one loss, the same gradients."""
    found = []
    for name in ("plain", "heads"):
        optimiser.zero_grad(set_to_none=True)
        value = losses[name](*batch, 0)
        value.backward()
        found.append([value.item(), *(each.grad.norm().item() for each in parameters(optimiser))])
    optimiser.zero_grad(set_to_none=True)
    assert torch.allclose(*(torch.tensor(each) for each in found), rtol=1e-3), found


def parameters(optimiser: Any) -> list[torch.Tensor]:
    """Give what an optimiser trains."""
    return [each for group in optimiser.param_groups for each in group["params"]]


class Peak:
    """The most memory held since it was made, beyond what was held then, in bytes."""

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        elif Path("/proc/self/clear_refs").exists():
            Path("/proc/self/clear_refs").write_text("5")  # the peak is what is held now

    def bytes(self) -> int:
        """Give the peak; where the system cannot reset it, that of the whole process."""
        if self.cuda:
            return torch.cuda.max_memory_allocated()
        status = Path("/proc/self/status")
        if status.exists():
            return kilobytes(status, "VmHWM")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024)


def kilobytes(path: Path, name: str) -> int:
    """Read one line of what Linux says about memory, in bytes."""
    lines = path.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


def measure_memory(name: str, asked: Any) -> dict[str, int]:
    """Give the memory of one way, in this process, which must be fresh."""
    model = build(asked, {WAYS[name].exits})
    optimiser, loss = optimiser_of(model, WAYS[name].exits, asked), loss_of(model, name, asked)
    take_step(loss, optimiser, text(asked, 1, 16, 0), 0, asked.device)
    held = Peak(asked.device).bytes()
    trained = sum(each.numel() for each in parameters(optimiser))
    weights = sum(each.numel() for each in model.parameters())
    peak = Peak(asked.device)
    take_step(loss, optimiser, text(asked, asked.batch, asked.length, 1), 1, asked.device)
    first = peak.bytes() - held
    peak = Peak(asked.device)
    loss(*text(asked, asked.batch, asked.length, 2), 2).backward()
    return {
        "weights_gradients_optimiser": 4 * (weights + 3 * trained),
        "gradients": 4 * trained,
        "held_before": held,
        "memory": first,
        "memory_accumulating": peak.bytes() - held,
    }


def memory_elsewhere(name: str) -> dict[str, int]:
    """Measure one way in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", name]
    # large pieces go straight back to the system, so that what is held is what is used
    settings = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=settings)
    return json.loads(done.stdout)


def arithmetic(name: str, asked: Any) -> dict[str, float]:
    """Count operations per token, and bytes held at once, of one way."""
    way, exits = WAYS[name], len(numbers_of(asked, WAYS[name].exits))
    width, vocabulary, positions = asked.width, asked.vocabulary, asked.batch * asked.length
    blocks = asked.blocks * (24 * width**2 + 2 * asked.length * width)
    head, scores = 2 * vocabulary * width, 4 * positions * vocabulary
    lens = way.exits == "lens"
    asked_for = 2 * exits * head  # scores, and the gradient of heads or of states
    if lens:
        chunk = max(16, CHUNK_SCORES // vocabulary)
        likely = min(vocabulary, TOP * min(chunk, positions * way.share) + OTHERS)  # at most
        asked_for *= likely / vocabulary if way.candidates else 1
        asked_for += head + exits * 2 * 2 * width**2  # the teacher; the lens and its gradient
    trained = exits * width * (width + 1 if lens else vocabulary)
    rows = min(asked.chunk or max(16, CHUNK_SCORES // vocabulary), positions)
    return {
        "million_operations_per_token": round((blocks + way.share * asked_for) / 1e6),
        "of_which_the_base": round(blocks / 1e6),
        "optimiser_bytes_per_token": round(7 * 4 * trained / positions),  # reads 4, writes 3
        "bytes_beyond": 2 * exits * scores - 4 * trained  # scores and log-softmax; no gradients yet
        if name == "plain"
        else (9 if lens else 5) * 4 * rows * vocabulary,  # one chunk: scores, teacher, gradients
    }


def refuse_too_little(asked: Any) -> None:
    """Stop before the machine runs out of memory."""
    meminfo = Path("/proc/meminfo")
    if asked.device != "cpu" or not meminfo.exists():
        return
    base = asked.blocks * 12 * asked.width**2 + asked.vocabulary * asked.width
    kinds = {WAYS[name].exits for name in asked.ways}
    heads = asked.exits * asked.vocabulary * asked.width * ("head" in kinds)
    held = max(arithmetic(name, asked)["bytes_beyond"] for name in asked.ways)
    needed, free = 4 * (base + 4 * heads) + held + 3 * 2**29, kilobytes(meminfo, "MemAvailable")
    if needed > free:
        sys.exit(
            f"this needs about {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free; "
            "stop something else, or take fewer --exits, a smaller --batch, or leave out plain"
        )


def summary(name: str, taken: Any, asked: Any) -> dict[str, Any]:
    """Sum the speed of one way up, against plain and heads step by step."""
    tokens, mine = asked.batch * asked.length, taken[name]
    row: dict[str, Any] = {}
    for part in ("step", "gradients"):
        speeds = sorted(tokens / seconds for seconds in mine[part])
        row[f"{part}_seconds"] = [round(seconds, 3) for seconds in mine[part]]
        row[f"{part}_tokens_per_second"] = round(statistics.median(speeds), 1)
        row[f"{part}_range"] = [round(speeds[0], 1), round(speeds[-1], 1)]
        for other in ("plain", "heads"):
            if other in taken:
                ratios = [b / m for m, b in zip(mine[part], taken[other][part], strict=True)]
                row[f"{part}_speed_of_{other}"] = round(statistics.median(ratios), 3)
                row[f"{part}_speed_of_{other}_range"] = [
                    round(min(ratios), 3),
                    round(max(ratios), 3),
                ]
    return row


def measured(results: dict[str, Any]) -> dict[str, float]:
    """Give what the targets ask for, as far as it was measured."""
    found: dict[str, float] = {}
    plain, heads = results.get("plain", {}), results.get("heads", {})
    if "memory" in plain and "memory" in heads:
        found["heads_memory_of_plain"] = round(heads["memory"] / plain["memory"], 4)
        accumulating = heads["memory_accumulating"] / plain["memory_accumulating"]
        found["heads_memory_of_plain_accumulating"] = round(accumulating, 4)
        found["heads_hold_a_second_set_of_gradients"] = heads["memory"] > heads["gradients"]
    if speed := heads.get("step_speed_of_plain"):
        found["heads_tokens_per_second_of_plain"] = speed
    if speed := results.get("lens_quarter", {}).get("step_speed_of_heads"):
        found["lens_quarter_tokens_per_second_of_heads"] = speed
    return found


def measure_training(asked: Any) -> dict[str, Any]:
    """Measure speed and memory of all ways."""
    refuse_too_little(asked)
    results: dict[str, Any] = {name: {"arithmetic": arithmetic(name, asked)} for name in asked.ways}
    for name in asked.ways if "memory" in asked.parts else ():
        results[name] |= memory_elsewhere(name)
        print(f"memory {name:16} {results[name]['memory'] / 1e6:.0f} MB", file=sys.stderr)
    if "speed" in asked.parts:
        taken = measure_speed(asked)
        for name in asked.ways:
            results[name] |= summary(name, taken, asked)
    for name, row in results.items():
        print(
            f"{name:16} {row.get('step_tokens_per_second', 0):8.1f} tokens/s "
            f"{row.get('step_speed_of_plain', 0):6.2f}x plain "
            f"{row.get('step_speed_of_heads', 0):6.2f}x heads "
            f"{row.get('memory', 0) / 1e6:8.0f} MB "
            f"{row.get('memory_accumulating', 0) / 1e6:8.0f} MB accumulating"
        )
    found = measured(results)
    for name, value in found.items():
        print(f"{name} {value} {'target ' + TARGETS[name] if name in TARGETS else ''}")
    return {"targets": TARGETS, "measured": found, "results": results}


def parsed() -> Any:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=7, help="timed steps, after one that warms up")
    parser.add_argument("--ways", nargs="+", default=[*WAYS], choices=[*WAYS])
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--blocks", type=int, default=24, help="of the base")
    parser.add_argument("--width", type=int, default=1024, help="of the base, 64 for each head")
    parser.add_argument("--vocabulary", type=int, default=50257)
    parser.add_argument("--exits", type=int, default=12)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=512, help="tokens in a row")
    parser.add_argument("--chunk", type=int, help="positions at a time; default: offramp's own")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-of", choices=[*WAYS], help=argparse.SUPPRESS)
    quality = parser.add_argument_group("quality of a share of the positions")
    quality.add_argument("--quality", action="store_true", help="measure this instead")
    quality.add_argument("--data", type=Path, help="text that the model wrote, as JSON lines")
    quality.add_argument("--seeds", type=int, default=3)
    quality.add_argument("--train-steps", type=int, default=300)
    quality.add_argument("--rows", type=int, default=8, help="rows in a step")
    quality.add_argument("--held-out", type=int, default=128, help="rows that are not trained on")
    quality.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, help="default: train_exits[_quality].json in results/")
    asked = parser.parse_args()
    if asked.quality and asked.data is None:
        parser.error("--quality needs --data FILE, text that offramp.training.self_text wrote")
    return asked


def main() -> None:
    """Run and write JSON."""
    asked = parsed()
    torch.set_num_threads(asked.threads)
    if asked.memory_of:
        print(json.dumps(measure_memory(asked.memory_of, asked)))
        return
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    settings = {key: value for key, value in vars(asked).items() if key not in ("out", "memory_of")}
    # only one of the two parts needs transformers' Trainer, which takes memory to import
    measure = import_module("exits_quality").measure_quality if asked.quality else measure_training
    result = {
        "benchmark": "train_exits_quality" if asked.quality else "train_exits",
        "settings": settings | {"data": asked.data and asked.data.name},
        "threads": asked.threads,
        "machine": f"{processor_name()}, {platform.system()}",
        "versions": {name: version(name) for name in ("torch", "transformers", "offramp")},
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
        **measure(asked),
    }
    out = asked.out or Path(__file__).parent / "results" / f"{result['benchmark']}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
