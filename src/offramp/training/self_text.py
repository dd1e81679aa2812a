"""Let a model write the text that its exits are trained on.

In:  a model, its tokenizer, and prompts or nothing. Out: a file of JSON lines, one text each, with
     the tokens themselves, since text does not always encode to the tokens it was decoded from.
Law: killed at any moment and started again, the file ends with the same bytes as if it had been
     written at once (tests/training/test_self_text.py).
Not here: reading the file as training data (offramp.training.data).

Without prompts, a model with a chat template writes the user's turn as well: it is given the
template up to where the user would write (Xu et al. 2024, "Magpie", arXiv:2406.08464), and then
answers itself. A model without one writes on from its first token.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from offramp.errors import ConfigError, InputError
from offramp.models.files import json_of

MARK = "\u2603"
KEYS = {"batch", "prompt", "completion", "text", "greedy"}
USER_TOKENS = 80
"""The longest user's turn; longer ones are most often lists that never end, and are dropped."""


@dataclass(frozen=True, kw_only=True)
class SelfText:
    """How much a model writes, and how.

    Attributes:
        tokens: Stop after about this many new tokens, all texts together.
        batch_size: Texts at a time.
        max_new_tokens: Longest text, in tokens.
        temperature: Of the sampled texts; above 0.
        min_p: Drop tokens less probable than this share of the most probable one; 0 to below 1.
        greedy: Also write texts greedily, every second batch; not where all texts begin with the
            same token, since they would be one text.
        seed: Decides every sampled token.

    Raises:
        ConfigError: A number is out of its range.
    """

    tokens: int = 1_000_000
    batch_size: int = 64
    max_new_tokens: int = 192
    temperature: float = 1.0
    min_p: float = 0.05
    greedy: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("tokens", "batch_size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.temperature <= 0 or not 0 <= self.min_p < 1:
            raise ConfigError(
                "temperature must be above 0 and min_p from 0 to below 1, got "
                f"{self.temperature} and {self.min_p}"
            )


def write_self_text(
    model: Any,
    tokenizer: Any,
    path: str | Path,
    settings: SelfText,
    *,
    prompts: Sequence[str] | None = None,
    advance: Callable[[int], None] = lambda tokens: None,
) -> int:
    """Write texts into a file until it holds enough tokens; go on with what is there.

    Args:
        model: Any model of transformers that generates; its exits are not used.
        tokenizer: Its tokenizer.
        path: File of JSON lines, made if missing; each line has ``prompt`` and ``completion``
            (tokens), ``text`` and ``greedy``.
        settings: How much and how.
        prompts: What to answer; taken again from the start when they are used up, and then
            answered by sampling only. None: the model writes the user's turns itself, or on from
            its first token; not for an encoder-decoder, which has nothing to read then.
        advance: Called with the number of new tokens, those already there first.

    Returns:
        How many new tokens the file holds.

    Raises:
        InputError: The file holds something else or cannot be written, there are no prompts in
            ``prompts``, or the model writes nothing.
    """
    path = Path(path)
    if prompts is not None and not prompts:
        raise InputError("prompts is empty; give at least one, or None")
    if prompts is None and model.config.is_encoder_decoder:
        raise InputError("an encoder-decoder needs something to read; give prompts")
    batch, written = _resume(path)
    advance(written)
    fruitless = 0
    while written < settings.tokens:
        rows = list(_write_batch(model, tokenizer, settings, batch, prompts))
        new = sum(len(row["completion"]) for row in rows)
        fruitless = 0 if new else fruitless + 1
        if fruitless == 8:
            raise InputError(
                "eight batches in a row held no text: the model ends at once, or never ends "
                "the user's turn; give prompts"
            )
        lines = [json.dumps({"batch": batch, **row}, ensure_ascii=False) for row in rows]
        _append(path, [*lines, json.dumps({"end": batch})])
        written, batch = written + new, batch + 1
        advance(new)
    return written


def _append(path: Path, lines: Sequence[str]) -> None:
    """Write a batch to the disk itself."""
    try:
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:  # closing a file writes what is left, and may fail once more
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; free some space, and begin again: "
            "whole batches are kept"
        ) from None


def _resume(path: Path) -> tuple[int, int]:
    """Drop a batch that was cut off; give the next batch and the tokens so far."""
    batch = written = end = pending = 0
    try:
        with path.open("a+b") as file:
            file.seek(0)
            while line := file.readline():
                row = _row(line, batch)
                if row is None:
                    if _is_cut(line, batch):
                        break
                    raise InputError(
                        f"{path} holds something else than self-generated text, first at byte "
                        f"{file.tell() - len(line)}; name another file"
                    )
                if "end" in row:
                    batch, written, end, pending = batch + 1, written + pending, file.tell(), 0
                else:
                    pending += len(row["completion"])
            file.truncate(end)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; name a file in a folder that exists"
        ) from None
    return batch, written


