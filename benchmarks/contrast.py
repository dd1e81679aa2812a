"""Time auto-contrastive decoding against plain greedy decoding, on the embedded default model.

Interleaved runs of the same prompts in one process, float32, greedy, whole calls of ``generate``:

    plain      transformers' own model, no exits (what a user has today)
    attached   the same weights with 15 exits attached, answering with the original head
    sparse     ACD original:12, the lower exit asked only about plausible tokens
    dense      ACD original:12, both heads in full
    published  ACD the published library's way: every exit of the configuration at every step

Example:
    python benchmarks/contrast.py --pairs 20 --rare 5 --out benchmarks/results/contrast.json
"""

import argparse
import json
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from offramp import Contrast, attach_exits, load_default
from offramp.models.default import ensure_default

EXITS = tuple(range(2, 31, 2))
LOWER = 12
PROMPTS = [
    "Write a short story about a lighthouse keeper.",
    "Explain why the sky is blue to a child.",
    "Give me a recipe for vegetable soup.",
    "What should I see in Rome in two days?",
    "Describe how a bicycle works.",
    "Write a letter to a friend who has moved away.",
    "What are the advantages of reading every day?",
    "Tell me about the history of tea.",
]


def published_way(model: Any) -> Any:
    """Contrast in probability space after computing every exit, last position, every step."""
    plain_forward = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = plain_forward(*args, **kwargs, output_hidden_states=True)
        states = [*output.hidden_states[:-1], None]
        scores = {
            exit: model.lm_head(
                output.hidden_states[-1][:, -1:]
                if states[exit] is None
                else model.model.norm(states[exit][:, -1:])
            )
            for exit in EXITS
        }
        upper, lower = output.logits.softmax(-1), scores[LOWER].softmax(-1)
        kept = upper >= 0.1 * upper.amax(-1, keepdim=True)
        shares = (upper.log() - lower.log()).masked_fill(~kept, -torch.inf).softmax(-1)
        mass = upper.where(kept, 0.0).sum(-1, keepdim=True)
        output.logits = (shares * mass).where(kept, upper).log()
        return output

    model.forward = forward
    return model


def variants() -> tuple[dict[str, Callable[..., Any]], Any]:
    """Make a generate function for each way, all on the same weights."""
    attached, tokenizer = load_default()
    for exit in set(attached.exit_numbers) - set(EXITS):
        del attached.exits[str(exit)]
    attach_exits(attached, (30,), "direct")
    assert attached.exit_numbers == EXITS
    folder = ensure_default()
    plain, slow = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() for _ in range(2)
    )
    published = published_way(slow)
    sparse, dense = Contrast(lower=LOWER), Contrast(lower=LOWER, sparse=False)
    return {
        "plain": plain.generate,
        "attached": attached.generate,
        "sparse": lambda **inputs: attached.generate(**inputs, decoding=sparse),
        "dense": lambda **inputs: attached.generate(**inputs, decoding=dense),
        "published": published.generate,
    }, tokenizer


def inputs_of(tokenizer: Any, batch: int) -> Any:
    """Encode one batch of chat prompts, left-padded."""
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS[:batch]]
    return tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
    )


def seconds(generate: Callable[..., Any], inputs: Any, tokens: int) -> tuple[float, Any]:
    """Time one call that writes exactly ``tokens`` tokens a row."""
    start = time.perf_counter()
    ids = generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
    return time.perf_counter() - start, ids


def upper_bound(ratios: list[float]) -> float:
    """Bound the median ratio from above with 95 % confidence, by resampling the pairs."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(10_000))
    return medians[int(0.95 * len(medians))]


def measure(batch: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Interleave all ways; the frequent ones in every round, the others in the first few."""
    ways, tokenizer = variants()
    inputs = inputs_of(tokenizer, batch)
    times: dict[str, list[float]] = {name: [] for name in ways}
    texts: dict[str, Any] = {}
    for name, generate in ways.items():
        _, texts[name] = seconds(generate, inputs, 16)
    assert torch.equal(texts["plain"], texts["attached"]), "attaching exits changed the text"
    assert torch.equal(texts["sparse"], texts["dense"]), "sparse and dense differ"
    assert torch.equal(texts["dense"], texts["published"]), "the comparison is not the same rule"
    for number in range(arguments.pairs):
        order = [*ways] if number % 2 == 0 else [*ways][::-1]
        for name in order:
            if name in ("dense", "published") and number >= arguments.rare:
                continue
            taken, _ = seconds(ways[name], inputs, arguments.tokens)
            times[name].append(taken)
        print(f"batch {batch}, round {number + 1}/{arguments.pairs}", flush=True)
    plain = statistics.median(times["plain"])
    rows = {}
    for name, taken in times.items():
        ratios = [mine / base for mine, base in zip(taken, times["plain"], strict=False)]
        rows[name] = {
            "runs": len(taken),
            "ms_per_token": round(1e3 * statistics.median(taken) / arguments.tokens, 2),
            "tokens_per_second": round(batch * arguments.tokens / statistics.median(taken), 2),
            "ratio_median": round(statistics.median(ratios), 4),
            "ratio_upper_95": round(upper_bound(ratios), 4),
            "ratio_range": [round(min(ratios), 4), round(max(ratios), 4)],
            "seconds": [round(each, 3) for each in taken],
        }
    prompt = int(inputs["input_ids"].shape[1])
    return {"batch": batch, "prompt_tokens": prompt, "plain_seconds": plain, "ways": rows}


def main() -> None:
    """Run and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20, help="rounds of plain, attached, sparse")
    parser.add_argument("--rare", type=int, default=5, help="rounds of dense and published")
    parser.add_argument("--tokens", type=int, default=128, help="new tokens a row")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], choices=range(1, 9))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/contrast.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    result = {
        "benchmark": "contrast",
        "model": "SmolLM2-135M-Instruct float32",
        "contrast": f"original:{LOWER}",
        "new_tokens": arguments.tokens,
        "threads": arguments.threads,
        "machine": f"{platform.machine()}, {platform.system()}",
        "versions": {name: version(name) for name in ("torch", "transformers", "offramp")},
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
        "results": [],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for batch in arguments.batch:
        result["results"].append(measure(batch, arguments))
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for each in result["results"]:
        for name, row in each["ways"].items():
            print(
                f"batch {each['batch']}  {name:10} {row['tokens_per_second']:7.2f} tok/s  "
                f"{row['ratio_median']:.3f}x plain (95 % below {row['ratio_upper_95']:.3f})"
            )


if __name__ == "__main__":
    main()
