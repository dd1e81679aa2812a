"""Answer prompts in batches with a model that is loaded once.

In:  settings and prompts. Out: results, in order.
Law: a result depends on its batch, never on the batches before it, so that an interrupted run can
     be continued; whatever can be refused is refused before the first token is made
     (tests/cli/test_generate.py).
Not here: where results go (offramp.cli.run).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TextStreamer

from offramp.cli.encoding import encode, uses_chat
from offramp.cli.loading import load, weights_hash
from offramp.cli.prompts import Message, Prompt
from offramp.cli.rule import read_decoding
from offramp.cli.settings import Settings
from offramp.decoding import EarlyExit, SelfSpeculation
from offramp.errors import ConfigError
from offramp.models.faults import faults_named
from offramp.models.multiexit import check_rule

SEED_STEP = 1_000_003
"""Between the seeds of two prompts, so that runs with the seeds 0, 1, 2, ... share none."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One answered prompt, under the names that a user sees."""

    prompt: str | tuple[Message, ...]
    text: str
    """What the model wrote, without special tokens."""
    new_tokens: int
    """Tokens made, with the one that ended the text."""
    seconds: float
    """Time of the batch, shared evenly among its prompts."""
    decoding: str
    model: str
    mean_exit: float | None = None
    """Blocks that answered a token, in the mean; known with --early-exit."""
    acceptance_rate: float | None = None
    """Share of the drafted tokens that were right; known with --speculate."""


class Answers:
    """The answers of one model to some prompts, made when asked for."""

    def __init__(self, settings: Settings, prompts: Sequence[Prompt]) -> None:
        """Load the model and refuse what cannot be answered.

        Raises:
            OfframpError: The model cannot be loaded, or does not fit settings or prompts.
        """
        self._settings = settings
        self._rule, self._decoding = read_decoding(settings)
        self._loaded = load(
            settings.model,
            dtype=settings.dtype,
            device=settings.device,
            exits=settings.exits_from,
        )
        if self._rule is not None:
            check_rule(self._loaded.model, self._rule)
        if not self._chosen("do_sample"):
            settings.refuse_sampled_only()
        if self._loaded.tokenizer.pad_token is None and settings.batch_size > 1:
            raise ConfigError(
                f"--batch-size {settings.batch_size} needs a token to pad with; the tokenizer of "
                f"{self._loaded.name} has none; use --batch-size 1"
            )
        self.read(dict(enumerate(prompts)))

    def read(self, prompts: Mapping[int, Prompt]) -> None:
        """Take these prompts, by index, in the place of those that were there.

        Raises:
            OfframpError: One of them cannot be answered.
        """
        self._prompts = prompts
        with faults_named(self._loaded.name):
            self._tokens = {
                index: encode(each, self._loaded, self._settings) for index, each in prompts.items()
            }

    def facts(self) -> dict[str, Any]:
        """Name all that decides the texts; device and speed do not."""
        settings, sampled = self._settings, bool(self._chosen("do_sample"))
        return {
            "model": self._loaded.name,
            "weights": weights_hash(self._loaded.model),
            "decoding": self._decoding,
            "chat": uses_chat(self._loaded, settings),
            "system": settings.system,
            "sampling": dict(settings.sampling),
            "max_new_tokens": settings.max_new_tokens,
            "seed": settings.seed if sampled else None,
            "batch_size": settings.batch_size if sampled else None,
        }

    def batches(self) -> list[range]:
        """Cut the prompts into batches, the same ones in every run."""
        return batches_of(len(self._prompts), self._settings.batch_size)

    def answer(self, batch: range) -> list[Result]:
        """Answer one batch of prompts."""
        start = time.perf_counter()
        with faults_named(self._loaded.name):
            written = self._generate(batch)
        seconds = round((time.perf_counter() - start) / len(batch), 4)
        return [
            Result(
                prompt=self._prompts[index].content,
                text=self._loaded.tokenizer.decode(row, skip_special_tokens=True),
                new_tokens=len(row),
                seconds=seconds,
                decoding=self._decoding,
                model=self._loaded.name,
                **noted,
            )
            for index, (row, noted) in zip(batch, written, strict=True)
        ]

    def stream(self) -> None:
        """Print the only prompt's answer on stdout while it is made.

        Raises:
            ConfigError: Beams are asked for, whose text is known only at the end.
        """
        if (beams := self._chosen("num_beams") or 1) > 1:
            raise ConfigError(f"--stream cannot show {beams} beams; use --num-beams 1")
        streamer = TextStreamer(self._loaded.tokenizer, skip_prompt=True, skip_special_tokens=True)
        with faults_named(self._loaded.name):
            self._generate(range(1), streamer)

    def _generate(
        self, batch: range, streamer: TextStreamer | None = None
    ) -> list[tuple[list[int], dict[str, float]]]:
        """Generate for a batch; give each row's new tokens, cut after the one that ends it."""
        model, tokenizer, settings = self._loaded.model, self._loaded.tokenizer, self._settings
        rows = {"input_ids": [self._tokens[index] for index in batch]}
        side = "right" if model.config.is_encoder_decoder else "left"
        inputs = tokenizer.pad(rows, padding_side=side, return_tensors="pt").to(model.device)
        if settings.seed is not None:
            torch.manual_seed((settings.seed + batch.start * SEED_STEP) % 2**32)
        made = model.generate(
            inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            decoding=self._rule,
            streamer=streamer,
            max_new_tokens=settings.max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            return_dict_in_generate=True,
            **settings.sampling,
        )
        given = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        end = model.generation_config.eos_token_id
        ends = set(end if isinstance(end, list) else [end])
        texts = [_cut(row, ends) for row in made.sequences[:, given:].tolist()]
        return [(text, _noted(self._rule, made, place)) for place, text in enumerate(texts)]

    def _chosen(self, name: str) -> Any:
        """Give an option's value: the user's, or the model's own."""
        own = getattr(self._loaded.model.generation_config, name)
        return self._settings.sampling.get(name, own)


def batches_of(count: int, size: int) -> list[range]:
    """Cut prompts into batches, the same ones in every run.

    Example:
        >>> batches_of(5, 2)
        [range(0, 2), range(2, 4), range(4, 5)]
    """
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def _noted(rule: object, made: Any, row: int) -> dict[str, float]:
    """Say how a loop of ours wrote a row."""
    if isinstance(rule, EarlyExit):
        exits = made.exits[row][made.exits[row] >= 0]
        return {"mean_exit": round(float(exits.float().mean()), 2)}
    if isinstance(rule, SelfSpeculation) and int(made.drafted[row]):
        return {"acceptance_rate": round(float(made.accepted[row] / made.drafted[row]), 3)}
    return {}


def _cut(row: list[int], ends: set[int | None]) -> list[int]:
    stop = next((place for place, token in enumerate(row) if token in ends), len(row) - 1)
    return row[: stop + 1]
