"""What benchmarks/speed.py makes of its runs: ratios with spread, equal texts, agreement, tables.

In:  the runs of every method on every prompt. Out: numbers for JSON, and Markdown.

A ratio is tokens per second of one method over those of another on the same prompt; its summary is
the median over prompts with a 95 % interval by bootstrap over prompts. A text loops if the share of
its 4-grams that occurred before is above a bound; then that prompt counts as looping for all
methods of the same target. A batch loops if half of its texts do.

Early exit changes texts. ``agreement`` is the share of the written tokens that the whole model
would have chosen after the same tokens (one pass over the finished text); ``prefix`` the share of
plain decoding's text that comes before the first difference; ``perplexity`` that of the written
text under the whole model.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone uses
from speed_ways import ACD, OURS, PLAIN, Way

from offramp.evaluation.metrics import repetition

DRAWS = 10_000
TARGETS = [
    ("ours", "over_generate", 1.35),
    ("ours@onnxruntime", "over_generate", 2.0),
    ("ours+drafter", "over_own_loop", 1.25),
    ("ours+drafter+lookup", "over_own_loop", 1.35),
    ("ours+drafter+lookup", "over_generate", 1.8),
    ("ours+acd+drafter", "over_own_loop", 1.15),
    ("ours+acd+drafter", "over_generate", 1.3),
]
"""Least medians at batch 1 on all prompts."""
GROUPS = ("all", "straight", "looping")


@dataclass(kw_only=True)
class Run:
    """All methods on one prompt, or one batch of prompts.

    Attributes:
        places: Numbers of the prompts.
        kinds: Their kinds.
        prompts: Their tokens, without padding.
        seconds: How long each method took.
        rows: What it wrote.
        notes: Exits, blocks, drafted and accepted tokens, for methods of ours.
    """

    places: list[int]
    kinds: list[str]
    prompts: list[list[int]]
    seconds: dict[str, float] = field(default_factory=dict)
    rows: dict[str, list[list[int]]] = field(default_factory=dict)
    notes: dict[str, dict[str, list[Any]]] = field(default_factory=dict)

    def rate(self, name: str) -> float:
        """Give tokens per second."""
        return sum(map(len, self.rows[name])) / self.seconds[name]

    def loops(self, name: str, bound: float) -> bool:
        """Tell whether at least half of the texts repeat themselves."""
        shares = [repetition(row) for row in self.rows[name]]
        return 2 * sum(share > bound for share in shares) >= len(shares)

    def as_json(self) -> dict[str, Any]:
        """Give what a reader can make other summaries of."""
        return {
            "prompts": self.places,
            "kinds": self.kinds,
            "prompt_tokens": [len(each) for each in self.prompts],
            "seconds": {name: round(value, 4) for name, value in self.seconds.items()},
            "tokens": {name: [len(row) for row in rows] for name, rows in self.rows.items()},
            "repetition": {
                name: [round(repetition(row), 3) for row in rows]
                for name, rows in self.rows.items()
                if name in (PLAIN, ACD)
            },
        }


def spread(values: list[float]) -> dict[str, Any]:
    """Give the median and its 95 % interval by bootstrap."""
    if not values:
        return {"n": 0}
    kept = torch.tensor(values, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    draws = kept[torch.randint(len(kept), (DRAWS, len(kept)), generator=generator)]
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = draws.quantile(0.5, dim=-1).quantile(ends).tolist()
    return {
        "n": len(values),
        "median": round(float(kept.quantile(0.5)), 4),
        "low": round(low, 4),
        "high": round(high, 4),
    }


def reference(way: Way) -> str:
    """Name the method whose texts say whether a prompt loops."""
    return ACD if way.method.startswith(ACD) else PLAIN


def summary(way: Way, name: str, runs: list[Run], bound: float) -> dict[str, Any]:
    """Sum one method up: its speed against plain and against our own loop."""
    done = [run for run in runs if name in run.seconds]
    groups: dict[str, list[Run]] = {"all": done, "straight": [], "looping": []}
    for run in done:
        groups["looping" if run.loops(reference(way), bound) else "straight"].append(run)
    found: dict[str, Any] = {
        "method": way.method,
        "variant": way.variant,
        "tokens_per_second": spread([run.rate(name) for run in done]),
        "tokens": sum(len(row) for run in done for row in run.rows[name]),
        "over_generate": {
            group: spread([run.rate(name) / run.rate(PLAIN) for run in some])
            for group, some in groups.items()
        },
    }
    loop = way.own_loop
    if loop is not None and all(loop in run.seconds for run in done):
        found["over_own_loop"] = {
            group: spread([run.rate(name) / run.rate(loop) for run in some])
            for group, some in groups.items()
        }
    return found | counted(name, done)


def counted(name: str, runs: list[Run]) -> dict[str, Any]:
    """Say what a method of ours ran; the prompt, which comes with the first token, left out."""
    notes = [run.notes[name] for run in runs if name in run.notes]
    if not notes:
        return {}
    blocks = [sum(row[1:]) for note in notes for row in note["blocks"]]
    steps = [sum(count > 0 for count in row[1:]) for note in notes for row in note["blocks"]]
    tokens = [len(row) - 1 for run in runs for row in run.rows[name]]
    drafted = sum(sum(note["drafted"]) for note in notes)
    return {
        "blocks_per_token": round(sum(blocks) / max(1, sum(tokens)), 3),
        "tokens_per_step": round(sum(tokens) / max(1, sum(steps)), 3),
        "drafted_per_token": round(drafted / max(1, sum(tokens)), 3),
        "accepted": round(sum(sum(note["accepted"]) for note in notes) / max(1, drafted), 4),
    }


@torch.inference_mode()
def differences(plain: Any, way: Way, name: str, runs: list[Run]) -> dict[str, Any]:
    """Count texts that are not what they must be, and say how near the first difference was.

    ``lead`` is by how much the whole model's best token leads the second there, in logits: ties of
    floating point are around 1e-4 and below. Contrasts and engines of fewer bits have none.
    """
    found = []
    assert way.same_as is not None
    for run in runs:
        pairs = zip(run.rows[name], run.rows[way.same_as], strict=True)
        for row, (mine, other) in enumerate(pairs):
            if mine == other:
                continue
            place = shared(mine, other)
            one = {"prompt": run.places[row], "token": place, "of": len(other)}
            if "acd" not in way.method and "-int" not in way.method:
                scores = plain(torch.tensor([run.prompts[row] + other[:place]])).logits[0, -1]
                best, second = scores.topk(2).values.tolist()
                one["lead"] = best - second
            found.append(one)
    return {"as": way.same_as, "texts": sum(len(r.rows[name]) for r in runs), "different": found}


def shared(one: list[int], other: list[int]) -> int:
    """Count the tokens before the first difference."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


