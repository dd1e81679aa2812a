"""The cost ledger of benchmarks/speed.py: what each method ran, and the time that this explains.

In:  what the runs of our loops reported, and the measured cost of the parts of a step. Out: block
     passes, heads, bytes and milliseconds per token, predicted beside measured.

One text at a time. A step of r rows costs blocks(r) + head(r), in a contrast the head with its
sparse lower one; blocks are assumed to cost alike, and r rows of some blocks their share of r rows
of all. A step's rows are read off the blocks that were run for its first token. A drafted token
costs the drafter and its head, and a draft whose length is automatic one more, which was given up;
or the draft exit's blocks for one row and the trimmed head, those blocks then being left out of the
step. Drafts that were copied cost nothing, and their steps draft nothing else. Early exit: each
token passes its blocks once, rows filled in later cost what a second row adds, every exit on the
way costs a stop, which is that of a gate, and rules that read scores a head there too. A call costs
the prompt, one pass of so many rows, and what an engine and a draft head are made ready for.
"""

import statistics
from collections.abc import Callable
from typing import Any

import torch
from speed_costs import ROWS, Steps, block_bytes, in_turn
from speed_report import Run
from speed_ways import ACD, DRAFT_VOCABULARY, OURS, Way

from offramp.blocks.engines import engine_for
from offramp.blocks.products import product
from offramp.config import ORIGINAL
from offramp.decoding.drafts import best_of
from offramp.decoding.judge import BY_SCORES
from offramp.models.embedded import default_token_counts


