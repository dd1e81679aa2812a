"""Answer prompts with an ELMER model, in one pass each.

In:  settings and prompts. Out: results, with the exit of each token.
Law: a result depends on its batch only where tokens are drawn; what an ELMER model does not know is
     refused before it is loaded (tests/cli/test_seq2seq_generate.py).
Not here: where results go (offramp.cli.run), other models (offramp.cli.answers).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from offramp.cli.answers import Answers, Result, batches_of
from offramp.cli.loading import weights_hash
from offramp.cli.prompts import Prompt
from offramp.cli.seq2seq_loading import find_source, is_elmer, one_shot_of
from offramp.cli.seq2seq_settings import refuse
from offramp.cli.settings import Settings
from offramp.decoding.oneshot import OneShot
from offramp.errors import ConfigError
from offramp.evaluation.seq2seq import WriteSettings

KNOWN = ("do_sample", "temperature", "no_repeat_ngram_size")
"""Options of transformers that mean something to an ELMER model."""


@dataclass(frozen=True, kw_only=True)
class OnePassResult(Result):
    """One prompt answered in one pass, under the names that a user sees."""

    tokens: tuple[int, ...]
    """With the one that ended the text, if one did."""
    exits: tuple[int, ...]
    """The exit that each token came from."""
    canvas_length: int
    """Tokens that there was room for."""


def answers_of(settings: Settings, prompts: Sequence[Prompt]) -> "AnyAnswers":
    """Load what answers: an ELMER model, or a model with exits.

    Raises:
        OfframpError: The model cannot be loaded, or does not fit settings or prompts.
    """
    if is_elmer(settings.model):
        return OnePassAnswers(settings, prompts)
    given = {name: value for name, value in settings.one_pass.given.items() if name != "min_exit"}
    refuse(
        given,
        "is for models that write in one pass; name an ELMER model by --model, or leave it out",
    )
    return Answers(settings, prompts)


class OnePassAnswers:
    """The answers of an ELMER model to some prompts, made when asked for."""

    def __init__(self, settings: Settings, prompts: Sequence[Prompt]) -> None:
        """Load the model and refuse what cannot be answered.

        Raises:
            OfframpError: The model cannot be loaded, or does not fit settings or prompts.
        """
        _refuse_others(settings)
        self._settings = settings
        sources = {index: _source(each) for index, each in enumerate(prompts)}
        self._decoding = _decoding(settings)
        self._writer = find_source(str(settings.model)).load(
            WriteSettings(
                batch_size=settings.batch_size,
                max_new_tokens=settings.max_new_tokens,
                decoding=self._decoding,
                seed=settings.seed or 0,
            ),
            dtype=settings.dtype,
            device=settings.device,
        )
        self._take(sources, [each.place for each in prompts])

    def read(self, prompts: Mapping[int, Prompt]) -> None:
        """Take these prompts, by index, in the place of those that were there.

        Raises:
            OfframpError: One of them cannot be answered.
        """
        sources = {index: _source(each) for index, each in prompts.items()}
        self._take(sources, [each.place for each in prompts.values()])

    def _take(self, sources: Mapping[int, str], places: Sequence[str]) -> None:
        self._sources = sources
        self._writer.batches(list(sources.values()), places=places)

    def facts(self) -> dict[str, object]:
        """Give everything beside the prompt that decides a result."""
        sampled = bool(self._decoding.temperature)
        return {
            "model": self._settings.model,
            "weights": weights_hash(self._writer.model),
            "decoding": self._writer.decoding(),
            "max_new_tokens": self._settings.max_new_tokens,
            "seed": self._settings.seed if sampled else None,
            "batch_size": self._settings.batch_size if sampled else None,
        }

    def batches(self) -> list[range]:
        """Cut the prompts into batches, the same ones in every run."""
        return batches_of(len(self._sources), self._settings.batch_size)

    def answer(self, batch: range) -> list[OnePassResult]:
        """Answer one batch of prompts."""
        sources = [self._sources[index] for index in batch]
        start = time.perf_counter()
        written = self._writer.write(sources, seed=self._writer.seed_of(batch.start))
        seconds = round((time.perf_counter() - start) / len(batch), 4)
        decoding = self._writer.decoding()
        return [
            OnePassResult(
                prompt=self._sources[index],
                text=each.text,
                new_tokens=len(each.tokens),
                seconds=seconds,
                decoding=decoding,
                model=str(self._settings.model),
                mean_exit=_mean(each.exits or ()),
                tokens=each.tokens,
                exits=each.exits or (),
                canvas_length=each.canvas_length or 0,
            )
            for index, each in zip(batch, written, strict=True)
        ]

    def stream(self) -> None:
        """Refuse to show a text while it is made.

        Raises:
            ConfigError: Always: all tokens are there at once.
        """
        raise ConfigError("--stream shows token after token, ELMER writes all at once; leave it")


def _decoding(settings: Settings) -> OneShot:
    sampling, given = settings.sampling, settings.one_pass.given
    if sampling.get("do_sample"):
        given["temperature"] = sampling.get("temperature", 1.0)
    else:
        settings.refuse_sampled_only()
    ngram = sampling.get("no_repeat_ngram_size")
    return one_shot_of(
        given,
        early_exit=settings.early_exit,
        no_repeat_ngram=None if ngram is None else int(ngram),
    )


def _source(prompt: Prompt) -> str:
    if not isinstance(prompt.content, str):
        raise ConfigError(
            f'{prompt.place} holds messages, an ELMER model reads one text; write a "prompt"'
        )
    return prompt.content


def _refuse_others(settings: Settings) -> None:
    """Refuse what would be ignored."""
    rules = ("contrast", "exit", "dola")
    others = ("exits_from", *rules, "exits", "cache", "speculate", "runtime", "chat", "system")
    given = {name: getattr(settings, name) for name in others}
    sampling = {name: value for name, value in settings.sampling.items() if name not in KNOWN}
    refuse(
        {**given, **sampling}, "means nothing to an ELMER model, which writes at once; leave it out"
    )


def _mean(exits: Sequence[int]) -> float | None:
    return round(sum(exits) / len(exits), 2) if exits else None


AnyAnswers = Answers | OnePassAnswers
