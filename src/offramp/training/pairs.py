"""Pairs of texts, and the tokens that are learned from them.

In:  rows of any source, a tokenizer. Out: pairs, rows of tokens, and a line about what was left out
     or cut.
Law: what nothing can be learned from is counted and named (tests/training/test_finetuning.py).
Not here: the training (offramp.training.finetuning), room on a canvas (offramp.training.room).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from offramp.errors import InputError
from offramp.models.context import context_of
from offramp.training.finetuning_settings import FinetuneSettings
from offramp.training.formats import Rows, columns_of
from offramp.training.room import REMEDY, have_room


@dataclass(frozen=True)
class Pair:
    """One pair of texts.

    Attributes:
        source: What is read.
        targets: What may be written; the first is learned.
    """

    source: str
    targets: tuple[str, ...]


def pairs_of(
    rows: Rows, *, source: str = "source", target: str = "target", name: str = "the data"
) -> list[Pair]:
    """Read pairs.

    Args:
        rows: Rows with the places they stand at.
        source: Column of sources.
        target: Column of targets. A column ``targets`` beside it holds all that are right.
        name: Of the rows, for messages.

    Raises:
        InputError: There are no rows, one has no such columns, or they hold no text.
    """
    pairs = []
    for place, row in rows:
        more = row.get("targets") or []
        given = [row.get(source), row.get(target), *(more if isinstance(more, list) else [None])]
        if not all(isinstance(each, str) and each.strip() for each in given):
            found = columns_of(row)
            raise InputError(
                f"{place}: a pair needs text in {source} and {target}, found columns {found}; name "
                "the columns to use, or mend the line"
            )
        pairs.append(Pair(str(given[0]), tuple(dict.fromkeys(map(str, given[1:])))))
    if not pairs:
        example = json.dumps({source: "a text", target: "its text"})
        raise InputError(f"{name} holds no pairs; give at least one, such as {example}")
    return pairs


def tokenised(
    pairs: Sequence[Pair],
    tokenizer: Any,
    settings: FinetuneSettings,
    *,
    config: Any = None,
    name: str = "pairs",
) -> tuple[list[dict[str, list[int]]], str]:
    """Turn pairs into tokens; those that nothing can be learned from are left out.

    Args:
        pairs: What is to be learned.
        tokenizer: Of the model.
        settings: The longest sources and targets.
        config: Of the model; an ELMER model with ``ctc`` or ``dag`` learns only targets that fit
            their canvas.
        name: Of the pairs, in the plural.

    Returns:
        Rows, and a line about what is missing or cut; empty if nothing is.

    Raises:
        InputError: All are left out.
    """
    longest = longest_source(settings.max_source, config)
    sources, shortened = cut_sources([each.source for each in pairs], tokenizer, longest)
    targets = tokenizer(text_target=[each.targets[0] for each in pairs])["input_ids"]
    rows = [
        {"input_ids": source, "labels": target}
        for source, target in zip(sources, targets, strict=True)
        if len(target) <= settings.max_target
    ]
    long = f"a target of more than {settings.max_target} tokens (raise max_target)"
    why, cut = {long: len(pairs) - len(rows)}, 0
    if getattr(config, "model_type", "") == "elmer":
        room = have_room(config, rows)
        if config.output_head == "plain":
            cut = room.count(False)
        else:
            why[f"a target that does not fit its canvas ({REMEDY})"] = room.count(False)
            rows = [row for row, fits in zip(rows, room, strict=True) if fits]
    told = ", ".join(f"{count} with {fault}" for fault, count in why.items() if count)
    lines = [f"{sum(why.values())} of {len(pairs)} {name} left out: {told}"] if told else []
    if not rows:
        raise InputError(lines[0])
    if shortened:
        lines.append(told_of_cuts(shortened, f"{len(pairs)} {name}", longest, config))
    if cut:
        lines.append(
            f"{cut} of {len(pairs)} {name} with a target longer than the canvas that its source "
            f"gives, where the text will be cut ({REMEDY})"
        )
    return rows, "; ".join(lines)


def cut_sources(texts: Sequence[str], tokenizer: Any, longest: int) -> tuple[list[list[int]], int]:
    """Turn sources into tokens, and count those that were cut."""
    found = tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]
    full = [text for text, ids in zip(texts, found, strict=True) if len(ids) == longest]
    whole = tokenizer(full, verbose=False)["input_ids"] if full else []
    return found, sum(len(ids) > longest for ids in whole)


def told_of_cuts(cut: int, whole: str, longest: int, config: Any) -> str:
    """Say how many of ``whole`` have a source that was cut to ``longest`` tokens."""
    more = longest_source(longest + 1, config) > longest
    remedy = "raise max_source" if more else "the model reads no more"
    return f"{cut} of {whole} with a source of more than {longest} tokens, which is cut ({remedy})"


def longest_source(max_source: int, config: Any) -> int:
    """Give the tokens that sources are cut to: what was asked for, or all that the model knows."""
    known = None if config is None else context_of(config)
    return min(max_source, known or max_source)


def evenly(pairs: Sequence[Pair], count: int) -> Sequence[Pair]:
    """Give at most so many pairs, at equal distances: a file in alphabetical order begins with A.

    Example:
        >>> [pair.source for pair in evenly([Pair(each, ("",)) for each in "abcdef"], 3)]
        ['a', 'c', 'e']
    """
    most = min(count, len(pairs))
    return [pairs[number * len(pairs) // most] for number in range(most)]
