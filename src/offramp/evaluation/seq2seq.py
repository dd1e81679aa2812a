"""Write a text for each source with an encoder-decoder: token by token, or in one pass.

In:  a model of transformers or an ELMER model, its tokenizer, sources. Out: texts in the order of
     the sources, and of ELMER the exit of each token.
Law: a text depends neither on its batch nor on the order of the sources, beyond what the model
     itself makes of padding (tests/evaluation/test_seq2seq.py).
Not here: scores (offramp.evaluation.text_metrics), times (offramp.evaluation.pace).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from offramp.decoding.oneshot import OneShot
from offramp.errors import CheckpointError, ConfigError, InputError
from offramp.models.context import context_of
from offramp.models.elmer import ElmerForConditionalGeneration
from offramp.models.faults import faults_named

LONGEST = 128
"""New tokens where a call does not say, if the model has room for them."""
OWN = (
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "repetition_penalty",
    "encoder_repetition_penalty",
    "min_length",
    "min_new_tokens",
    "forced_bos_token_id",
)
"""What a model's own generation configuration may add, which is named with the way it writes."""
OF_BEAMS = ("length_penalty", "early_stopping")
SEED_STEP = 1_000_003
"""Between the seeds of two batches, so that runs with the seeds 0, 1, 2, ... share none."""


