"""Measure how much a text repeats itself.

In:  one text as a sequence of tokens or words. Out: numbers from 0 to 1. Pure: no model.
Law: a text without a repeated n-gram has repetition 0 and diversity 1
     (tests/evaluation/test_metrics.py).
"""

from collections.abc import Hashable, Sequence


def repetition(tokens: Sequence[Hashable], *, n: int = 4) -> float:
    """Give the share of n-grams that occurred before (seq-rep-n, Welleck et al. 2019).

    Args:
        tokens: One text, as ids or words.
        n: Length of the n-grams, 1 or more.

    Returns:
        0 (none) to 1; 0 for a text shorter than n.

    Example:
        >>> repetition("a b a b a b".split(), n=2)
        0.6
    """
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def diversity(tokens: Sequence[Hashable]) -> float:
    """Give the product of 1 - repetition over n = 2, 3, 4 (Su et al. 2022, arXiv:2202.06417).

    Example:
        >>> diversity("all these words are different".split())
        1.0
    """
    product = 1.0
    for n in (2, 3, 4):
        product *= 1 - repetition(tokens, n=n)
    return product
