"""Sum up what benchmarks/elmer.py timed, and hold it against what was wanted.

In:  seconds of each way in each round, and the work that it did. Out: rows of JSON and Markdown.
Not here: the timing (benchmarks/elmer.py), the counting (benchmarks/elmer_costs.py).
"""

import statistics
from dataclasses import asdict
from typing import Any

from elmer_costs import Work, counted, seconds
from elmer_ways import BASE, PLAIN, SHALLOW, Way

from offramp.evaluation.latency import LEAST_ROUNDS, Ratio, ratio_of

SCOPES = ("call", "decoder")
TARGETS = {(1, "decoder"): 10.0, (1, "call"): 6.0, (8, "call"): 3.0}


def compared(mine: list[float], base: list[float]) -> dict[str, float]:
    """Say how many times faster one way is than another, round by round.

    The interval is that of ``ratio_of``; with too few rounds for it, from the least to the largest.
    """
    if len(mine) >= LEAST_ROUNDS:
        ratio = ratio_of(mine, base)
    else:
        each = [theirs / own for own, theirs in zip(mine, base, strict=True)]
        ratio = Ratio(median=statistics.median(each), low=min(each), high=max(each))
    return {name: round(value, 3) for name, value in asdict(ratio).items()}


def summed(
    ways: dict[str, Way],
    rounds: list[dict[str, dict[str, float]]],
    *,
    batch: int,
    speeds: dict[int, float],
) -> dict[str, Any]:
    """Sum all ways up."""
    found: dict[str, Any] = {}
    for scope in SCOPES:
        base = [each[scope][BASE] for each in rounds]
        due = _due(ways[BASE], scope, batch, speeds)
        for name, way in ways.items():
            taken = [each[scope][name] for each in rounds]
            row = {
                "ms": round(1e3 * statistics.median(taken), 3),
                "spread": round((max(taken) - min(taken)) / statistics.median(taken), 3),
                "over_bart": compared(taken, base),
                "seconds": [round(each, 6) for each in taken],
            }
            if SHALLOW in ways:
                shallow = [each[scope][SHALLOW] for each in rounds]
                row["over_bart_6_1"] = compared(taken, shallow)
            row |= counted(works_of(way, scope, batch), way.weight_bytes)
            if way.weight_bytes == 4:
                own = _due(way, scope, batch, speeds)
                row["products_ms"] = round(1e3 * own, 3)
                row["products_over_bart"] = round(due / own, 3)
            found.setdefault(name, {})[scope] = row
    return found


def works_of(way: Way, scope: str, batch: int) -> list[Work]:
    """Give the work of a way in a scope."""
    return way.work(batch) + (way.encoder_work(batch) if scope == "call" else [])


def _due(way: Way, scope: str, batch: int, speeds: dict[int, float]) -> float:
    return seconds(works_of(way, scope, batch), speeds)


def targets(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Hold what was measured against what was wanted of the plain pass at full depth."""
    found = []
    for result in results:
        for scope in SCOPES:
            wanted = TARGETS.get((result["batch"], scope))
            if wanted is None or PLAIN not in result["ways"]:
                continue
            got = result["ways"][PLAIN][scope]["over_bart"]["median"]
            found.append(
                {
                    "batch": result["batch"],
                    "scope": scope,
                    "wanted": wanted,
                    "got": got,
                    "met": got >= wanted,
                }
            )
    return found


def table(result: dict[str, Any]) -> str:
    """Write one batch as Markdown."""
    lines = [
        "",
        f"batch {result['batch']}, {result['processors_busy_elsewhere']} processors busy elsewhere",
        "",
        "| way | scope | ms | spread | times bart | interval | products alone | Gop | weights MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, way in result["ways"].items():
        for scope in SCOPES:
            row = way[scope]
            over, due = row["over_bart"], row.get("products_over_bart")
            alone = "" if due is None else f"{due:.2f} ({row['products_ms']:.0f} ms)"
            lines.append(
                f"| {name} | {scope} | {row['ms']:.1f} | {row['spread']:.2f} | "
                f"{over['median']:.2f} | {over['low']:.2f} to {over['high']:.2f} | {alone} | "
                f"{row['giga_operations']:.1f} | {row['weight_megabytes']:.0f} |"
            )
    return "\n".join(lines)
