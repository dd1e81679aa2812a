"""The ways to write a text that benchmarks/speed.py compares, and how each is called.

In:  the default model and what to compare. Out: for each method its variants, of which the fastest
     on a few prompts is taken, or the reason why there are none here.
Not here: timing (benchmarks/speed.py), what other projects need (benchmarks/speed_rivals.py).

A method with a name such as ``ours+drafter@onnxruntime`` is ``ours+drafter`` on that engine.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from speed_rivals import Skipped, assisted, economize, genai, looked_up, twin

from offramp import Autoregressive, Contrast, EarlyExit, SelfSpeculation
from offramp.blocks.engines import engine_for
from offramp.errors import OfframpError
from offramp.models.embedded import default_token_counts

PROMPTS = Path(__file__).parent / "speed_prompts.json"
KINDS = ("chat", "prose", "code", "summary")
LOWER = 12
ASKED = (20, 24, 28)
DRAFT_VOCABULARY = 8192
PLAIN, OURS, ACD = "generate", "ours", "ours+acd"


@dataclass(frozen=True, kw_only=True)
class Way:
    """One variant of a method.

    Attributes:
        method: What it is a variant of.
        variant: What tells it from the others.
        call: Writes so many new tokens after encoded prompts.
        same_as: The method whose ids it must write, or None.
        own_loop: Our own loop without drafts, on the same engine and for the same target.
        decoding: Ours: the decoding itself.
    """

    method: str
    variant: str
    call: Callable[[Any, int], Any]
    same_as: str | None = PLAIN
    own_loop: str | None = None
    decoding: Any = None


@dataclass(kw_only=True)
class Setting:
    """What the ways are made from.

    Attributes:
        model: The default model with its exits.
        tokenizer: Its tokenizer.
        threads: For engines that do not ask torch.
        scratch: Where other engines' files are made.
        plain: The same weights without exits.
    """

    model: Any
    tokenizer: Any
    threads: int
    scratch: Path
    plain: Any = field(init=False)

    def __post_init__(self) -> None:
        self.plain = twin(self.model)


def prompts_of(length: int) -> list[dict[str, Any]]:
    """Give the prompts of about so many tokens."""
    return json.loads(PROMPTS.read_text(encoding="utf-8"))["prompts"][str(length)]


def text_of(tokenizer: Any, prompt: dict[str, Any]) -> str:
    """Give a prompt as the model reads it: questions in the chat template."""
    if "text" in prompt:
        return str(prompt["text"])
    return str(
        tokenizer.apply_chat_template(
            prompt["messages"], add_generation_prompt=True, tokenize=False
        )
    )


def batches(prompts: list[dict[str, Any]], size: int, count: int) -> list[list[int]]:
    """Choose prompts for each measurement, all kinds alike often; each once before any twice."""
    drawn: list[list[int]] = []
    places = [[p for p, each in enumerate(prompts) if each["kind"] == kind] for kind in KINDS]
    draw = random.Random(0)
    while len(drawn) < count:
        row = [place for some in zip(*places, strict=True) for place in some]
        drawn.extend(row[at : at + size] for at in range(0, len(row), size))
        for each in places:
            draw.shuffle(each)
    return drawn[:count]


def encoded(tokenizer: Any, texts: list[str]) -> Any:
    """Encode prompts, padded on the left."""
    return tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)


def plain(setting: Setting) -> list[Way]:
    """Give transformers' own loop."""

    def call(inputs: Any, tokens: int) -> Any:
        return setting.plain.generate(**inputs, max_new_tokens=tokens, do_sample=False)

    return [Way(method=PLAIN, variant="", call=call, same_as=None)]


def rival(make: Callable[..., dict[str, Any]], name: str) -> Callable[[Setting], list[Way]]:
    """Make ways of the calls that a rival offers."""

    def ways(setting: Setting) -> list[Way]:
        calls = make(setting.model, threads=setting.threads, scratch=setting.scratch)
        return [Way(method=name, variant=variant, call=call) for variant, call in calls.items()]

    return ways


def ours(
    name: str, decodings: Callable[[str], dict[str, Any]], engine: str
) -> Callable[[Setting], list[Way]]:
    """Make ways of our own decodings on an engine; with fewer bits it has texts of its own."""
    at = "" if engine == "auto" else f"@{engine}"
    exact = "early-exit" not in name
    loop = ACD if "acd" in name else OURS
    own_loop = f"{loop}{at}"

    def ways(setting: Setting) -> list[Way]:
        model = setting.model
        try:
            chosen = engine_for(model.anatomy, engine)
            found = decodings(engine)
            for decoding in found.values():
                decoding.check(model)
                decoding.steps(model, chosen)  # an engine may not do for drafts
        except OfframpError as error:
            raise Skipped(str(error)) from None
        same = own_loop if "-int" in engine else PLAIN if loop == OURS else ACD
        same = same if exact and same != f"{name}{at}" else None
        return [
            Way(
                method=f"{name}{at}",
                variant=variant,
                call=called(model, decoding),
                same_as=same,
                own_loop=None if name == loop else own_loop,
                decoding=decoding,
            )
            for variant, decoding in found.items()
        ]

    return ways


def called(model: Any, decoding: Any) -> Callable[[Any, int], Any]:
    """Give a call of ``generate`` with a decoding of ours."""

    def call(inputs: Any, tokens: int) -> Any:
        return model.generate(
            **inputs,
            max_new_tokens=tokens,
            do_sample=False,
            decoding=decoding,
            return_dict_in_generate=True,
        )

    return call


