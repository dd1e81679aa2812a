"""Cut prose into paragraphs, sentences and words.

In:  a plain text whose paragraphs are divided by blank lines. Out: its pieces, in order.
Law: no word is lost or moved: the sentences of a paragraph, joined, are the paragraph
     (tests/evaluation/harness/test_tasks.py).
Not here: what is asked about them (offramp.evaluation.harness.questions).
"""

import re
from collections.abc import Iterator

_ENDS = re.compile(r"[.!?][\"'\u201d\u2019)\]]*\s+(?=[\"'\u201c\u2018(\[]?[A-Z])")
_SHORT = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Jr|Sr|Col|Gen|Capt|Lt|Rev|Prof|No|vs|etc|e\.g|i\.e)|\b[A-Z])\.\s+$"
)
_WORD = re.compile(r"[A-Za-z]+(?:['\u2019][A-Za-z]+)*")


def paragraphs(text: str) -> list[str]:
    r"""Give the paragraphs, each on one line with single spaces.

    Example:
        >>> paragraphs("One\nline.\n\n\nTwo.")
        ['One line.', 'Two.']
    """
    pieces = (" ".join(piece.split()) for piece in re.split(r"\n\s*\n", text))
    return [piece for piece in pieces if piece]


def sentences(paragraph: str) -> list[str]:
    """Cut a paragraph after its full stops, not after Mr., initials and the like.

    Example:
        >>> sentences('Mr. Hale rose. "Is it late?" he asked. It was.')
        ['Mr. Hale rose.', '"Is it late?" he asked.', 'It was.']
    """
    return list(_sentences(paragraph))


def _sentences(paragraph: str) -> Iterator[str]:
    start = 0
    for end in _ENDS.finditer(paragraph):
        if not _SHORT.search(paragraph[start : end.end()]):
            yield paragraph[start : end.end()].strip()
            start = end.end()
    if start < len(paragraph):
        yield paragraph[start:].strip()


def words(text: str) -> list[str]:
    """Give the words, without punctuation.

    Example:
        >>> words("Don't -- he's 40!")
        ["Don't", "he's"]
    """
    return _WORD.findall(text)
