"""Prose for the pre-training of tasks (b) and (c), out of Debian's books and documentation.

In:  Debian packages; tasks (b) and (c), made before. Out: {"text", "from"}, a document a line.
Law: no paragraph twice; none shares eight words in a row with what (b) and (c) are measured on
(tests/recipes/test_elmer_data.py).
Left out: scripture, commentaries and dict-gcide, which quotes them, because of (b); package
descriptions because of (c). Many of these texts are GPL: nothing trained on them ships.
Not here: the readers of pages, dictionaries and novels (recipes/default_exits/prose.py).
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data_apt import unpack
from data_files import DataError, Row, read_rows, say, split_of, write_rows
from data_pairs import one_line

sys.path.append(str(Path(__file__).resolve().parent.parent / "default_exits"))
from prose import dictionary, is_prose, novels, pages

GRAM = 8
SHORTEST_GRAM = 5
DOCUMENT_WORDS = 150
LONGEST_PARAGRAPH = 250
GUARDED_TASKS = ("rewrite", "synopsis")

Reader = Callable[[Path], Iterable[str]]
Grams = frozenset[tuple[str, ...]]


def html(*parts: str) -> Reader:
    """Read the pages below a folder."""
    return lambda root: pages(root.joinpath(*parts), "*.html")


def dictd(name: str) -> Reader:
    """Read a dictionary."""
    return lambda root: dictionary(root / "usr" / "share" / "dictd" / f"{name}.dict.dz")


def austen(root: Path) -> Iterator[str]:
    """Read Austen's novels."""
    for path in sorted(root.rglob("*.rdb")):
        yield from novels(path)


DOC = ("usr", "share", "doc")
READERS: dict[str, Reader] = {
    "anarchism": html(*DOC, "anarchism", "html"),
    "r-cran-janeaustenr": austen,
    "linux-doc-6.1": html(*DOC, "linux-doc-6.1", "html"),
    "postgresql-doc-15": html(*DOC, "postgresql-doc-15", "html"),
    "sqlite3-doc": html(*DOC, "sqlite3"),
    "python3.11-doc": html(*DOC, "python3.11", "html"),
    "git-doc": html(*DOC, "git-doc"),
    "debian-handbook": html(*DOC, "debian-handbook", "html", "en-US"),
    "libreoffice-help-en-gb": html("usr", "share", "libreoffice", "help", "en-GB"),
    "dict-foldoc": dictd("foldoc"),
    "dict-jargon": dictd("jargon"),
    "dict-devil": dictd("devil"),
}


def words_of(text: str) -> list[str]:
    """Give the words of a text for comparing: no case, no marks.

    Example:
        >>> words_of("Don't, he said -- 3 times!")
        ["don't", 'he', 'said', '3', 'times']
    """
    return re.findall(r"[a-z0-9']+", text.lower())


def grams(text: str, *, size: int = GRAM) -> Iterator[tuple[str, ...]]:
    """Give all runs of so many words.

    Example:
        >>> list(grams("one two three", size=2))
        [('one', 'two'), ('two', 'three')]
    """
    words = words_of(text)
    return zip(*(words[start:] for start in range(size)), strict=False)


@dataclass(frozen=True)
class Guard:
    """Tells whether a text gives away something that is measured on.

    Texts of fewer than eight words guard themselves whole, if they have five.
    """

    sizes: dict[int, Grams]

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Guard":
        """Take in what must not be seen.

        Example:
            >>> guard = Guard.of(["library for reading old tapes"])
            >>> guard.touches("Use a Library for reading old tapes."), guard.touches("Use a tape.")
            (True, False)
        """
        sizes: dict[int, set[tuple[str, ...]]] = {}
        for text in texts:
            size = min(GRAM, len(words_of(text)))
            if size >= SHORTEST_GRAM:
                sizes.setdefault(size, set()).update(grams(text, size=size))
        return cls({size: frozenset(found) for size, found in sizes.items()})

    def touches(self, text: str) -> bool:
        """Say whether a text has a run of words in common with what is guarded."""
        return any(
            gram in known for size, known in self.sizes.items() for gram in grams(text, size=size)
        )


def pieces(paragraph: str) -> Iterator[str]:
    """Cut a long paragraph at ends of sentences."""
    taken: list[str] = []
    count = 0
    for sentence in re.split(r"(?<=[.!?]) (?=[A-Z])", paragraph):
        taken.append(sentence)
        count += len(sentence.split())
        if count >= LONGEST_PARAGRAPH:
            yield " ".join(taken)
            taken, count = [], 0
    if taken:
        yield " ".join(taken)


def documents(paragraphs: Iterable[str]) -> Iterator[str]:
    """Join paragraphs that follow one another until there are words enough."""
    taken: list[str] = []
    count = 0
    for piece in (piece for paragraph in paragraphs for piece in pieces(paragraph)):
        taken.append(piece)
        count += len(piece.split())
        if count >= DOCUMENT_WORDS:
            yield " ".join(taken)
            taken, count = [], 0
    if taken:
        yield " ".join(taken)


def read_package(package: str, *, parts: Path, cache: Path) -> list[str]:
    """Give a package's paragraphs that are prose, read before or now."""
    path = parts / f"{package}.jsonl"
    if not path.exists():
        root = unpack(cache, [package])[package]
        say(f"reading {package}")
        clean = (one_line(text) for text in READERS[package](root))
        count = write_rows(path, ({"text": text} for text in clean if is_prose(text)))
        if not count:
            path.unlink()
            raise DataError(f"no prose in {package}; remove {root} to fetch it again")
    return [str(row["text"]) for row in read_rows(path)]


def guard_of(out: Path) -> Guard:
    """Guard both sides of what (b) and (c) are developed and tested on.

    Raises:
        DataError: one of them is not there yet.
    """
    texts: list[str] = []
    for task in GUARDED_TASKS:
        for split in ("dev", "test"):
            path = out / task / f"{split}.jsonl"
            if not path.exists():
                raise DataError(f"{path} is missing; make {', '.join(GUARDED_TASKS)} first")
            texts += [str(row[side]) for row in read_rows(path) for side in ("source", "target")]
    return Guard.of(texts)


def make(folder: Path, *, cache: Path) -> Row:
    """Write documents to train on and a sixteenth to watch the loss on; gives the counts."""
    guard, seen = guard_of(folder.parent), set[str]()
    parts = folder / "parts"
    parts.mkdir(exist_ok=True)
    rows: dict[str, list[Row]] = {"train": [], "dev": []}
    counts: dict[str, dict[str, object]] = {}
    for package in READERS:
        paragraphs = read_package(package, parts=parts, cache=cache)
        new = [text for text in dict.fromkeys(paragraphs) if text not in seen]
        seen.update(new)
        kept = [text for text in new if not guard.touches(text)]
        texts = list(documents(kept))
        for text in texts:
            split = "dev" if split_of(text) == "dev" else "train"
            rows[split].append({"text": text, "from": package})
        counts[package] = {
            "documents": len(texts),
            "paragraphs": len(kept),
            "dropped_as_twice": len(paragraphs) - len(new),
            "dropped_as_measured_on": len(new) - len(kept),
            "words": sum(len(text.split()) for text in texts),
            "megabytes": round(sum(len(text.encode()) for text in texts) / 1e6, 2),
        }
        say(f"{package}: {counts[package]}")
    lines = {split: write_rows(folder / f"{split}.jsonl", rows[split]) for split in rows}
    total = round(sum(float(str(count["megabytes"])) for count in counts.values()), 2)
    return {"lines": lines, "megabytes": total, "packages": counts}