@torch.inference_mode()
def parts_of(
    model: Any, engine: str, prompt: list[int], text: list[int], repeats: int
) -> dict[Any, float]:
    """Time the parts of a step, in turn, in the middle of a text; medians in milliseconds."""
    steps = Steps(model, engine, prompt + text, len(prompt) + len(text) // 2)
    parts: dict[Any, Callable[[], Any]] = {}
    for count in ROWS:
        parts["blocks", count] = lambda count=count: steps.blocks(count)
        parts["head", count] = lambda count=count: steps.head(count)
        parts["contrast", count] = lambda count=count: steps.contrast(count)
    gates = [exit for exit in model.exit_numbers if model.exits[str(exit)].gate is not None]
    parts["all gates", 0] = lambda: steps.gated(gates)
    fresh = Steps(model, engine, prompt, 1)
    parts["prompt", 0] = lambda: fresh.blocks(len(prompt) - 1)
    parts["call", 0] = lambda: engine_for(model.anatomy, engine)
    frequent = default_token_counts()[0][:DRAFT_VOCABULARY]
    parts["call of a draft head", 0] = lambda: model.head_rows(ORIGINAL, frequent)
    if model.drafter is not None:
        rows = model.head_rows(ORIGINAL, model.drafter.tokens)
        state = torch.randn(1, model.config.hidden_size)
        embeddings = model.get_input_embeddings()

        def draft() -> None:
            guess = model.drafter(state, embeddings(torch.tensor([100])))
            best_of(product(guess, rows), model.drafter.tokens)

        parts["draft", 0] = draft
    weight = model.anatomy.head.weight[:DRAFT_VOCABULARY].clone()
    parts["draft head", 0] = lambda: best_of(product(torch.randn(1, weight.shape[1]), weight), None)
    found = {name: statistics.median(taken) for name, taken in in_turn(parts, repeats).items()}
    stops = found.pop(("all gates", 0)) - found["blocks", 1]
    return found | {("stop", 0): max(0.0, stops) / max(1, len(gates))}


def at_rows(parts: dict[Any, float], part: str, count: float) -> float:
    """Give the time of a part for so many rows, beyond 8 in a straight line."""
    most = ROWS[-1]
    if count <= most:
        return parts[part, max(1, round(count))]
    slope = parts[part, most] - parts[part, most - 1]
    return parts[part, most] + (count - most) * max(0.0, slope)


class Ledger:
    """Adds up what one engine's runs were made of.

    Args:
        model: The default model.
        parts: See ``parts_of``.
        engine: Name of the engine; ``-int8`` and ``-int4`` have smaller weights.
    """

    def __init__(self, model: Any, parts: dict[Any, float], engine: str) -> None:
        self.model, self.parts, self.depth = model, parts, model.depth
        share = {"int8": 1 / 4, "int4": 1 / 8}.get(engine.rpartition("-")[2], 1.0)
        self.block = share * block_bytes(model)
        self.head = share * model.anatomy.head.weight.nbytes

    def entry(self, way: Way, name: str, runs: list[Run]) -> dict[str, float]:
        """Give blocks, heads, bytes and predicted milliseconds per token, and those measured."""
        total = {"passes": 0.0, "heads": 0.0, "bytes": 0.0, "ms": 0.0}
        tokens = 0
        for run in runs:
            note = {key: value[0] for key, value in run.notes[name].items()}
            tokens += len(run.rows[name][0])
            added = (
                self._early(way, note) if way.method.startswith("early") else self._steps(way, note)
            )
            for key, value in added.items():
                total[key] += value
            once = ["prompt", "call"]
            once += ["call of a draft head"] if hasattr(way.decoding, "draft_exit") else []
            total["ms"] += sum(self.parts[part, 0] for part in once) + self.parts["head", 1]
        found = {f"{key}_per_token": value / tokens for key, value in total.items()}
        found["measured_ms_per_token"] = 1e3 * sum(run.seconds[name] for run in runs) / tokens
        return found

    def _steps(self, way: Way, note: dict[str, Any]) -> dict[str, float]:
        decoding, parts = way.decoding, self.parts
        exit = getattr(decoding, "draft_exit", None) or 0
        counts = [blocks / self.depth for blocks in note["blocks"][1:] if blocks]
        head = "contrast" if decoding.target is not None else "head"
        share = 1 - exit / self.depth
        ms = sum(share * at_rows(parts, "blocks", n) + at_rows(parts, head, n) for n in counts)
        passes, heads, size = self.depth * share * len(counts), float(len(counts)), 0.0
        guesses = float(note["drafted"] - note["copied"])
        if exit:
            drafts = sum(counts)
            passes += exit * drafts
            ms += drafts * (1 - share) * parts["blocks", 1] + guesses * parts["draft head", 0]
            size = guesses * DRAFT_VOCABULARY * self.model.config.hidden_size * 4.0
        elif getattr(decoding, "draft_length", None) is not None:
            asked = len(counts) - note["copied"] / max(1, decoding.lookup)
            guesses += asked if decoding.draft_length == "auto" else 0
            ms += guesses * parts["draft", 0]
            size = guesses * self._drafter_bytes()
        size += passes * self.block + heads * self.head
        return {"passes": passes, "heads": heads, "bytes": size, "ms": ms}

    def _drafter_bytes(self) -> float:
        drafter = self.model.drafter
        rows = len(drafter.tokens) * self.model.config.hidden_size * 4
        return float(rows + sum(each.nbytes for each in drafter.parameters()))

    def _early(self, way: Way, note: dict[str, Any]) -> dict[str, float]:
        parts, rule = self.parts, way.decoding.rule
        exits = note["exits"][1:]
        passes = float(sum(exits))
        filled = sum(note["blocks"][1:]) - passes
        second = parts["blocks", 2] - parts["blocks", 1]
        reads = rule in BY_SCORES or rule == "patience"
        asked = way.decoding.answering(self.model)
        heads = float(len(exits))
        stops = sum(exit <= last for last in exits for exit in asked)
        if reads:  # whoever leaves has been read already
            heads = stops + float(sum(last == self.depth for last in exits))
        ms = (passes * parts["blocks", 1] + filled * max(0.0, second)) / self.depth
        ms += heads * parts["head", 1] + stops * parts["stop", 0]
        size = passes * self.block + heads * self.head
        return {"passes": passes, "heads": heads, "bytes": size, "ms": ms}


def ledger(
    model: Any, ways: dict[str, Way], runs: list[Run], engines: list[str], repeats: int
) -> dict[str, Any]:
    """Predict each method's speed over our own loop from its parts, beside what was measured."""
    middle = sorted(runs, key=lambda run: len(run.prompts[0]))[len(runs) // 2]
    found: dict[str, Any] = {}
    for engine in engines:
        at = "" if engine == "auto" else f"@{engine}"
        mine = {
            n: w for n, w in ways.items() if w.decoding is not None and w.decoding.engine == engine
        }
        parts = parts_of(model, engine, middle.prompts[0], middle.rows[OURS][0], repeats)
        book = Ledger(model, parts, engine)
        for name, way in mine.items():
            found[name] = book.entry(way, name, runs)
        for name in mine:
            compare(found[name], found[ACD + at if "acd" in name else OURS + at])
        found[f"parts{at}"] = {f"{part} {n}": round(ms, 4) for (part, n), ms in parts.items()}
    return {
        name: {
            key: round(value, 4) if isinstance(value, float) else value
            for key, value in each.items()
        }
        for name, each in found.items()
    }


def compare(mine: dict[str, Any], own: dict[str, Any]) -> None:
    """Add the ratios to our own loop, and whether the prediction holds within 15 %."""
    mine["predicted_ratio"] = own["ms_per_token"] / mine["ms_per_token"]
    mine["measured_ratio"] = own["measured_ms_per_token"] / mine["measured_ms_per_token"]
    mine["within_15_percent"] = abs(mine["predicted_ratio"] / mine["measured_ratio"] - 1) <= 0.15
    mine["time_explained"] = mine["ms_per_token"] / mine["measured_ms_per_token"]


def ledger_table(result: dict[str, Any]) -> str:
    """Write the ledger as Markdown; a prediction that is more than 15 % off says so."""
    lines = []
    if book := result.get("ledger"):
        lines += [
            "",
            "| ledger | block passes | heads | MB | ms | measured ms | predicted | measured |",
        ]
        lines.append("|---" * 8 + "|")
        for name, each in book.items():
            if "passes_per_token" not in each:
                continue
            numbers = [
                f"{each['passes_per_token']:.1f}",
                f"{each['heads_per_token']:.2f}",
                f"{each['bytes_per_token'] / 1e6:.0f}",
                f"{each['ms_per_token']:.1f}",
                f"{each['measured_ms_per_token']:.1f}",
                f"{each['predicted_ratio']:.2f}" + ("" if each["within_15_percent"] else " (off)"),
                f"{each['measured_ratio']:.2f}",
            ]
            lines.append(f"| {name} | {' | '.join(numbers)} |")
    return "\n".join(lines)
