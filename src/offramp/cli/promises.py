"""Show what calibration found as tables on stdout."""

from collections.abc import Mapping
from typing import Any

from offramp.cli.show import show_text
from offramp.cli.table import console_of, table_of
from offramp.evaluation.calibration import AGREEMENT
from offramp.evaluation.latency import TRANSFORMERS

LEGEND = (
    "bound: share of tokens that may change, or loss in the metric; risk: what does, on the texts "
    "of calibration and on those kept back, give or take 95 % over texts",
    "saved: % of blocks that need not run; most: what one threshold could save within the bound on "
    "the texts kept back, seen afterwards",
)
SPEED_LEGEND = (
    "ms: per new token, whole calls, median of rounds; spread: slowest less fastest round; times: "
    "faster than plain decoding by offramp's own loop, with the interval of the median"
)


def show_promises(facts: Mapping[str, Any]) -> None:
    """Print thresholds and what they save, then speed, then where it went.

    Args:
        facts: What ``--json`` would show.
    """
    first = facts["early_exit"][0]
    held_out = first["held_out"]
    kept = "none" if held_out is None else f"{held_out['num_texts']}"
    show_text(
        f"{facts['model']} on {facts['data']}: {first['num_texts']} texts of calibration with "
        f"{first['num_tokens']} tokens, {kept} kept back; rule {first['rule']}"
    )
    console = console_of()
    names = ["promise", "bound", "threshold", "risk", "saved", "kept back: risk", "+/-"]
    console.print(table_of([*names, "saved", "most"], [_row(each) for each in facts["early_exit"]]))
    for line in LEGEND:
        show_text(line)
    for each in facts["early_exit"]:
        if each["reason"]:
            show_text(f"bound {each['bound']:g}: {each['reason']}")
    if first["usable"]:
        _show_thresholds(first)
    if facts["timing"] is not None:
        _show_speed(facts)
    if facts["contrast"] is not None:
        _show_contrast(facts["contrast"])
    show_text(f"kept in {facts['output']}")


def _row(each: Mapping[str, Any]) -> list[str]:
    held = each["held_out"] or {}
    return [
        f"{100 * (1 - each['bound']):g} % agreement"
        if each["metric"] == AGREEMENT
        else f"{each['metric']} less {each['bound']:g}",
        f"{each['bound']:g}",
        "never" if each["threshold"] is None else f"{each['threshold']:.5f}",
        _percent(each["risk"]),
        _percent(each["saved"]),
        _percent(held.get("risk")),
        _percent(held.get("margin")),
        _percent(held.get("saved")),
        _percent(held.get("most_saved")),
    ]


def _show_thresholds(first: Mapping[str, Any]) -> None:
    values = dict(zip(first["exits"], first["thresholds"], strict=True))
    exits = [exit for exit in values if exit >= first["min_exit"]]
    if len(set(values.values())) == 1:
        told = f"{values[exits[0]]:.6f} at exits {', '.join(map(str, exits))}"
    else:
        told = ", ".join(f"{values[exit]:.6f} at exit {exit}" for exit in exits)
    rule = "" if first["rule"] == "gate" else f"rule={first['rule']!r}"
    show_text(f"used by EarlyExit({rule}): {told}")


def _show_speed(facts: Mapping[str, Any]) -> None:
    rows = [_speed(each) for each in facts["timing"]]
    console_of().print(
        table_of(["decoding", "ms", "spread", "times", "from", "to", "of transformers"], rows)
    )
    show_text(SPEED_LEGEND)
    drafts, early = facts["speculation"], facts["early_exit"][0]["speed"]
    if drafts is not None:
        source = "the drafter" if drafts["draft_exit"] is None else f"exit {drafts['draft_exit']}"
        told = f"{source}, length {drafts['draft_length']}, lookup {drafts['lookup']}"
        verdict = "used by SelfSpeculation()" if drafts["used"] else "slower: not used"
        show_text(f"self-speculation: {told}: {verdict}")
    if early is not None:
        verdict = "faster" if early["low"] > 1 else "not surely faster"
        show_text(f"early exit: {verdict} than plain decoding here")


def _speed(each: Mapping[str, Any]) -> list[str]:
    plain, other = each["against_plain"], each["against_transformers"]
    return [
        "transformers' generate" if each["name"] == TRANSFORMERS else each["name"],
        f"{1000 * each['seconds']:.2f}",
        _percent(each["spread"]),
        *(f"{plain[name]:.3f}" for name in ("median", "low", "high")),
        f"{other['median']:.3f}",
    ]


def _show_contrast(contrast: Mapping[str, Any]) -> None:
    told = f"contrast {contrast['upper']}:{contrast['lower']}, alpha {contrast['alpha']:g}"
    verdict = "better" if contrast["used"] else "no better: not used"
    show_text(
        f"{told}: {contrast['cross_entropy']:.4f} nats per token, {contrast['plain']:.4f} without: "
        f"{verdict}"
    )


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f}"
