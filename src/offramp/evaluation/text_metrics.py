"""Score texts against references, with intervals, and compare two systems over the same rows.

In:  texts, and the references of each. Out: named numbers with the flavour of each. Pure: no model.
Law: the references themselves have the best score of each kind; a system does not differ from
     itself (tests/evaluation/test_text_metrics.py).
Not here: packages (offramp.evaluation.overlap), intervals (offramp.evaluation.resampling), running
     a model (offramp.evaluation.seq2seq).

Errors are counted as for words and their pronunciations: a row is right if it is one of its
references, and its edits are those to the nearest reference. Distinct-n: Li et al. 2016,
arXiv:1510.03055. Repetition of n-grams: Welleck et al. 2019, arXiv:1908.04319.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from offramp.errors import ConfigError, InputError
from offramp.evaluation.edits import nearest
from offramp.evaluation.metrics import repetition
from offramp.evaluation.overlap import (
    PACKAGES,
    bleu,
    check_installed,
    check_tokenizer,
    chrf,
    quotient,
    rouge,
)
from offramp.evaluation.resampling import (
    SAMPLES,
    Better,
    Difference,
    Draws,
    Measure,
    Score,
    Unit,
    Whole,
    differences_of,
    scores_of,
)

METRICS = ("rouge", "bleu", "chrf", "errors", "diversity")
"""Groups of scores; ``errors`` are exact match and token errors, ``diversity`` repetition, distinct
words and length."""
WORDS = "tokens are what spaces divide"


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """Which scores are measured, and in which flavour.

    Attributes:
        metrics: Groups, of ``METRICS``.
        stemmer: Cut words to their stems for ROUGE.
        bleu_tokenizer: How sacreBLEU cuts texts for BLEU.
        lowercase: Let BLEU and chrF not tell letters' cases apart.
        samples: Draws for an interval; 0 gives none.
        seed: Of the draws.

    Raises:
        ConfigError: There is no such group or tokenizer, a package is missing, or there are too few
            draws.
    """

    metrics: tuple[str, ...] = METRICS
    stemmer: bool = True
    bleu_tokenizer: str = "13a"
    lowercase: bool = False
    samples: int = SAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [each for each in self.metrics if each not in METRICS]
        if unknown or not self.metrics:
            raise ConfigError(
                f"metrics must be some of {', '.join(METRICS)}, got {', '.join(unknown) or 'none'}"
            )
        for each in self.metrics:
            if each in PACKAGES:
                check_installed(each)
        check_tokenizer(self.bleu_tokenizer)
        Draws(samples=self.samples, seed=self.seed)

    @property
    def draws(self) -> Draws:
        """How rows are drawn."""
        return Draws(samples=self.samples, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The texts of one system, counted row by row.

    Attributes:
        measures: One for each score.
        draws: How sure scores shall be known.
        num_rows: How many texts there are.
    """

    measures: tuple[Measure | Whole, ...]
    draws: Draws
    num_rows: int

    def scores(self) -> tuple[Score, ...]:
        """Give every score with its interval."""
        return scores_of(self.measures, self.draws)

    def against(self, first: "Measured") -> tuple[Difference, ...]:
        """Give how every score differs from another system's over the same rows.

        Raises:
            ConfigError: It was measured otherwise, or has other rows.
        """
        return differences_of(self.measures, first.measures, self.draws)


def measure_texts(
    texts: Sequence[str],
    references: Sequence[Sequence[str]],
    settings: TextSettings | None = None,
) -> Measured:
    """Count what all scores of some texts need.

    Args:
        texts: What a system wrote; may be empty texts.
        references: For each text at least one, which is not empty.
        settings: Which scores, in which flavour; by default all.

    Raises:
        InputError: There is no row, or the rows do not fit each other.
        ConfigError: A score cannot be measured.

    Example:
        >>> settings = TextSettings(metrics=("errors",), samples=0)
        >>> written = ["K AE1 T", "D AO1"]
        >>> right = [["K AE1 T"], ["D AO1 G", "D AA1 G"]]
        >>> for each in measure_texts(written, right, settings).scores():
        ...     print(each.name, round(each.value, 3))
        exact_match 0.5
        row_error_rate 0.5
        token_error_rate 0.167
    """
    _check_rows(texts, references)
    settings = settings or TextSettings()
    found: list[Measure | Whole] = []
    for group in settings.metrics:
        found.extend(_group(group, texts, references, settings))
    return Measured(measures=tuple(found), draws=settings.draws, num_rows=len(texts))


