"""Count the edits between two sequences, and find the reference that needs the fewest.

In:  sequences of words, phones, letters or ids. Out: counts. Pure: no model.
Law: the distance is that of the plain table of dynamic programming, at one step of whole-number
     arithmetic for each token (tests/evaluation/test_edits.py).
Source: Hyyro 2003, "A bit-vector algorithm for computing Levenshtein and Damerau edit distances".
"""

from collections.abc import Hashable, Sequence


def edit_distance(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Give the fewest insertions, deletions and substitutions that turn one into the other.

    Args:
        first: One sequence.
        second: The other one.

    Example:
        >>> edit_distance("T IH0 K".split(), "T AH0 K S".split())
        2
    """
    if not first:
        return len(second)
    places: dict[Hashable, int] = {}
    for place, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << place
    every, last = (1 << len(first)) - 1, 1 << (len(first) - 1)
    up, down, distance = every, 0, len(first)  # where the table's column steps up, and down
    for token in second:
        here = places.get(token, 0)
        same = (((here & up) + up) ^ up) | here | down
        right_up, right_down = (down | ~(same | up)) & every, same & up
        distance += bool(right_up & last) - bool(right_down & last)
        right_up = right_up << 1 | 1
        up = (right_down << 1 | ~(same | right_up)) & every
        down = right_up & same & every
    return distance


def nearest(
    tokens: Sequence[Hashable], references: Sequence[Sequence[Hashable]]
) -> tuple[int, int]:
    """Give the fewest edits to any reference, and that reference's length.

    Args:
        tokens: What was written.
        references: At least one; the first of equally near ones counts.

    Example:
        >>> nearest("abd", ["abc", "bd"])
        (1, 3)
    """
    return min(
        ((edit_distance(tokens, each), len(each)) for each in references),
        key=lambda found: found[0],
    )