@dataclass(frozen=True, kw_only=True)
class WriteSettings:
    """How texts are written.

    Attributes:
        batch_size: Sources at a time, of similar length.
        max_new_tokens: Longest text; None is 128, or what the model has room for; for ELMER what
            its canvas has room for.
        max_source_tokens: Longer sources are cut there; None refuses what the model cannot read.
        generation: Arguments of transformers' ``generate`` for models that write token by token,
            such as ``num_beams``; without it the likeliest token is taken each time.
        decoding: How an ELMER model writes.
        seed: Of draws, where ``decoding`` has a temperature.

    Raises:
        ConfigError: A number is below 1.
    """

    batch_size: int = 16
    max_new_tokens: int | None = None
    max_source_tokens: int | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    decoding: OneShot = field(default_factory=OneShot)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_new_tokens", "max_source_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was written for one source.

    Attributes:
        text: Without special tokens.
        tokens: With the one that ended it, if one did.
        finished: Whether it was written to its end: a token ended it that was not forced, or, with
            ``ctc``, which has none, the whole canvas was read.
        exits: Of ELMER: the exit that each token came from.
        canvas_length: Of ELMER: tokens that there was room for.
        positions: Of ELMER: positions that a layer was run for, summed over the layers; those of
            the batch, shared evenly.
    """

    text: str
    tokens: tuple[int, ...]
    finished: bool
    exits: tuple[int, ...] | None = None
    canvas_length: int | None = None
    positions: float | None = None


class Writer:
    """A model that writes a text for each source.

    Attributes:
        model: In evaluation mode, on its device.
        tokenizer: Of the model.
        settings: How it writes.
        one_pass: Whether it is an ELMER model.

    Example:
        >>> from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
        >>> name = "my-bart"  # doctest: +SKIP
        >>> model = AutoModelForSeq2SeqLM.from_pretrained(name)  # doctest: +SKIP
        >>> writer = Writer(model, AutoTokenizer.from_pretrained(name))  # doctest: +SKIP
        >>> writer.write(["a long text"])[0].text  # doctest: +SKIP
        'a short one'
    """

    def __init__(self, model: Any, tokenizer: Any, settings: WriteSettings | None = None) -> None:
        """Take a model, and refuse one that cannot do this.

        Raises:
            ConfigError: It is no encoder-decoder, or cannot write so long a text.
        """
        if not model.config.is_encoder_decoder:
            raise ConfigError(
                f"a {model.config.model_type} model is a decoder only, which goes on with a text "
                "instead of reading a source; use an encoder-decoder, such as ELMER, BART or T5"
            )
        self.model, self.tokenizer = model.eval(), tokenizer
        self.settings = settings or WriteSettings()
        self.one_pass = isinstance(model, ElmerForConditionalGeneration)
        self._context = context_of(model.config)
        longest = self.settings.max_new_tokens
        if not self.one_pass and self._context and longest and longest > self._context:
            raise ConfigError(
                f"max_new_tokens is {longest}, the model's context {self._context}; use at most "
                f"{self._context}"
            )
        ends = model.generation_config.eos_token_id
        self._ends = set(ends if isinstance(ends, list) else [ends])
        self._pad = tokenizer.pad_token_id
        self._name = str(model.name_or_path or type(model).__name__)

    @property
    def depth(self) -> int:
        """Layers of the decoder."""
        config = self.model.config
        return int(getattr(config, "decoder_layers", None) or config.num_hidden_layers)

    def decoding(self) -> str:
        """Name the way in which texts are written."""
        if self.one_pass:
            changed = _changes(self.settings.decoding)
            return f"one pass{', ' if changed else ''}{changed}"
        options = self._options()
        beams = options.pop("num_beams")
        own = self.model.generation_config.to_diff_dict()
        named = OWN + OF_BEAMS if beams > 1 else OWN
        options = {**{name: own[name] for name in named if name in own}, **options}
        rest = [f"{name} {value}" for name, value in options.items() if name != "do_sample"]
        return ", ".join([f"{beams} beams" if beams > 1 else "greedy", *rest])

    def batches(
        self, sources: Sequence[str], *, places: Sequence[str] | None = None
    ) -> list[tuple[int, ...]]:
        """Cut sources into batches of similar length, the longest first.

        Args:
            sources: Texts.
            places: Their names for messages.

        Returns:
            Indices of the sources of each batch; the same ones in every run.

        Raises:
            InputError: A source has no tokens, or more than the model reads.
            CheckpointError: The tokenizer is not the model's own.
        """
        with faults_named(self._name):
            lengths = [self._length(text, number, places) for number, text in enumerate(sources)]
        order = sorted(range(len(sources)), key=lambda number: (-lengths[number], number))
        size = self.settings.batch_size
        return [tuple(order[first : first + size]) for first in range(0, len(order), size)]

    def write(self, sources: Sequence[str], *, seed: int | None = None) -> list[Written]:
        """Write for one batch of sources, together.

        Args:
            sources: Texts that the model can read.
            seed: Of draws; None is that of the settings.

        Raises:
            CheckpointError: Model or tokenizer are damaged.
        """
        with faults_named(self._name):
            return self._write(sources, self.settings.seed if seed is None else seed)

    def _write(self, sources: Sequence[str], seed: int) -> list[Written]:
        limit = self.settings.max_source_tokens
        cut = {} if limit is None else {"truncation": True, "max_length": limit}
        made = self.tokenizer(
            list(sources), padding=True, padding_side="right", return_tensors="pt", **cut
        )
        inputs = {
            name: made[name].to(self.model.device) for name in ("input_ids", "attention_mask")
        }
        with torch.inference_mode():
            if not self.one_pass:
                return self._in_steps(inputs)
            return self._in_one_pass(inputs, seed)

    def write_all(
        self, sources: Sequence[str], *, advance: Callable[[int], None] = lambda rows: None
    ) -> list[Written]:
        """Write for every source.

        Args:
            sources: Texts.
            advance: Called after each batch, with its size.

        Returns:
            In the order of the sources.

        Raises:
            InputError: A source has no tokens, or more than the model reads.
        """
        found: dict[int, Written] = {}
        for place, batch in enumerate(self.batches(sources)):
            rows = self.write([sources[number] for number in batch], seed=self.seed_of(place))
            found.update(zip(batch, rows, strict=True))
            advance(len(batch))
        return [found[number] for number in range(len(sources))]

    def seed_of(self, batch: int) -> int:
        """Give the seed of the draws of a batch, so that none repeats those of another.

        Args:
            batch: Its place among the batches.
        """
        return (self.settings.seed + batch * SEED_STEP) % 2**32

    def _in_steps(self, inputs: Mapping[str, Tensor]) -> list[Written]:
        longest = self.settings.max_new_tokens or min(LONGEST, self._context or LONGEST)
        made = self.model.generate(
            **inputs,
            **self._options(),
            max_new_tokens=longest,
            pad_token_id=self._pad,
        )
        forced = self.model.generation_config.forced_eos_token_id is not None
        rows = [self._cut(row) for row in made[:, 1:].tolist()]
        return [
            self._written(row, finished=self._ended(row) and not (forced and len(row) == longest))
            for row in rows
        ]

    def _in_one_pass(self, inputs: Mapping[str, Tensor], seed: int) -> list[Written]:
        settings, device = self.settings, self.model.device
        made = self.model.generate(
            **inputs,
            decoding=settings.decoding,
            max_new_tokens=settings.max_new_tokens,
            generator=torch.Generator(device).manual_seed(seed),
            return_dict_in_generate=True,
        )
        positions = float(made.layers.sum()) / len(made.sequences)
        rows = zip(made.sequences.tolist(), made.exits.tolist(), strict=True)
        canvases = made.canvas_lengths.tolist()
        texts = [(row[: sum(each >= 0 for each in exits)], exits) for row, exits in rows]
        whole = self.model.config.output_head == "ctc"
        longest = settings.max_new_tokens
        return [
            self._written(
                text,
                finished=len(text) != longest if whole else self._ended(text),
                exits=tuple(exit for exit in exits if exit >= 0),
                canvas_length=canvas,
                positions=positions,
            )
            for (text, exits), canvas in zip(texts, canvases, strict=True)
        ]

    def _written(self, tokens: Sequence[int], **noted: Any) -> Written:
        return Written(
            text=self.tokenizer.decode(tokens, skip_special_tokens=True),
            tokens=tuple(tokens),
            **noted,
        )

    def _ended(self, tokens: Sequence[int]) -> bool:
        return bool(tokens) and tokens[-1] in self._ends

    def _options(self) -> dict[str, Any]:
        return {"num_beams": 1, "do_sample": False, **self.settings.generation}

    def _cut(self, row: list[int]) -> list[int]:
        """Drop what follows the token that ends a text, or the padding of one that has none."""
        for place, token in enumerate(row):
            if token in self._ends:
                return row[: place + 1]
        while row and row[-1] == self._pad:
            row = row[:-1]
        return row

    def _length(self, text: str, number: int, places: Sequence[str] | None) -> int:
        tokens = self.tokenizer(text)["input_ids"]
        place = f"row {number}" if places is None else places[number]
        if not tokens:
            raise InputError(f"{place}: the source has no tokens; write at least one word")
        known = self.model.get_input_embeddings().num_embeddings
        if max(tokens) >= known:
            raise CheckpointError(
                f"the tokenizer gives token {max(tokens)}, its model knows {known} tokens; give "
                "the model its own tokenizer"
            )
        length, limit = len(tokens), self.settings.max_source_tokens
        length = length if limit is None else min(length, limit)
        if self._context and length > self._context:
            raise InputError(
                f"{place}: the source has {length} tokens, the model's context {self._context}; "
                f"set max_source_tokens to {self._context} to have such sources cut"
            )
        return length


def _changes(decoding: OneShot) -> str:
    """Name what is not at its default."""
    plain = OneShot()
    return ", ".join(
        f"{name} {value}" for name, value in vars(decoding).items() if value != getattr(plain, name)
    )
