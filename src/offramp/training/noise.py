"""Corrupt sequences of tokens, and draw exits: what ELMER is pre-trained to undo, and through.

In:  tokens of one row, what is known of each, and a ``torch.Generator``. Out: fewer tokens, in
     which spans of words are masked and sentences permuted; exits.
Law: everything drawn depends on the generator alone, and ``row_generator`` makes it of the seed,
     the epoch and the number of the row: so neither workers, nor their number, nor the order of
     the rows change a corruption. Special tokens stay what and where they are; ratio 0 without
     permutation changes nothing (tests/training/test_noise.py).
Not here: lengths and places of spans (offramp.training.pretraining_spans), which tokens begin words
     or end sentences (offramp.training.pretraining_text).
Paper: Lewis et al. 2019, "BART", arXiv:1910.13461; the numbers are those of the released code of
     Li et al. 2022, "ELMER", arXiv:2210.13304.

Differs from the released code: that drew spans that overlap, and so masked fewer words than its
ratio says; its spans crossed special tokens in the middle of a row; of a run of full stops it ended
the sentence at the first. Its seed was given to numpy and the draws were torch's, so it decided
nothing, and workers that were forked drew alike.
"""

from dataclasses import dataclass
from hashlib import blake2b

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from offramp.errors import ConfigError
from offramp.training.pretraining_settings import Noise
from offramp.training.pretraining_spans import draw_spans, place_spans


@dataclass(frozen=True, kw_only=True)
class Marks:
    """What is known of each token of a row.

    Attributes:
        special: Never touched, and no span or sentence goes across.
        word_starts: First tokens of words; None: each token is a word. A sentence and whatever
            follows a special token begin a word, too.
        sentence_ends: Last tokens of sentences; None: there is one sentence.
    """

    special: Bool[Tensor, " seq"]
    word_starts: Bool[Tensor, " seq"] | None = None
    sentence_ends: Bool[Tensor, " seq"] | None = None


@dataclass(frozen=True, kw_only=True)
class Fill:
    """What stands for a masked span.

    Attributes:
        mask: The mask token.
        others: Tokens of which a random one is drawn; where there are none, it is the mask.
    """

    mask: int
    others: Int[Tensor, " others"]


