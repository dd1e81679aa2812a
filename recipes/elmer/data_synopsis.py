"""Task (c): a package's description in one line, from its first paragraph.

In:  Debian's package lists. Out: {"source", "target", "group": source package}, and a tokenizer.
Law: no source package is on two sides (tests/recipes/test_elmer_data.py), and no first paragraph
is there twice, so that -dev and -doc packages beside the first add nothing.
Licence: each description has its package's; they are for experiments, nothing trained on them
ships.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from data_apt import index
from data_files import Row, read_rows
from data_pairs import lead_rouge, one_line, write_pairs

VOCABULARY = 8000
SOURCE_WORDS = (12, 150)
TARGET_WORDS = 3


def first_paragraph(lines: list[str]) -> str:
    r"""Give the words before the first empty line, which Debian writes as a dot.

    Example:
        >>> first_paragraph([" Two", " lines.", " .", " More."])
        'Two lines.'
    """
    taken: list[str] = []
    for line in lines:
        if line.strip() in ("", "."):
            if taken:
                break
        else:
            taken.append(line)
    return one_line(" ".join(taken))


def sources(packages: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Say which source package each package is made from.

    Example:
        >>> sources([{"Package": "a-doc", "Source": "a (1.0)"}, {"Package": "b"}])
        {'a-doc': 'a', 'b': 'b'}
    """
    return {
        entry["Package"]: entry.get("Source", entry["Package"]).split()[0] for entry in packages
    }


def pairs(
    descriptions: Iterable[Mapping[str, str]], made_from: Mapping[str, str]
) -> Iterator[tuple[str, Row]]:
    """Give source package and row for each first paragraph that has not been seen."""
    seen: set[str] = set()
    for entry in descriptions:
        target, *lines = entry["Description-en"].split("\n")
        source = first_paragraph(lines)
        if not source or source in seen:
            continue
        seen.add(source)
        least, most = SOURCE_WORDS
        if least <= len(source.split()) <= most and len(target.split()) >= TARGET_WORDS:
            group = made_from.get(entry["Package"], entry["Package"])
            yield group, {"source": source, "target": one_line(target), "group": group}


def make(folder: Path, *, cache: Path) -> Row:
    """Write the splits and the tokenizer; gives the counts and what the first words score."""
    made_from = sources(index(cache, "_Packages"))
    rows = pairs(index(cache, "_Translation-en"), made_from)
    counts = write_pairs(folder, rows, vocabulary=VOCABULARY)
    parts = {split: read_rows(folder / f"{split}.jsonl") for split in ("train", "dev", "test")}
    known = {row["target"] for row in parts["train"]}
    for split in ("dev", "test"):
        counts[f"{split}_rouge_l_of_first_8_words"] = lead_rouge(parts[split])
        counts[f"{split}_targets_also_in_train"] = sum(
            row["target"] in known for row in parts[split]
        )
    return counts
