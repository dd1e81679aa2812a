"""Calls of the library that a soak run draws from: every way to write, with drawn prompts.

In:  the models and a seed. Out: ids or scores on the processor, and how many texts they are.
Law: one seed, one call, one result, however long the process has run before.
Not here: memory, time and the loop (benchmarks/soak.py).
"""

import json
import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offramp import (
    Autoregressive,
    Contrast,
    DoLa,
    EarlyExit,
    FixedExit,
    OneShot,
    SelfSpeculation,
    load_default,
    load_elmer,
)

PROMPTS = Path(__file__).parent / "speed_prompts.json"
ORIGINAL = FixedExit(exit="original")
RULES = {
    "plain": ORIGINAL,
    "contrast": Contrast(lower=12),
    "dola": DoLa(layers="low"),
    "fixed-exit": FixedExit(exit=20),
    "own-loop": Autoregressive(),
    "early-exit-gate": EarlyExit(),
    "early-exit-gap": EarlyExit(rule="top_gap", threshold=0.6),
    "early-exit-copy": EarlyExit(rule="entropy", threshold=0.7, cache="copy"),
    "early-exit-contrast": EarlyExit(rule="top_probability", threshold=0.7, lower=4),
    "drafter": SelfSpeculation(draft_length=3, lookup=4),
    "draft-exit": SelfSpeculation(draft_exit=12, draft_length="auto"),
    "draft-contrast": SelfSpeculation(draft_exit=6, draft_length=2, target=Contrast(lower=12)),
}
ENGINES = {
    "family": Autoregressive(engine="family"),
    "family-early-exit": EarlyExit(engine="family"),
    "onnxruntime": Autoregressive(engine="onnxruntime"),
    "onnxruntime-drafter": SelfSpeculation(draft_length=3, engine="onnxruntime"),
    "onnxruntime-int4": EarlyExit(engine="onnxruntime-int4"),
}
ONE_SHOT = {
    "elmer": OneShot(),
    "elmer-early": OneShot(exit_rule="entropy", threshold=0.9),
    "elmer-drawn": OneShot(temperature=1.0),
}


@dataclass(frozen=True, kw_only=True)
class Call:
    """What one call gave.

    Attributes:
        texts: Number of texts.
        tokens: New tokens, padding included.
        found: Ids or scores.
    """

    texts: int
    tokens: int
    found: Tensor


class Largest(random.Random):
    """Draws the largest of everything: the most rows, the longest prompts, the most tokens."""

    def randint(self, a: int, b: int) -> int:
        """Give the upper end."""
        return b

    def choice(self, seq: Any) -> Any:
        """Give the largest."""
        return max(seq)

    def random(self) -> float:
        """Give 0: any tokens instead of prose, so that no prompt is shorter."""
        return 0.0


class Ways:
    """Every way to write, on the default model and the shipped ELMER.

    Args:
        most: New tokens of a text at most.
        longest: Prompt tokens at most.
        engines: Names in ``ENGINES`` that are tried too.
    """

    def __init__(self, *, most: int, longest: int, engines: tuple[str, ...]) -> None:
        self.model, self.tokenizer = load_default(show_progress=False)
        self.elmer, self.elmer_tokenizer = load_elmer("elmer-g2p")
        self.most, self.longest = most, longest
        stored = json.loads(PROMPTS.read_text(encoding="utf-8"))["prompts"]
        prose = [
            each["text"] if "text" in each else each["messages"][-1]["content"]
            for some in stored.values()
            for each in some
        ]
        self.prose = [self.tokenizer(text)["input_ids"] for text in prose]
        self.calls: dict[str, Callable[[random.Random], Call]] = {}
        for name, rule in {**RULES, **{name: ENGINES[name] for name in engines}}.items():
            self.calls[name] = self._writer(rule)
        for name, rule in (("plain", ORIGINAL), ("contrast", RULES["contrast"])):
            self.calls[f"{name}-sampled"] = self._writer(rule, do_sample=True, top_k=50, top_p=0.95)
            self.calls[f"{name}-beams"] = self._writer(rule, num_beams=3)
        self.calls["draft-exit-sampled"] = self._writer(RULES["draft-exit"], do_sample=True)
        self.calls["exit-logits"] = self._look
        for name, settings in ONE_SHOT.items():
            self.calls[name] = self._one_shot(settings)

    def call(self, name: str, seed: int) -> Call:
        """Make one call; all that is drawn comes from the seed."""
        torch.manual_seed(seed)
        return self.calls[name](random.Random(seed))

    def largest(self, name: str) -> None:
        """Make the largest call that may be drawn."""
        self.calls[name](Largest(0))

    def _batch(self, draw: random.Random, *, rows: int, longest: int) -> dict[str, Tensor]:
        """Draw prompts of different lengths, prose or any tokens, left-padded."""
        prompts = []
        for _ in range(rows):
            length = draw.randint(1, draw.choice((12, 60, longest)))
            if draw.random() < 0.3:
                size = self.model.config.vocab_size
                prompts.append([draw.randrange(3, size) for _ in range(length)])
            else:
                text = draw.choice(self.prose)
                start = draw.randrange(max(1, len(text) - length))
                prompts.append(text[start : start + length])
        widest = max(map(len, prompts))
        ids = [[0] * (widest - len(each)) + each for each in prompts]
        mask = [[0] * (widest - len(each)) + [1] * len(each) for each in prompts]
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}

    def _writer(self, rule: Any, **options: Any) -> Callable[[random.Random], Call]:
        def write(draw: random.Random) -> Call:
            inputs = self._batch(draw, rows=draw.choice((1, 1, 1, 2, 4)), longest=self.longest)
            ids = self.model.generate(
                **inputs,
                decoding=rule,
                max_new_tokens=draw.randint(1, self.most),
                pad_token_id=0,
                **{"do_sample": False, **options},
            )
            rows, width = inputs["input_ids"].shape
            return Call(texts=rows, tokens=rows * (ids.shape[1] - width), found=ids)

        return write

    def _look(self, draw: random.Random) -> Call:
        inputs = self._batch(draw, rows=draw.choice((1, 2)), longest=min(100, self.longest))
        exits = (*draw.sample(self.model.exit_numbers, 2), "original")
        with torch.inference_mode():
            found = self.model.exit_logits(**inputs, exits=exits)
        best = torch.stack([found[exit].amax(-1) for exit in exits])
        return Call(texts=len(inputs["input_ids"]), tokens=0, found=best)

    def _one_shot(self, settings: OneShot) -> Callable[[random.Random], Call]:
        def write(draw: random.Random) -> Call:
            words = [
                "".join(draw.choices(string.ascii_lowercase, k=draw.randint(1, 14)))
                for _ in range(draw.choice((1, 8, 32)))
            ]
            inputs = self.elmer_tokenizer(words, return_tensors="pt", padding=True)
            ids = self.elmer.generate(**inputs, decoding=settings)
            return Call(texts=len(words), tokens=ids.numel(), found=ids)

        return write
