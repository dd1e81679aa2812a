"""Spelling, to pre-train the grapheme to phoneme models on: the words of the prose, one by one.

In:  prose/train.jsonl, as data_prose made it. Out: {"text": "lighten"}, in order of first use.
Law: no word of g2p's dev or test is among them (tests/recipes/test_elmer_data.py).
"""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from data_files import DataError, Row, read_rows, split_of, write_rows

LETTERS = range(3, 29)
"""Lengths that are kept; the models have 32 places for a word."""
USES = 2
"""A word that is used less often is taken for a misprint."""


def words_of(texts: Iterable[str]) -> list[str]:
    """Give the words of some texts, each once, those of g2p's dev and test left out.

    Example:
        >>> words_of(["Light lighthouse, light's", "light light's; lighthouse 1st 1st"])
        ['light', "light's"]
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(re.findall(r"(?<!\w)[a-z][a-z']*(?!\w)", text.lower()))
    return [
        word
        for word, uses in counts.items()
        if uses >= USES and len(word) in LETTERS and split_of(word) == "train"
    ]


def make(folder: Path, *, cache: Path) -> Row:
    """Write the words; gives the count.

    Raises:
        DataError: The prose is not there yet.
    """
    prose = cache.parent / "prose" / "train.jsonl"
    if not prose.exists():
        raise DataError(f"{prose} is not there; make the task prose first")
    words = words_of(str(row["text"]) for row in read_rows(prose))
    return {"words": write_rows(folder / "train.jsonl", ({"text": word} for word in words))}
