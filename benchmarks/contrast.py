"""Time auto-contrastive decoding against plain greedy decoding, on the embedded default model.

Float32, greedy, the same chat prompts for all, everything interleaved in one process:

    plain      transformers' own model, no exits (what a user has today)
    attached   the same weights with 15 exits attached, answering with the original head
    sparse     ACD original:12, the lower exit asked only about plausible tokens
    dense      ACD original:12, both heads in full
    published  ACD the published library's way: every exit of the configuration at every step

Two measurements. ``loop``: plain, attached and sparse advance in turn, one step each, in the same
loop; a pair is the median step of one against the median step of plain over one text. ``call``:
whole calls of ``generate``, one after the other, prefill included.

Example:
    python benchmarks/contrast.py --pairs 20 --calls 5 --out benchmarks/results/contrast.json
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
from transformers import AutoModelForCausalLM, DynamicCache

from offramp import Contrast, attach_exits, load_default
from offramp.blocks.machine import processor_name
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


def models() -> tuple[dict[str, Any], Any]:
    """Load the weights three times: without exits, with 15, and in the published way."""
    attached, tokenizer = load_default()
    for exit in set(attached.exit_numbers) - set(EXITS):
        del attached.exits[str(exit)]
    attach_exits(attached, (30,), "direct")
    assert attached.exit_numbers == EXITS
    folder = ensure_default()
    plain, slow = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() for _ in range(2)
    )
    return {"plain": plain, "attached": attached, "published": published_way(slow)}, tokenizer


def generates(loaded: dict[str, Any]) -> dict[str, Callable[..., Any]]:
    """Give a ``generate`` for each way."""
    attached = loaded["attached"]
    sparse, dense = Contrast(lower=LOWER), Contrast(lower=LOWER, sparse=False)
    return {
        "plain": loaded["plain"].generate,
        "attached": attached.generate,
        "sparse": lambda **inputs: attached.generate(**inputs, decoding=sparse),
        "dense": lambda **inputs: attached.generate(**inputs, decoding=dense),
        "published": loaded["published"].generate,
    }


class Stream:
    """One greedy text that advances a step at a time, in a plain loop over ``forward``."""

    def __init__(self, model: Any, inputs: Any, **options: Any) -> None:
        self.model, self.options, self.times = model, options, []
        self.mask, self.cache = inputs["attention_mask"], DynamicCache(config=model.config)
        self.ids = self._forward(inputs["input_ids"])

    def _forward(self, ids: Any) -> Any:
        places = (self.mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        logits = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=places,
            past_key_values=self.cache,
            logits_to_keep=1,
            **self.options,
        ).logits
        self.mask = torch.cat([self.mask, self.mask[:, -1:]], dim=1)
        return logits[:, -1].argmax(-1, keepdim=True)

    def step(self) -> None:
        """Make one more token a row, and note how long it took."""
        start = time.perf_counter()
        self.ids = self._forward(self.ids)
        self.times.append(time.perf_counter() - start)


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


@torch.inference_mode()
def measure_loop(loaded: dict[str, Any], inputs: Any, pairs: int, steps: int) -> dict[str, Any]:
    """Advance the ways in turn, step by step, and compare their median steps text by text."""
    attached, rule = loaded["attached"], Contrast(lower=LOWER)
    medians: dict[str, list[float]] = {"plain": [], "attached": [], "sparse": []}
    for _ in range(pairs):
        streams = {
            "plain": Stream(loaded["plain"], inputs),
            "attached": Stream(attached, inputs),
            "sparse": Stream(attached, inputs, decoding=rule),
        }
        for number in range(steps):
            order = list(streams.values())
            for stream in order if number % 2 == 0 else order[::-1]:
                stream.step()
        for name, stream in streams.items():
            medians[name].append(statistics.median(stream.times))
    return {name: row(taken, medians["plain"], "ms_per_step") for name, taken in medians.items()}


def measure_calls(loaded: dict[str, Any], inputs: Any, calls: int, tokens: int) -> dict[str, Any]:
    """Call ``generate`` each way in turn, forwards and backwards through the ways."""
    ways = generates(loaded)
    texts = {name: seconds(generate, inputs, 16)[1] for name, generate in ways.items()}
    assert torch.equal(texts["plain"], texts["attached"]), "attaching exits changed the text"
    assert torch.equal(texts["sparse"], texts["dense"]), "sparse and dense differ"
    assert torch.equal(texts["dense"], texts["published"]), "the comparison is not the same rule"
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(calls):
        for name in [*ways] if number % 2 == 0 else [*ways][::-1]:
            times[name].append(seconds(ways[name], inputs, tokens)[0] / tokens)
    return {name: row(taken, times["plain"], "ms_per_token") for name, taken in times.items()}


def row(taken: list[float], plain: list[float], unit: str) -> dict[str, Any]:
    """Sum one way up: its median time and its ratio to plain, pair by pair."""
    ratios = [mine / base for mine, base in zip(taken, plain, strict=True)]
    return {
        unit: round(1e3 * statistics.median(taken), 2),
        "ratio_median": round(statistics.median(ratios), 4),
        "ratio_upper_95": round(upper_bound(ratios), 4),
        "ratios": [round(ratio, 4) for ratio in ratios],
    }


def main() -> None:
    """Run and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20, help="texts of the loop")
    parser.add_argument("--steps", type=int, default=64, help="timed steps of each of these texts")
    parser.add_argument("--calls", type=int, default=5, help="calls of generate, each way")
    parser.add_argument("--tokens", type=int, default=128, help="new tokens a row in a call")
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
        "pairs": arguments.pairs,
        "steps": arguments.steps,
        "calls": arguments.calls,
        "new_tokens": arguments.tokens,
        "threads": arguments.threads,
        "machine": f"{processor_name()}, {platform.system()}",
        "versions": {name: version(name) for name in ("torch", "transformers", "offramp")},
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
        "results": [],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    loaded, tokenizer = models()
    for batch in arguments.batch:
        inputs = inputs_of(tokenizer, batch)
        loop = measure_loop(loaded, inputs, arguments.pairs, arguments.steps)
        call = measure_calls(loaded, inputs, arguments.calls, arguments.tokens)
        prompt = int(inputs["input_ids"].shape[1])
        result["results"].append(
            {"batch": batch, "prompt_tokens": prompt, "loop": loop, "call": call}
        )
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        for kind, rows in (("loop", loop), ("call", call)):
            for name, each in rows.items():
                print(
                    f"batch {batch}  {kind}  {name:10} {each['ratio_median']:.3f}x plain "
                    f"(95 % below {each['ratio_upper_95']:.3f})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