def acd() -> Contrast:
    """Give the contrast of the original head and a lower exit."""
    return Contrast(lower=LOWER)


def by_drafter(engine: str, *, lookup: int = 0, target: Any = None) -> dict[str, Any]:
    """Draft with the trained drafter."""
    some: dict[str, Any] = {"lookup": lookup, "target": target, "engine": engine}
    return {
        f"auto {surest}": SelfSpeculation(surest=surest, **some) for surest in (0.4, 0.25, 0.55)
    } | {f"{length}": SelfSpeculation(draft_length=length, **some) for length in (1, 2, 3)}


def by_exit(engine: str, *, target: Any = None) -> dict[str, Any]:
    """Draft with an exit, over the most frequent tokens."""
    frequent = tuple(default_token_counts()[0][:DRAFT_VOCABULARY].tolist())
    return {
        f"exit {exit}, {length}": SelfSpeculation(
            draft_exit=exit,
            draft_length=length,
            draft_vocabulary=frequent,
            target=target,
            engine=engine,
        )
        for exit, length in ((12, "auto"), (6, 1), (6, "auto"), (12, 2), (20, "auto"))
    }


def early(engine: str) -> dict[str, Any]:
    """Leave early by every rule, from careful to bold; all of these are measured.

    A head costs as much as eight blocks and a gate a hundredth of a step, so rules ask at three
    exits only; saturation, which costs next to nothing, at all.
    """
    thresholds: dict[Any, tuple[float, ...]] = {
        "gate": (0.95, 0.9, 0.8, 0.6),
        "top_probability": (0.95, 0.9, 0.7, 0.5),
        "top_gap": (0.95, 0.9, 0.7, 0.4),
        "entropy": (0.98, 0.95, 0.9, 0.8),
        "saturation": (0.99, 0.97, 0.95, 0.9),
    }
    found: dict[str, Any] = {"gate as stored": EarlyExit(engine=engine)}
    for rule, some in thresholds.items():
        exits = None if rule == "saturation" else ASKED
        for value in some:
            found[f"{rule} {value}"] = EarlyExit(
                rule=rule, threshold=value, exits=exits, engine=engine
            )
    for count in (3, 2):
        found[f"patience {count}"] = EarlyExit(
            rule="patience", threshold=count, exits=ASKED, engine=engine
        )
    for rule in ("gate", "top_probability"):
        found[f"{rule} 0.9, copy"] = EarlyExit(
            rule=rule, threshold=0.9, exits=ASKED, cache="copy", engine=engine
        )
    for exit in reversed(ASKED):
        found[f"fixed {exit}"] = EarlyExit(rule="fixed", exits=(exit,), engine=engine)
    found["fixed 28, copy"] = EarlyExit(rule="fixed", exits=(28,), cache="copy", engine=engine)
    found["schedule 28, 24 from token 32"] = EarlyExit(
        rule="schedule", schedule=((0, 28), (32, 24)), engine=engine
    )
    return found


OWN: dict[str, Callable[[str], dict[str, Any]]] = {
    OURS: lambda engine: {"": Autoregressive(engine=engine)},
    ACD: lambda engine: {"": Autoregressive(target=acd(), engine=engine)},
    "ours+drafter": by_drafter,
    "ours+drafter+lookup": lambda engine: by_drafter(engine, lookup=3),
    "ours+exit": by_exit,
    "ours+acd+drafter": lambda engine: by_drafter(engine, target=acd()),
    "ours+acd+drafter+lookup": lambda engine: by_drafter(engine, target=acd(), lookup=3),
    "ours+acd+exit": lambda engine: by_exit(engine, target=acd()),
    "early-exit": early,
}
RIVALS = {
    "generate+lookup": looked_up,
    "generate+early-exit": assisted,
    "economize": economize,
    "onnxruntime-genai": genai,
}
METHODS = (PLAIN, *RIVALS, *OWN)


def makers(methods: list[str], engines: list[str]) -> dict[str, Callable[[Setting], list[Way]]]:
    """Give a maker of ways for each method asked for, on each engine; plain is always there."""
    found: dict[str, Callable[[Setting], list[Way]]] = {PLAIN: plain}
    for name in methods:
        if name in RIVALS:
            found[name] = rival(RIVALS[name], name)
    for engine in engines:
        at = "" if engine == "auto" else f"@{engine}"
        for name in sorted({*methods, *loops(methods)} & OWN.keys(), key=[*OWN].index):
            if name != "early-exit" or engine == engines[0]:  # one curve is long enough
                found[f"{name}{at}"] = ours(name, OWN[name], engine)
    return found


def loops(methods: list[str]) -> set[str]:
    """Give our own loops that methods are compared with."""
    return {ACD if "acd" in name else OURS for name in methods if name in OWN}


def read(raw: Any, inputs: Any, end: int) -> list[list[int]]:
    """Give the new tokens of each row, up to what ends it."""
    width = inputs["input_ids"].shape[1]
    sequences = getattr(raw, "sequences", raw)
    rows = sequences.tolist() if isinstance(sequences, torch.Tensor) else sequences
    new = [[int(token) for token in row[width:]] for row in rows]
    return [row[: row.index(end) + 1] if end in row else row for row in new]