def row_generator(seed: int, *, epoch: int, row: int) -> torch.Generator:
    """Give the generator of one row in one epoch, whoever asks and in whichever order.

    Args:
        seed: Of the training.
        epoch: How often the rows were read before.
        row: Number of the row in the data.

    Example:
        >>> torch.rand(1, generator=row_generator(3, epoch=0, row=7)).item() == (
        ...     torch.rand(1, generator=row_generator(3, epoch=0, row=7)).item()
        ... )
        True
    """
    mixed = blake2b(f"{seed} {epoch} {row}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(mixed) >> 1)


def draw_exits(
    *, batch: int, canvas: int, depth: int, generator: torch.Generator
) -> Int[Tensor, "batch canvas"]:
    """Draw an exit for each position, 1 to ``depth``, each alike and for itself.

    So does the released code of ELMER, and the paper's figure shows exits that repeat; it is no
    permutation.

    Args:
        batch: Rows.
        canvas: Positions of each.
        depth: Blocks of the decoder; at least 1.
        generator: Decides.

    Raises:
        ConfigError: ``depth`` is below 1.

    Example:
        >>> draw_exits(batch=2, canvas=3, depth=1, generator=torch.Generator()).tolist()
        [[1, 1, 1], [1, 1, 1]]
    """
    if depth < 1:
        raise ConfigError(f"depth must be at least 1, got {depth}; give the decoder's blocks")
    return torch.randint(1, depth + 1, (batch, canvas), generator=generator)


def sentence_ends(
    tokens: Int[Tensor, " seq"],
    stops: Int[Tensor, " stops"],
    breaks: Int[Tensor, " breaks"] | None = None,
) -> Bool[Tensor, " seq"]:
    """Find the last tokens of sentences.

    A sentence ends with a full stop, or with a blank line; what else of both follows belongs to it.

    Args:
        tokens: A row.
        stops: Tokens that end a sentence.
        breaks: Tokens that end a line: two of them end a sentence, too. None: there are none.

    Example:
        >>> sentence_ends(torch.tensor([5, 1, 1, 6, 1]), torch.tensor([1])).tolist()
        [False, False, True, False, True]
    """
    worth = 2 * torch.isin(tokens, stops).long()
    if breaks is not None:
        worth += torch.isin(tokens, breaks).long()
    inside = worth > 0
    run = (inside & ~_before(inside, fill=False)).cumsum(0)
    total = torch.zeros(len(tokens) + 1, dtype=torch.int64).index_add(0, run, worth)
    last = inside & ~torch.cat((inside[1:], inside.new_zeros(1)))[: len(inside)]
    return last & (total[run] >= 2)


def sentence_order(marks: Marks, generator: torch.Generator) -> Int[Tensor, " seq"]:
    """Permute sentences: give the places of the tokens in their new order.

    Args:
        marks: Of the row. What follows the last end of a sentence is a sentence, too.
        generator: Decides.

    Example:
        >>> ends = torch.tensor([False, True, False, True])
        >>> marks = Marks(special=torch.zeros(4, dtype=torch.bool), sentence_ends=ends)
        >>> sentence_order(marks, torch.Generator().manual_seed(0)).tolist()
        [2, 3, 0, 1]
    """
    special = marks.special
    begins = _sentence_starts(marks)
    part = (special | _before(special, fill=False)).cumsum(0)  # a special token is its own
    place = torch.rand(int(begins.sum()) + 1, generator=generator)[begins.cumsum(0)]
    order = place.argsort(stable=True)
    return order[part[order].argsort(stable=True)]


def infill(
    tokens: Int[Tensor, " seq"],
    *,
    marks: Marks,
    noise: Noise,
    fill: Fill,
    generator: torch.Generator,
) -> Int[Tensor, " noisy"]:
    """Replace spans of words by one mask each.

    Args:
        tokens: A row.
        marks: Of its tokens. A span that meets a special token goes on behind it as another one.
        noise: How much.
        fill: The mask and its alternatives.
        generator: Decides.

    Returns:
        The row with all that is not masked, in its order; spans never overlap.

    Example:
        >>> row, none = torch.arange(10, 20), torch.zeros(10, dtype=torch.bool)
        >>> fill = Fill(mask=1, others=torch.arange(10, 20))
        >>> noise, drawn = Noise(random_share=0.0), torch.Generator().manual_seed(6)
        >>> infill(row, marks=Marks(special=none), noise=noise, fill=fill, generator=drawn).tolist()
        [10, 1, 14, 15, 16, 17, 18, 19]
    """
    begins = _word_starts(marks)
    words = int(begins.sum())
    lengths = draw_spans(words, ratio=noise.mask_ratio, mean=noise.mean_span, generator=generator)
    if not len(lengths):
        return tokens.clone()
    slots, is_span = place_spans(lengths, words=words, generator=generator)
    slot = torch.arange(len(slots)).repeat_interleave(slots)[(begins.cumsum(0) - 1).clamp(min=0)]
    slot = slot.masked_fill(marks.special, -1)
    masked = is_span[slot] & ~marks.special
    heads = masked & (slot != _before(slot, fill=-1))
    kept = ~masked | heads
    inserted = (slots.cumsum(0) - slots)[is_span & (slots == 0)]  # words in front of each
    places = torch.cat((begins.nonzero()[:, 0], (~marks.special).nonzero()[-1:, 0] + 1))[inserted]
    front = torch.cat((kept.new_zeros(1), kept)).cumsum(0)[places]
    count = len(front) + int(heads.sum())
    drawn = _drawn(count, noise=noise, fill=fill, generator=generator).to(tokens.dtype)
    row = tokens.masked_scatter(heads, drawn[len(front) :])[kept]
    order = torch.cat((2 * front, 2 * torch.arange(len(row)) + 1)).argsort(stable=True)
    return torch.cat((drawn[: len(front)], row))[order]


def corrupt(
    tokens: Int[Tensor, " seq"],
    *,
    marks: Marks,
    noise: Noise,
    fill: Fill,
    generator: torch.Generator,
) -> Int[Tensor, " noisy"]:
    """Permute sentences if ``noise`` says so, then replace spans of words by one mask each.

    Args:
        tokens: A row.
        marks: Of its tokens.
        noise: How much.
        fill: The mask and its alternatives.
        generator: Decides.
    """
    if noise.permute:
        order = sentence_order(marks, generator)
        tokens, marks = (
            tokens[order],
            Marks(special=marks.special[order], word_starts=_word_starts(marks)[order]),
        )
    return infill(tokens, marks=marks, noise=noise, fill=fill, generator=generator)


def _drawn(
    count: int, *, noise: Noise, fill: Fill, generator: torch.Generator
) -> Int[Tensor, " spans"]:
    """Draw what stands for each span: the mask, or now and then another token."""
    other = torch.rand(count, generator=generator) < noise.random_share
    which = torch.randint(max(len(fill.others), 1), (count,), generator=generator)
    masks = torch.full((count,), fill.mask)
    return torch.where(other, fill.others[which], masks) if len(fill.others) else masks


def _sentence_starts(marks: Marks) -> Bool[Tensor, " seq"]:
    starts = marks.special | _before(marks.special, fill=True)
    return (
        starts if marks.sentence_ends is None else starts | _before(marks.sentence_ends, fill=True)
    )


def _word_starts(marks: Marks) -> Bool[Tensor, " seq"]:
    if marks.word_starts is None:
        return ~marks.special
    return (marks.word_starts | _sentence_starts(marks)) & ~marks.special


def _before(row: Tensor, *, fill: float) -> Tensor:
    """Give what stands one place before, and ``fill`` before the first."""
    return torch.cat((row.new_full((1,), fill), row))[: len(row)]
