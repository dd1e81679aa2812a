"""Score texts by what they share with references: ROUGE, BLEU and chrF, by the usual packages.

In:  texts and their references. Out: measures that can be resampled.
Law: the score is the package's own, and the flavour names the package, its version and every switch
     (tests/evaluation/test_overlap.py).
Not here: intervals (offramp.evaluation.resampling), edits and repetition
     (offramp.evaluation.text_metrics).

Neither package is imported before it is used, since only the extra ``eval`` brings them.
"""

import re
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import zip_longest
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from offramp.errors import ConfigError
from offramp.evaluation.resampling import Measure, Sums

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
ONE_LINE = ROUGE_TYPES[:3]
"""Those that must be counted of single lines, where ``rougeLsum`` is ``rougeL``."""
BLEU_TOKENIZERS = ("13a", "intl", "char", "zh", "none")
"""Those of sacreBLEU that need nothing more; ``13a`` is its default and that of WMT."""
PACKAGES = {"rouge": "rouge_score", "bleu": "sacrebleu", "chrf": "sacrebleu"}
KNOWN = re.compile(r"[a-z0-9]")
"""What the tokenizer of rouge-score keeps of a text in lower case."""


def check_installed(metric: str) -> None:
    """Refuse a metric whose package is missing.

    Args:
        metric: ``"rouge"``, ``"bleu"`` or ``"chrf"``.

    Raises:
        ConfigError: It is missing.
    """
    package = PACKAGES[metric]
    if find_spec(package) is None:
        raise ConfigError(
            f"{metric} needs {package.replace('_', '-')}, which is not installed; run "
            "pip install 'offramp[eval]'"
        )


def check_tokenizer(tokenizer: str) -> None:
    """Refuse a way to cut texts for BLEU that is unknown here.

    Args:
        tokenizer: Its name in sacreBLEU.

    Raises:
        ConfigError: It is none of ``BLEU_TOKENIZERS``.
    """
    if tokenizer not in BLEU_TOKENIZERS:
        raise ConfigError(
            f"BLEU's tokenizer must be one of {', '.join(BLEU_TOKENIZERS)}, got {tokenizer!r}; "
            "13a is the usual one"
        )


def rouge(
    texts: Sequence[str], references: Sequence[Sequence[str]], *, stemmer: bool
) -> list[Measure]:
    """Measure ROUGE: mean F1 over rows, each against the reference that is best for it.

    Sentences of ``rougeLsum`` are lines.

    Args:
        texts: What was written.
        references: At least one of each row.
        stemmer: Cut words of more than three letters to their stems, as the published scores do.

    Raises:
        ConfigError: The package is missing, or the references are in a script that it drops.
    """
    check_installed("rouge")
    _check_script(references)
    from rouge_score.rouge_scorer import RougeScorer  # noqa: PLC0415 - only the extra "eval" has it

    scorers = [RougeScorer(types, use_stemmer=stemmer) for types in (ROUGE_TYPES, ONE_LINE)]
    found = []
    for text, each in zip(texts, references, strict=True):
        one_line = not any("\n" in part for part in (text, *each))
        points = scorers[one_line].score_multi(list(each), text)
        found.append(points | {"rougeLsum": points["rougeL"]} if one_line else points)
    flavour = (
        f"rouge-score {version('rouge-score')}, stemmer {'on' if stemmer else 'off'}, mean F1, "
        "best reference, tokens a-z0-9 in lower case"
    )
    return [
        Measure(
            name=name,
            flavour=flavour + (", sentences are lines" if name == "rougeLsum" else ""),
            unit="points",
            better="higher",
            rows=_numbers([(100.0 * row[name].fmeasure, 1.0) for row in found]),
            combine=quotient,
        )
        for name in ROUGE_TYPES
    ]


def bleu(
    texts: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    tokenizer: str = "13a",
    lowercase: bool = False,
) -> Measure:
    """Measure corpus BLEU by sacreBLEU.

    Args:
        texts: What was written.
        references: At least one of each row.
        tokenizer: ``"13a"``, ``"intl"``, ``"char"``, ``"zh"``, or ``"none"`` for text that has a
            space between any two tokens.
        lowercase: Do not tell letters' cases apart.

    Raises:
        ConfigError: sacreBLEU is missing, or the tokenizer is not one of these.
    """
    check_tokenizer(tokenizer)
    check_installed("bleu")
    from sacrebleu.metrics import BLEU  # noqa: PLC0415 - only the extra "eval" has it

    return _sacrebleu(BLEU(tokenize=tokenizer, lowercase=lowercase, force=True), texts, references)


def chrf(
    texts: Sequence[str], references: Sequence[Sequence[str]], *, lowercase: bool = False
) -> Measure:
    """Measure corpus chrF by sacreBLEU, with letters up to 6 and recall counting twice.

    Args:
        texts: What was written.
        references: At least one of each row.
        lowercase: Do not tell letters' cases apart.

    Raises:
        ConfigError: sacreBLEU is missing.
    """
    check_installed("chrf")
    from sacrebleu.metrics import CHRF  # noqa: PLC0415 - only the extra "eval" has it

    return _sacrebleu(CHRF(lowercase=lowercase), texts, references)


def quotient(sums: Sums) -> Float64[Tensor, " samples"]:
    """Divide the first column by the second one; nothing by nothing is nothing.

    Example:
        >>> quotient(torch.tensor([[1.0, 2.0], [0.0, 0.0]], dtype=torch.float64)).tolist()
        [0.5, 0.0]
    """
    return torch.where(sums[:, 1] == 0, sums[:, 0], sums[:, 0] / sums[:, 1])


def _sacrebleu(metric: Any, texts: Sequence[str], references: Sequence[Sequence[str]]) -> Measure:
    """Take the counts of each row and the formula out of a metric of sacreBLEU.

    Both are private there, and what its own tests of significance are made of; ours compare the
    result with the public score.
    """
    streams = list(zip_longest(*references))
    counts = metric._extract_corpus_statistics(texts, streams)
    return Measure(
        name=metric.__class__.__name__.lower(),
        flavour=metric.get_signature().format(),
        unit="points",
        better="higher",
        rows=_numbers(counts),
        combine=partial(_scored, metric),
    )


def _scored(metric: Any, sums: Sums) -> Float64[Tensor, " samples"]:
    counts = sums.round().long().tolist()
    return _numbers([(metric._compute_score_from_stats(each).score,) for each in counts])[:, 0]


def _numbers(rows: Sequence[Sequence[float]]) -> Float64[Tensor, "rows columns"]:
    return torch.tensor(rows, dtype=torch.float64)


def _check_script(references: Sequence[Sequence[str]]) -> None:
    """Refuse a script of which the package would keep next to nothing and give points of 0."""
    letters = [each for row in references for text in row for each in text.lower()]
    letters = [each for each in letters if each.isalnum()]
    kept = sum(bool(KNOWN.match(each)) for each in letters)
    if 2 * kept < len(letters):
        raise ConfigError(
            f"rouge-score knows a to z and digits only, {len(letters) - kept} of {len(letters)} "
            "letters of the references are others; leave rouge out and use chrf"
        )
