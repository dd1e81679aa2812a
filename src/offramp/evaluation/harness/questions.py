"""Make questions for language models out of prose, by fixed rules.

In:  a work as paragraphs. Out: last words to be predicted, pages, and pairs of sentences of which
     one is wrong. Pure: no model decides, and no die is cast.
Law: a question stands in the work as it is, but for the one word that is asked or changed
     (tests/evaluation/harness/test_tasks.py).
Not here: files (offramp.evaluation.harness.tasks).
Source: last words: Paperno et al. 2016, "LAMBADA", arXiv:1606.06031: whole sentences of context,
     at least 50 words, and a sentence whose last word is asked. Differs: there people kept what can
     be guessed from the context and not from the sentence. Here nobody is asked; the word must
     stand in the context and not before in its sentence, and be no function word. So the numbers
     cannot be compared with those published for LAMBADA.
     Pairs: Warstadt et al. 2020, "BLiMP", arXiv:1912.00582: of two sentences that differ a little,
     the right one is to be the likelier. Differs: sentences of people, made wrong, not of a
     grammar.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from offramp.evaluation.harness.prose import sentences, words

CONTEXT_WORDS = 50
TARGET_SENTENCE_WORDS = 6
PAGE_WORDS = 250
PAIR_WORDS = range(5, 41)

_FUNCTION_WORDS = (
    "anybody anything everybody everything nobody somebody "
    "about above after again against also although always among another around because been "
    "before being below between both could does doing done down during each either else enough "
    "even ever every from have having here hers herself himself however into itself just less "
    "like many might more most much must myself neither never nothing often once only onto other "
    "others ours ourselves over perhaps quite rather said same shall should since some something "
    "soon still such than that their theirs them themselves then there these they this those "
    "though through thus till toward towards under until upon very well were what when where "
    "whether which while whom whose will with within without would your yours yourself"
)
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""Words that no question asks for; shorter ones than four letters are not asked either."""

Question = Mapping[str, str]

_LAST = re.compile(r"(?P<rest>.*\s)(?P<word>[A-Za-z]{4,})[.!?][\"'\u201d\u2019)\]]*$")


def last_words(work: Sequence[str]) -> Iterator[Question]:
    """Ask for the last words of sentences; no sentence is used twice.

    Args:
        work: Paragraphs of one work.
    """
    whole = list(chain.from_iterable(map(sentences, work)))
    first = 0
    for place, sentence in enumerate(whole):
        start = _context_start(whole, place, first)
        if start is None:
            continue
        found = _LAST.match(sentence)
        if found is None:
            continue
        target, rest = found["word"], found["rest"]
        context = " ".join(whole[start:place])
        if _asked(target, rest, context):
            yield {"context": f"{context} {rest.rstrip()}", "target": target}
            first = place + 1


def _context_start(whole: Sequence[str], place: int, first: int) -> int | None:
    """Go back by whole sentences until there are words enough."""
    count, start = 0, place
    while count < CONTEXT_WORDS:
        start -= 1
        if start < first:
            return None
        count += len(words(whole[start]))
    return start


def _asked(target: str, rest: str, context: str) -> bool:
    same = target.lower()
    before = [word.lower() for word in words(rest)]
    return (
        same not in FUNCTION_WORDS
        and len(before) + 1 >= TARGET_SENTENCE_WORDS
        and same not in before
        and same in {word.lower() for word in words(context)}
    )


def pages(work: Sequence[str]) -> Iterator[Question]:
    """Give the work in pages of whole paragraphs, at least 250 words each; a short rest is left.

    Args:
        work: Paragraphs of one work.
    """
    page: list[str] = []
    for paragraph in work:
        page.append(paragraph)
        if sum(len(each.split()) for each in page) >= PAGE_WORDS:
            yield {"page": "\n\n".join(page)}
            page = []


_VERBS = {"was": "were", "is": "are", "has": "have", "does": "do"}
_PLURAL = {other: one for one, other in _VERBS.items()}
_OBJECTS = {"him": "he", "them": "they", "me": "I", "us": "we"}
_UNREAL = re.compile(
    r"\b(?:if|though|wish\w*|unless|lest|let|make|see|help|or|and)\b", re.IGNORECASE
)

PHENOMENA = ("agreement", "article", "case", "order")
"""``agreement``: he was, they were; ``article``: a, an; ``case``: to him, with them; ``order``: of
the, in the."""

_PLACES = {
    "agreement": re.compile(
        rf"\b(?:[Hh]e|[Ss]he|[Ii]t) (?P<one>{'|'.join(_VERBS)})\b"
        rf"|\b(?:[Tt]hey|[Ww]e) (?P<more>{'|'.join(_PLURAL)})\b"
    ),
    "article": re.compile(r"(?<=\s)(?P<article>an?)(?= [a-z]{3,})"),
    "case": re.compile(
        rf"\b(?:to|with|for|from|of|at) (?P<object>{'|'.join(_OBJECTS)})(?=[,.;:!?])"
    ),
    "order": re.compile(r"(?<=[a-z] )(?P<first>of|in|to|on|at|by|from) (?P<second>the)(?= [a-z])"),
}


def pairs(work: Sequence[str], phenomenon: str) -> Iterator[Question]:
    """Give sentences with their wrong twins: one place of each sentence is changed.

    Args:
        work: Paragraphs of one work.
        phenomenon: One of ``PHENOMENA``.

    Example:
        >>> next(pairs(["At last she was gone from the house."], "agreement"))["bad"]
        'At last she were gone from the house.'
    """
    for sentence in chain.from_iterable(map(sentences, work)):
        if len(words(sentence)) not in PAIR_WORDS or sentence[-1] not in ".!?":
            continue
        found = _PLACES[phenomenon].search(sentence)
        if found is None or (phenomenon == "agreement" and _UNREAL.search(sentence[: found.end()])):
            continue
        (start, end), wrong = _wrong(found)
        yield {"good": sentence, "bad": sentence[:start] + wrong + sentence[end:]}


def _wrong(found: re.Match[str]) -> tuple[tuple[int, int], str]:
    """Give the place to change, and what shall stand there."""
    name, word = next((name, word) for name, word in found.groupdict().items() if word)
    if name == "first":
        return found.span(), f"{found['second']} {word}"
    changed = {
        "one": _VERBS,
        "more": _PLURAL,
        "object": _OBJECTS,
        "article": {"a": "an", "an": "a"},
    }[name]
    return found.span(name), changed[word]
