"""Let a model go on with the beginnings of texts, in several ways.

In:  documents, a model with its tokenizer. Out: beginnings with what people wrote next, and what
     the model writes next.
Law: a text depends neither on the order of the beginnings nor, unless tokens are drawn, on its
     batch; a way to draw begins each batch with the same random numbers for every decoding
     (tests/evaluation/test_open_ended.py).
Not here: scores (offramp.evaluation.open_ended_scores), reading and keeping files
     (offramp.cli.open_ended).
Source: Gera et al. 2023, arXiv:2305.01628, open-ended generation: beginnings of 32 words, 100 new
        tokens, greedy, beam search, top-k 50, top-p 0.95. How many beams it does not say here: 5.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from offramp.decoding.protocol import DecodingRule
from offramp.errors import ConfigError, InputError
from offramp.evaluation.seq2seq import SEED_STEP, Written

PROMPT_WORDS, NEW_TOKENS = 32, 100
WORD = re.compile(r"\S+")
BLANK = re.compile(r"\n\s*\n")
PLAIN: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}
"""What a model's own generation configuration would else bring in."""


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """How the next token is taken.

    Attributes:
        name: As it is asked for, such as ``"top-p:0.95"``.
        arguments: Of transformers' ``generate``.
    """

    name: str
    arguments: tuple[tuple[str, Any], ...]

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn."""
        return "do_sample" in dict(self.arguments)


@dataclass(frozen=True, kw_only=True)
class Opening:
    """The beginning of a document, and what its author wrote next.

    Attributes:
        prompt: Its first words, as they stand there.
        reference: As many tokens of the rest as a model may write.
        place: Where it came from, such as ``"news.jsonl, line 3"``.
    """

    prompt: str
    reference: str
    place: str


def parse_strategy(text: str) -> Strategy:
    """Read how tokens are taken.

    Args:
        text: ``greedy``, ``beam:5``, ``top-k:50`` or ``top-p:0.95``.

    Raises:
        ConfigError: It is something else, or its number is impossible.

    Example:
        >>> parse_strategy("top-k:50").arguments
        (('do_sample', True), ('top_k', 50))
    """
    name, _, value = text.strip().partition(":")
    if name == "greedy" and not value:
        return Strategy(name=name, arguments=())
    wrong = ConfigError(
        f"a strategy is greedy, beam:N, top-k:N or top-p:P (N at least 1, beams at least 2, P "
        f"above 0 to 1), got {text.strip()!r}; try top-p:0.95"
    )
    try:
        number = float(value) if name == "top-p" else int(value)
    except ValueError:
        raise wrong from None
    if name == "beam" and number > 1:
        return Strategy(name=f"beam:{number}", arguments=(("num_beams", number),))
    if (name == "top-k" and number >= 1) or (name == "top-p" and 0 < number <= 1):
        drawn = (("do_sample", True), (name.replace("-", "_"), number))
        return Strategy(name=f"{name}:{number:g}", arguments=drawn)
    raise wrong


def documents_of(
    rows: Iterable[tuple[str, Mapping[str, Any]]], *, column: str = "text"
) -> Iterator[tuple[str, str]]:
    r"""Give the documents of a source, each with its place.

    Blank lines divide a text file into documents; every other row is one.

    Args:
        rows: Of the source, with their places, as ``offramp.training.sources`` gives them.
        column: Of the documents.

    Raises:
        InputError: A row has no such column, or no text in it.

    Example:
        >>> rows = [("a.txt, line 1", {"text": "One.\n\nTwo."}), ("b.jsonl, line 1", {"text": "3"})]
        >>> [text for _, text in documents_of(rows)]
        ['One.', 'Two.', '3']
    """
    for place, row in rows:
        text = row.get(column)
        if not isinstance(text, str):
            found = ", ".join(sorted(map(str, row))) or "none"
            raise InputError(f"{place}: no text in the column {column!r}, found {found}")
        file = place.partition(", line ")[0]
        for part in BLANK.split(text) if file.lower().endswith(".txt") else [text]:
            if part.strip():
                yield place, part


def openings_of(
    documents: Iterable[tuple[str, str]],
    tokenizer: Any,
    *,
    words: int = PROMPT_WORDS,
    new_tokens: int = NEW_TOKENS,
    limit: int | None = None,
) -> tuple[list[Opening], int]:
    """Cut documents into beginnings and what follows them.

    Args:
        documents: Each with its place.
        tokenizer: Of the model, whose tokens the references are cut by.
        words: Of a beginning, as blanks divide them.
        new_tokens: Of a reference; documents that end before are passed over.
        limit: Stop after so many; None takes all.

    Returns:
        The beginnings, and how many documents were passed over.

    Raises:
        InputError: No document is long enough, or one stands there twice.

    Example:
        >>> class Letters:
        ...     def __call__(self, text, **_): return {"input_ids": [ord(each) for each in text]}
        ...     def decode(self, ids, **_): return "".join(map(chr, ids))
        >>> found, _ = openings_of([("a", "one two three four")], Letters(), words=2, new_tokens=6)
        >>> found[0].prompt, found[0].reference
        ('one two', ' three')
    """
    found: dict[tuple[str, str], Opening] = {}
    short = 0
    for place, text in documents:
        starts = [word.span() for word in WORD.finditer(text)][: words + new_tokens]
        tokens: list[int] = []
        if len(starts) > words:
            rest = text[starts[words - 1][1] : starts[-1][1]]
            tokens = tokenizer(rest, add_special_tokens=False)["input_ids"][:new_tokens]
        if len(tokens) < new_tokens:
            short += 1
            continue
        prompt = text[starts[0][0] : starts[words - 1][1]]
        opening = Opening(prompt=prompt, reference=tokenizer.decode(tokens), place=place)
        found.setdefault((prompt, opening.reference), opening)
        if len(found) == limit:
            break
    if not found:
        raise InputError(
            f"none of {short} documents has {words} words and {new_tokens} tokens after them; name "
            "longer documents (blank lines divide a .txt file), or ask for fewer words and tokens"
        )
    return list(found.values()), short


class Continuer:
    """A model that goes on with texts in one way.

    Attributes:
        strategy: How tokens are taken.
        decoding: The name of what scores them.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        strategy: Strategy,
        rule: DecodingRule | None = None,
        decoding: str = "original",
        new_tokens: int = NEW_TOKENS,
        seed: int = 0,
    ) -> None:
        """Take a model.

        Args:
            model: A decoder with exits, in evaluation mode.
            tokenizer: Of the model, with a token to pad with.
            strategy: How tokens are taken.
            rule: What scores them; None is the model's own head.
            decoding: The name of the rule.
            new_tokens: Longest text.
            seed: Of draws.

        Raises:
            ConfigError: It is an encoder-decoder, or its tokenizer has nothing to pad with.
        """
        if model.config.is_encoder_decoder:
            raise ConfigError(
                f"a {model.config.model_type} model answers sources and goes on with no text; use "
                "a decoder, or --pairs"
            )
        if tokenizer.pad_token_id is None:
            raise ConfigError(
                "texts of a batch are padded, and the tokenizer has neither a padding token nor an "
                "end token to take for one; set tokenizer.pad_token"
            )
        self.strategy, self.decoding = strategy, decoding
        self._model, self._tokenizer, self._rule = model, tokenizer, rule
        self._new_tokens, self._seed = new_tokens, seed

    def write(self, prompts: Sequence[str], *, batch: int = 0) -> list[Written]:
        """Go on with some texts, together.

        Args:
            prompts: Beginnings.
            batch: Place of the batch among all; the random numbers of a batch are its own.
        """
        made = self._tokenizer(
            list(prompts), padding=True, padding_side="left", return_tensors="pt"
        ).to(self._model.device)
        with torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed((self._seed + batch * SEED_STEP) % 2**32)
            ids = self._model.generate(
                made["input_ids"],
                attention_mask=made["attention_mask"],
                decoding=self._rule,
                max_new_tokens=self._new_tokens,
                pad_token_id=self._tokenizer.pad_token_id,
                **{**PLAIN, **dict(self.strategy.arguments)},
            )
        end = self._model.generation_config.eos_token_id
        ends = set(end if isinstance(end, list) else [end])
        rows = ids[:, made["input_ids"].shape[1] :].tolist()
        return [self._written(row, ends) for row in rows]

    def _written(self, row: list[int], ends: set[int | None]) -> Written:
        stop = next((place for place, token in enumerate(row) if token in ends), None)
        tokens = row if stop is None else row[: stop + 1]
        return Written(
            text=self._tokenizer.decode(tokens, skip_special_tokens=True),
            tokens=tuple(tokens),
            finished=stop is not None,
        )