def measures(
    groups: Sequence[str],
) -> Callable[[Sequence[str], Sequence[Sequence[str]]], dict[str, float]]:
    """Make a function from texts and each one's references to scores by name, for a training.

    Args:
        groups: Of ``METRICS``.

    Example:
        >>> measures(["errors"])(["a b"], [["a b"]])["row_error_rate"]
        0.0
    """
    settings = TextSettings(metrics=tuple(groups), samples=0)

    def measure(texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
        found = measure_texts(texts, references, settings).scores()
        return {each.name: each.value for each in found}

    return measure


def _group(
    group: str,
    texts: Sequence[str],
    references: Sequence[Sequence[str]],
    settings: TextSettings,
) -> Sequence[Measure | Whole]:
    if group == "rouge":
        return rouge(texts, references, stemmer=settings.stemmer)
    if group == "bleu":
        tokenizer, lowercase = settings.bleu_tokenizer, settings.lowercase
        return [bleu(texts, references, tokenizer=tokenizer, lowercase=lowercase)]
    if group == "chrf":
        return [chrf(texts, references, lowercase=settings.lowercase)]
    words = [text.split() for text in texts]
    right = [[each.split() for each in row] for row in references]
    return _errors(words, right) if group == "errors" else _diversity(words, right)


def _errors(
    words: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> list[Measure | Whole]:
    """Count rows that are none of their references, and edits to the nearest one."""
    edits = [nearest(each, right) for each, right in zip(words, references, strict=True)]
    wrong = [float(distance > 0) for distance, _ in edits]
    right = f"right is any reference; {WORDS}"
    row = f"rows that are not right, the word error rate of words and pronunciations; {WORDS}"
    near = f"edits to the nearest reference by its length, over all rows; {WORDS}"
    return [
        _mean("exact_match", [1 - each for each in wrong], flavour=right, better="higher"),
        _mean("row_error_rate", wrong, flavour=row, better="lower"),
        _ratio("token_error_rate", edits, flavour=near, better="lower"),
    ]


def _diversity(
    words: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> list[Measure | Whole]:
    """Count repetition, distinct words, lengths and texts without a word."""
    again = [(sum(map(str.__eq__, each, each[1:])), len(each)) for each in words]
    lengths = [(len(each), len(right[0])) for each, right in zip(words, references, strict=True)]
    loops = f"share of 4-grams of a text that it had before, mean over texts; {WORDS}"
    return [
        _ratio("repeated_tokens", again, flavour=f"same as the one before; {WORDS}"),
        _mean("seq_rep_4", [repetition(each) for each in words], flavour=loops),
        *(_distinct(words, n) for n in (1, 2)),
        _ratio("length_ratio", lengths, flavour=f"to the first reference; {WORDS}", unit="ratio"),
        _mean("empty", [float(not each) for each in words], flavour="texts without a word"),
    ]


def _distinct(words: Sequence[Sequence[str]], n: int) -> Whole:
    grams = [gram for each in words for gram in zip(*(each[i:] for i in range(n)), strict=False)]
    return Whole(
        name=f"distinct_{n}",
        flavour=f"different {n}-grams by all of them, over all rows; {WORDS}",
        unit="share",
        better="neither",
        value=len(set(grams)) / len(grams) if grams else 0.0,
    )


def _mean(name: str, values: Sequence[float], *, flavour: str, better: Better = "lower") -> Measure:
    return _ratio(name, [(each, 1) for each in values], flavour=flavour, better=better)


def _ratio(
    name: str,
    rows: Sequence[tuple[float, float]],
    *,
    flavour: str,
    better: Better = "lower",
    unit: Unit = "share",
) -> Measure:
    """Make a score that is a sum over rows by another one."""
    return Measure(
        name=name,
        flavour=flavour,
        unit=unit,
        better="neither" if unit == "ratio" else better,
        rows=torch.tensor(rows, dtype=torch.float64),
        combine=quotient,
    )


def _check_rows(texts: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(texts) != len(references) or not texts:
        raise InputError(
            f"got {len(texts)} texts and references for {len(references)}; give at least one row, "
            "and references for each"
        )
    for place, row in enumerate(references):
        if isinstance(row, str) or not row or not all(each.strip() for each in row):
            raise InputError(
                f"row {place}: references are {row!r}; give a list of one or more texts, none of "
                "them empty"
            )