@torch.inference_mode()
def quality(plain: Any, name: str, runs: list[Run]) -> dict[str, Any]:
    """Say how far the texts of early exit are the whole model's."""
    agreed = tokens = 0
    nats = 0.0
    prefixes = []
    for run in runs:
        for prompt, row, other in zip(run.prompts, run.rows[name], run.rows[PLAIN], strict=True):
            ids = torch.tensor([prompt + row])
            scores = plain(ids, logits_to_keep=len(row) + 1).logits[0, :-1]
            written = torch.tensor(row)
            agreed += int((scores.argmax(-1) == written).sum())
            nats += float(F.cross_entropy(scores, written, reduction="sum"))
            tokens += len(row)
            prefixes.append(shared(row, other) / len(other))
    return {
        "agreement": round(agreed / tokens, 4),
        "prefix": spread(prefixes),
        "perplexity": round(math.exp(nats / tokens), 4),
    }


def cell(found: dict[str, Any] | None) -> str:
    """Write a median with its interval."""
    if not found or not found["n"]:
        return ""
    return f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def table(result: dict[str, Any]) -> str:
    """Write the methods as Markdown."""
    lines = [
        "| method | variant | tokens/s | over generate | straight | looping | over own loop "
        "| straight | looping | blocks/token | different texts |",
        "|---" * 11 + "|",
    ]
    for each in result["methods"].values():
        if each["method"].startswith("early-exit"):
            continue
        over, own = each["over_generate"], each.get("over_own_loop", {})
        same = each.get("same_ids")
        cells = [
            each["method"],
            each["variant"],
            f"{each['tokens_per_second']['median']:.1f}",
            *(cell(over[group]) for group in GROUPS),
            *(cell(own.get(group)) for group in GROUPS),
            str(each.get("blocks_per_token", "")),
            f"{len(same['different'])} of {same['texts']}" if same else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    reasons: dict[str, list[str]] = {}
    for name, why in result["skipped"].items():
        reasons.setdefault(why, []).append(name)
    lines += ["", *(f"Skipped: {', '.join(names)}: {why}" for why, names in reasons.items())]
    lines += [""] + [
        f"{one['method']} {one['ratio']}: {one['median']}, to be at least {one['least']}"
        for one in result["targets"]
    ]
    return "\n".join(lines) + curve(result)


def targets(methods: dict[str, Any]) -> list[dict[str, Any]]:
    """Hold the medians against what was promised."""
    return [
        {
            "method": name,
            "ratio": ratio,
            "least": least,
            "median": methods[name][ratio]["all"]["median"],
        }
        for name, ratio, least in TARGETS
        if name in methods
    ]


def curve(result: dict[str, Any]) -> str:
    """Write early exit's curve as Markdown."""
    rows = [each for each in result["methods"].values() if "quality" in each]
    if not rows:
        return ""
    lines = [
        f"\n\n| early exit | blocks/token | over {PLAIN} | over {OURS} | agreement | prefix "
        "| perplexity |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in rows:
        quality = each["quality"]
        cells = [
            each["variant"] + each["method"].removeprefix("early-exit"),
            f"{each['blocks_per_token']:.1f}",
            cell(each["over_generate"]["all"]),
            cell(each.get("over_own_loop", {}).get("all")),
            f"{quality['agreement']:.3f}",
            cell(quality["prefix"]),
            f"{quality['perplexity']:.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
