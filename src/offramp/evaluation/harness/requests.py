"""Turn lm-eval's requests into batches, and what was found back into its answers.

In:  contexts and continuations as token ids. Out: for each its log-likelihood and whether greedy
     decoding would write it.
Law: an answer does not depend on the other requests (tests/evaluation/harness/test_model.py).
Not here: the scores (offramp.evaluation.harness.scoring).

As in lm-eval: what does not fit the context is cut at the left; the last token is only a target and
never read; texts that are read alike are run once.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from offramp.errors import InputError
from offramp.evaluation.harness.scoring import Scored
from offramp.evaluation.reading import Places

_LOG = logging.getLogger("lm_eval.offramp")


@dataclass(frozen=True)
class Asked:
    """One request.

    Attributes:
        inputs: What is read, without its last token.
        targets: The continuation; the last inputs are each followed by one of these.
    """

    inputs: tuple[int, ...]
    targets: tuple[int, ...]


def asked(context: Sequence[int], continuation: Sequence[int], *, longest: int) -> Asked:
    """Cut a request to what the model can read.

    Args:
        context: Token ids, at least one.
        continuation: Token ids, at least one.
        longest: The model's context, in tokens.

    Raises:
        InputError: Nothing is asked, or the continuation alone is too long.

    Example:
        >>> asked([5, 6, 7], [8, 9], longest=3)
        Asked(inputs=(6, 7, 8), targets=(8, 9))
    """
    if not context or not continuation:
        raise InputError(
            "a request has an empty context or continuation once it is tokens; look at the task's "
            "doc_to_text and doc_to_target"
        )
    if len(continuation) > longest:
        raise InputError(
            f"a continuation has {len(continuation)} tokens, the model's context {longest}; "
            "shorten it, or let the task be loglikelihood_rolling"
        )
    whole = (*context, *continuation)
    if len(whole) > longest + 1:
        _LOG.warning("cut %d tokens from the left of a request", len(whole) - longest - 1)
    return Asked(inputs=whole[-(longest + 1) : -1], targets=tuple(continuation))


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some requests that are run together.

    Attributes:
        numbers: Which they are; they follow one another in ``places``.
        sizes: How many places each has.
        ids: What is read, each once, padded on the right.
        places: What is asked about it.
        tokens: How many tokens of the continuation come before each.
    """

    numbers: tuple[int, ...]
    sizes: list[int]
    ids: Int[Tensor, "batch seq"]
    places: Places
    tokens: Int[Tensor, " tokens"]

    def answers(self, scored: Scored) -> Iterator[tuple[int, Float[Tensor, " tokens"], bool]]:
        """Give each request's number, its log-probabilities, and whether all are the best ones."""
        log_p, greedy = (
            torch.split(scored.log_p, self.sizes),
            torch.split(scored.greedy, self.sizes),
        )
        for number, some, best in zip(self.numbers, log_p, greedy, strict=True):
            yield number, some, bool(best.all())


def batches(requests: Sequence[Asked], size: int) -> Iterator[Batch]:
    """Make batches of texts of about the same length, the longest first.

    Args:
        requests: All of them.
        size: Different texts at a time, 1 or more.
    """
    alike: dict[tuple[int, ...], list[int]] = {}
    for number, each in enumerate(requests):
        alike.setdefault(each.inputs, []).append(number)
    texts = sorted(alike, key=lambda inputs: (-len(inputs), inputs))
    for start in range(0, len(texts), size):
        some = texts[start : start + size]
        yield _batch(some, [[(n, requests[n].targets) for n in alike[each]] for each in some])


def _batch(
    texts: Sequence[tuple[int, ...]], wanted: Sequence[Sequence[tuple[int, tuple[int, ...]]]]
) -> Batch:
    ids = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long)
    numbers: list[tuple[int, int]] = []
    rows: list[int] = []
    columns: list[int] = []
    targets: list[int] = []
    tokens: list[int] = []
    for row, (text, requests) in enumerate(zip(texts, wanted, strict=True)):
        ids[row, : len(text)] = torch.tensor(text)
        for number, continuation in requests:
            count = len(continuation)
            numbers.append((number, count))
            rows += [row] * count
            columns += range(len(text) - count, len(text))
            targets += continuation
            tokens += range(count)
    return Batch(
        numbers=tuple(number for number, _ in numbers),
        sizes=[count for _, count in numbers],
        ids=ids,
        places=Places(*map(torch.tensor, (rows, columns, targets))),
        tokens=torch.tensor(tokens),
    )
