"""Score texts that go on with a beginning: repetition, diversity, coherence, likeness to people.

In:  beginnings, texts, sentence embeddings. Out: scores that rows can be drawn of. Pure: no model.
Law: a text without a repeated n-gram has repetition 0 and diversity 1; the order of rows makes no
     difference; of two equal systems the test rejects as often as it says
     (tests/evaluation/test_open_ended_scores.py).
Not here: embeddings (offramp.evaluation.embeddings), intervals (offramp.evaluation.resampling).
Source: repetition and diversity: Su et al. 2022, arXiv:2202.06417, n-grams of all texts counted
        together as its code does, but with the last n-gram of a text, which that code leaves out;
        coherence: cosine of the embeddings of beginning and text, there by SimCSE.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from offramp.errors import InputError
from offramp.evaluation.mauve import mauve_measures
from offramp.evaluation.overlap import quotient
from offramp.evaluation.resampling import Measure, Sums
from offramp.evaluation.text_metrics import WORDS

LENGTHS = (2, 3, 4)
"""Of the n-grams."""


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """Sentence embeddings of everything that was written.

    Attributes:
        model: Name of the model that made them.
        prompts: Of the beginnings.
        people: Of what the authors wrote next.
        ways: Of the texts of each way.
    """

    model: str
    prompts: Float64[Tensor, "rows width"]
    people: Float64[Tensor, "rows width"]
    ways: tuple[Float64[Tensor, "rows width"], ...]


def open_ended_measures(
    ways: Sequence[Sequence[str]], references: Sequence[str], vectors: Vectors | None = None
) -> tuple[list[list[Measure]], list[Measure]]:
    """Count what all scores need.

    Args:
        ways: For each way to write, a text for each beginning.
        references: What the authors wrote next.
        vectors: Embeddings of all; None leaves coherence and MAUVE out.

    Returns:
        The scores of each way, and those of the authors, who have no MAUVE; nobody has one where
        there are too few texts.

    Raises:
        InputError: There is no row, or a way has another number of texts.

    Example:
        >>> (own,), people = open_ended_measures([["a b a b"]], ["one two three"])
        >>> [each.name for each in own]
        ['seq_rep_2', 'seq_rep_3', 'seq_rep_4', 'diversity', 'words']
    """
    if not references or any(len(texts) != len(references) for texts in ways):
        counts = ", ".join(str(len(texts)) for texts in ways)
        raise InputError(
            f"got {counts} texts for {len(references)} beginnings; give every way a text for each "
            "of at least one"
        )
    systems = [_of_words(texts) for texts in ways]
    people = _of_words(references)
    if vectors is not None:
        likeness = mauve_measures(vectors.people, vectors.ways, features=vectors.model)
        for number, (own, texts) in enumerate(zip(systems, ways, strict=True)):
            own.append(_coherence(texts, vectors.prompts, vectors.ways[number], vectors.model))
            own += likeness[number : number + 1]
        people.append(_coherence(references, vectors.prompts, vectors.people, vectors.model))
    return systems, people


def diversity_of(sums: Sums) -> Float64[Tensor, " samples"]:
    """Multiply the shares of different n-grams over the lengths.

    Args:
        sums: For each length how many were different, and how many there were.

    Example:
        >>> counts = torch.tensor([[3.0, 4.0, 1.0, 2.0, 0.0, 0.0]], dtype=torch.float64)
        >>> diversity_of(counts).tolist()
        [0.375]
    """
    different, all_of_them = sums[:, 0::2], sums[:, 1::2]
    return torch.where(all_of_them > 0, different / all_of_them.clamp(min=1), 1.0).prod(-1)


def _of_words(texts: Sequence[str]) -> list[Measure]:
    """Count n-grams and words."""
    words = [text.split() for text in texts]
    counts = torch.tensor([_grams(each) for each in words], dtype=torch.float64)
    flavour = f"n-grams that their text had before, by all of them; {WORDS}"
    found = []
    for place, length in enumerate(LENGTHS):
        different, every = counts[:, 2 * place], counts[:, 2 * place + 1]
        found.append(
            Measure(
                name=f"seq_rep_{length}",
                flavour=flavour,
                unit="share",
                better="lower",
                rows=torch.stack([every - different, every], -1),
                combine=quotient,
            )
        )
    product = Measure(
        name="diversity",
        flavour=f"product of 1 - repetition for n = 2, 3, 4; {WORDS}",
        unit="share",
        better="higher",
        rows=counts,
        combine=diversity_of,
    )
    lengths = Measure(
        name="words",
        flavour=f"of a text, mean; {WORDS}",
        unit="ratio",
        better="neither",
        rows=torch.tensor([[len(each), 1] for each in words], dtype=torch.float64),
        combine=quotient,
    )
    return [*found, product, lengths]


def _grams(words: Sequence[str]) -> list[int]:
    """Give for each length how many n-grams differ, and how many there are."""
    found = []
    for length in LENGTHS:
        grams = [tuple(words[at : at + length]) for at in range(len(words) - length + 1)]
        found += [len(set(grams)), len(grams)]
    return found


def _coherence(
    texts: Sequence[str],
    prompts: Float64[Tensor, "rows width"],
    embedded: Float64[Tensor, "rows width"],
    model: str,
) -> Measure:
    cosines = torch.nn.functional.cosine_similarity(prompts, embedded, dim=-1)
    empty = torch.tensor([not text.strip() for text in texts])
    rows = torch.stack([cosines.masked_fill(empty, 0.0), torch.ones_like(cosines)], -1)
    return Measure(
        name="coherence",
        flavour=f"cosine of beginning and text by {model}, mean; an empty text counts 0",
        unit="ratio",
        better="higher",
        rows=rows,
        combine=quotient,
    )