def _row(line: bytes, batch: int) -> dict[str, Any] | None:
    """Read a line that this module wrote for a batch, whole."""
    try:
        row = json_of(line)
    except ValueError:
        return None
    if not line.endswith(b"\n") or not isinstance(row, dict):
        return None
    text = row.keys() == KEYS and row["batch"] == batch and isinstance(row["completion"], list)
    return row if text or row == {"end": batch} else None


def _is_cut(line: bytes, batch: int) -> bool:
    """Tell whether a line is the beginning of one that this module writes."""
    starts = (f'{{"batch": {batch}, "prompt": ['.encode(), f'{{"end": {batch}}}\n'.encode())
    shared = any(start.startswith(line[: len(start)]) for start in starts)
    return shared and not line.endswith(b"\n")


def _write_batch(
    model: Any, tokenizer: Any, settings: SelfText, batch: int, prompts: Sequence[str] | None
) -> Iterator[dict[str, Any]]:
    varied = prompts is not None or tokenizer.chat_template is not None
    both = settings.greedy and varied  # a greedy batch and a sampled one for each cycle
    greedy = both and batch % 2 == 0
    cycle = batch // 2 if both else batch
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad():
        torch.manual_seed(settings.seed * 1_000_003 + batch)
        if prompts is None:
            starts = _own_starts(model, tokenizer, settings)
        else:
            starts = _given_starts(tokenizer, prompts, cycle, settings.batch_size, again=not greedy)
        if not starts:
            return
        longest = settings.max_new_tokens
        rows = _continue(model, tokenizer, starts, settings, longest, sample=not greedy)
    for start, row in zip(starts, rows, strict=True):
        text = tokenizer.decode(start + row)
        yield {"prompt": start, "completion": row, "text": text, "greedy": greedy}


def _given_starts(
    tokenizer: Any, prompts: Sequence[str], cycle: int, size: int, *, again: bool
) -> list[list[int]]:
    """Give the tokens of the next prompts; used up, none, or the first ones ``again``."""
    places = range(cycle * size, (cycle + 1) * size)
    chosen = [prompts[place % len(prompts)] for place in places if again or place < len(prompts)]
    return [opened(tokenizer, prompt) for prompt in chosen]


def _own_starts(model: Any, tokenizer: Any, settings: SelfText) -> list[list[int]]:
    """Let the model write the user's turns; without a chat template, give the first token."""
    size = settings.batch_size
    if tokenizer.chat_template is None:
        known = [tokenizer.bos_token_id, tokenizer.eos_token_id]
        firsts = [token for token in known if token is not None]
        if not firsts:
            raise InputError("the tokenizer has no token that begins a text; give prompts")
        return [firsts[:1]] * size
    before, after = _template(tokenizer)
    opening = tokenizer(before, add_special_tokens=False)["input_ids"]
    turns = _continue(model, tokenizer, [opening] * size, settings, USER_TOKENS, sample=True)
    said = []
    for turn in turns:
        text, end, _ = tokenizer.decode(turn).partition(after)
        if end and text.strip():
            said.append(text.strip())
    return [opened(tokenizer, text) for text in dict.fromkeys(said)]


def _template(tokenizer: Any) -> tuple[str, str]:
    """Give what the chat template puts before and right after the user's words."""
    turn = [{"role": "user", "content": MARK}]
    before, _, after = tokenizer.apply_chat_template(turn, tokenize=False).partition(MARK)
    if not after.strip():
        raise InputError(
            "the chat template puts nothing after the user's words, so their end cannot be seen; "
            "give prompts"
        )
    return before, after.strip().split("\n")[0]


def opened(tokenizer: Any, prompt: str) -> list[int]:
    """Give the tokens of a prompt, in the chat template where there is one."""
    if tokenizer.chat_template is None:
        return list(tokenizer(prompt)["input_ids"])
    turn = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _continue(
    model: Any,
    tokenizer: Any,
    starts: Sequence[list[int]],
    settings: SelfText,
    max_new_tokens: int,
    *,
    sample: bool,
) -> list[list[int]]:
    """Continue each text to its end token, which is kept, or to the longest length."""
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    pad = next((end for end in sorted(ends - {None})), 0)
    apart = model.config.is_encoder_decoder  # read on the left of the padding, answered elsewhere
    width = max(map(len, starts))
    ids = torch.full((len(starts), width), pad)
    mask = torch.zeros_like(ids)
    for row, start in enumerate(starts):
        places = slice(0, len(start)) if apart else slice(width - len(start), width)
        ids[row, places], mask[row, places] = torch.tensor(start), 1
    drawn = {"do_sample": True, "temperature": settings.temperature, "min_p": settings.min_p}
    made = model.generate(
        ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=max_new_tokens,
        pad_token_id=pad,
        **({**drawn, "top_k": 0} if sample else {"do_sample": False}),
    )
    rows: list[list[int]] = []
    for row in made[:, 1 if apart else width :].tolist():
        stop = next((place for place, token in enumerate(row) if token in ends), len(row) - 1)
        rows.append(row[: stop + 1])
    return rows
