"""What is masked, permuted and drawn, and that it depends on seed, epoch and row alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from offramp.errors import ConfigError
from offramp.training.noise import (
    Fill,
    Marks,
    corrupt,
    draw_exits,
    infill,
    row_generator,
    sentence_ends,
    sentence_order,
)
from offramp.training.pretraining_settings import Noise
from offramp.training.pretraining_spans import draw_spans, place_spans

MASK, END = 1, 2
FILL = Fill(mask=MASK, others=torch.arange(1000, 2000))
"""Random tokens that occur in no row."""
SURE = {"random_share": 0.0}

seeds = st.integers(0, 2**40)
ratios = st.floats(0, 0.95)
means = st.floats(0.1, 9)


def drawn(seed):
    return row_generator(seed, epoch=0, row=0)


@st.composite
def rows(draw):
    """A row of distinct tokens from 100 on, special ones (END) at some places, and its marks."""
    length = draw(st.integers(0, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    special = torch.rand(length, generator=generator) < draw(st.sampled_from([0.0, 0.15]))
    tokens = torch.arange(100, 100 + length).masked_fill(special, END)
    marks = {
        name: torch.rand(length, generator=generator) < 0.5 if draw(st.booleans()) else None
        for name in ("word_starts", "sentence_ends")
    }
    return tokens, Marks(special=special, **marks)


def filled(row, marks, noise, seed):
    return infill(row, marks=marks, noise=noise, fill=FILL, generator=drawn(seed))


def words_of(tokens, marks):
    """Cut a row into words by hand; a special token is None."""
    words, new = [], True
    for place, token in enumerate(tokens.tolist()):
        if marks.special[place]:
            words.append(None)
            new = True
            continue
        ended = marks.sentence_ends is not None and bool(marks.sentence_ends[place - 1])
        if new or ended or marks.word_starts is None or marks.word_starts[place]:
            words.append([])
        words[-1].append(token)
        new = False
    return words


@given(words=st.integers(0, 200), ratio=ratios, mean=means, seed=seeds)
def test_spans_add_up_to_the_ratio_of_the_words(words, ratio, mean, seed):
    lengths = draw_spans(words, ratio=ratio, mean=mean, generator=drawn(seed))

    assert words * ratio - 1 < lengths.sum() < words * ratio + 1
    assert (lengths >= 0).all()


@pytest.mark.parametrize("words", [1, 2, 7, 500])
def test_the_ratio_is_kept_on_average_however_short_the_row(words):
    generator, tries = torch.Generator().manual_seed(0), 4000

    total = sum(
        int(draw_spans(words, ratio=0.3, mean=3.5, generator=generator).sum()) for _ in range(tries)
    )

    assert total / (words * tries) == pytest.approx(0.3, abs=3 * (0.25 / tries) ** 0.5 / words)


def test_lengths_of_spans_are_poisson():
    lengths = draw_spans(400_000, ratio=0.5, mean=3.5, generator=drawn(1))[:-1].double()

    assert lengths.mean().item() == pytest.approx(3.5, abs=0.03)
    assert lengths.var().item() == pytest.approx(3.5, abs=0.1)


@given(words=st.integers(1, 50), ratio=ratios, seed=seeds)
def test_spans_have_their_place_among_the_words_without_overlap(words, ratio, seed):
    lengths = draw_spans(words, ratio=ratio, mean=2.0, generator=drawn(seed))

    slots, is_span = place_spans(lengths, words=words, generator=drawn(seed))

    assert slots.sum() == words
    assert sorted(slots[is_span].tolist()) == sorted(lengths.tolist())
    assert (slots[~is_span] == 1).all()


def test_every_arrangement_of_spans_is_alike():
    generator, seen = torch.Generator().manual_seed(0), {}
    for _ in range(6000):
        slots, is_span = place_spans(torch.tensor([2, 1]), words=5, generator=generator)
        found = tuple(torch.where(is_span, slots, 0).tolist())
        seen[found] = seen.get(found, 0) + 1

    assert len(seen) == 4 * 3
    assert all(abs(count - 500) < 5 * 500**0.5 for count in seen.values())


@given(row=rows(), ratio=ratios, mean=means, seed=seeds)
def test_what_is_not_masked_keeps_its_order_and_words_stay_or_go_as_a_whole(row, ratio, mean, seed):
    tokens, marks = row

    noisy = filled(tokens, marks, Noise(mask_ratio=ratio, mean_span=mean), seed).tolist()

    kept = [token for token in noisy if token != MASK and token < 1000]
    assert [token for token in kept if token != END] == sorted(set(kept) - {END})
    assert kept.count(END) == int(marks.special.sum())
    for word in words_of(tokens, marks):
        assert word is None or set(word) <= set(kept) or not set(word) & set(kept)


@given(row=rows(), ratio=ratios, seed=seeds)
def test_special_tokens_stay_between_the_tokens_they_stood_between(row, ratio, seed):
    tokens, marks = row

    noisy = filled(tokens, marks, Noise(mask_ratio=ratio), seed).tolist()

    def parts(row):
        found = [set()]
        for token in row:
            if token == END:
                found.append(set())
            elif 100 <= token < 1000:
                found[-1].add(token)
        return found

    before, after = parts(tokens.tolist()), parts(noisy)
    assert len(before) == len(after)
    assert all(some <= all_ for some, all_ in zip(after, before, strict=True))


@given(length=st.integers(0, 60), ratio=ratios, mean=means, seed=seeds)
def test_there_are_as_many_masks_as_spans(length, ratio, mean, seed):
    tokens = torch.arange(100, 100 + length)
    marks = Marks(special=torch.zeros(length, dtype=torch.bool))
    lengths = draw_spans(length, ratio=ratio, mean=mean, generator=drawn(seed))

    noisy = filled(tokens, marks, Noise(mask_ratio=ratio, mean_span=mean, **SURE), seed)

    assert (noisy == MASK).sum() == len(lengths)
    assert (noisy != MASK).sum() == length - lengths.sum()


def test_a_span_that_meets_a_special_token_goes_on_behind_it_as_another():
    tokens = torch.tensor([100, 101, END, 102, 103])
    marks = Marks(special=tokens == END)

    seen = {
        tuple(filled(tokens, marks, Noise(mask_ratio=0.5, mean_span=9, **SURE), seed).tolist())
        for seed in range(40)
    }

    assert seen == {(100, MASK, END, MASK, 103), (MASK, END, 102, 103), (100, 101, END, MASK)}


@given(row=rows(), seed=seeds)
def test_ratio_zero_changes_nothing(row, seed):
    tokens, marks = row

    noise = Noise(mask_ratio=0, permute=False)
    same = corrupt(tokens, marks=marks, noise=noise, fill=FILL, generator=drawn(seed))

    assert torch.equal(same, tokens)


def test_a_tenth_of_the_spans_begin_with_a_random_token():
    tokens = torch.arange(100, 900).repeat(100)
    marks = Marks(special=torch.zeros(len(tokens), dtype=torch.bool))

    noisy = filled(tokens, marks, Noise(), 0)

    others, masks = noisy[noisy >= 1000], int((noisy == MASK).sum())
    share = len(others) / (len(others) + masks)
    assert share == pytest.approx(0.1, abs=4 * (0.09 / masks) ** 0.5)
    assert len(set(others.tolist())) > 450


def test_without_other_tokens_it_is_always_the_mask():
    tokens, fill = torch.arange(100, 200), Fill(mask=MASK, others=torch.zeros(0, dtype=torch.int64))
    marks = Marks(special=torch.zeros(100, dtype=torch.bool))

    noisy = infill(tokens, marks=marks, noise=Noise(), fill=fill, generator=drawn(0))

    assert set(noisy.tolist()) <= {MASK, *tokens.tolist()}


def sentences_of(tokens, marks):
    """Cut a row into parts between special tokens, and these into sentences, by hand."""
    parts, new = [[]], True
    for place, token in enumerate(tokens.tolist()):
        if marks.special[place]:
            parts.append([])
            new = True
            continue
        if new:
            parts[-1].append([])
        parts[-1][-1].append(token)
        new = marks.sentence_ends is not None and bool(marks.sentence_ends[place])
    return parts


@given(row=rows(), seed=seeds)
def test_permuting_keeps_the_sentences_of_each_part(row, seed):
    tokens, marks = row

    order = sentence_order(marks, drawn(seed))

    moved = tokens[order]
    assert sorted(order.tolist()) == list(range(len(tokens)))
    assert torch.equal(moved == END, marks.special)
    ends = None if marks.sentence_ends is None else marks.sentence_ends[order]
    before = sentences_of(tokens, marks)
    flat = [[token for sentence in part for token in sentence] for part in before]
    after = sentences_of(moved, Marks(special=marks.special))
    for part, sentences, found in zip(flat, before, after, strict=True):
        found = found[0] if found else []
        assert sorted(found) == sorted(part)
        for sentence in sentences:
            at = found.index(sentence[0])
            assert found[at : at + len(sentence)] == sentence
    assert ends is None or ends.sum() == marks.sentence_ends.sum()


def test_every_order_of_sentences_is_alike():
    marks = Marks(special=torch.zeros(3, dtype=torch.bool), sentence_ends=torch.ones(3).bool())
    generator, seen = torch.Generator().manual_seed(0), {}
    for _ in range(3000):
        found = tuple(sentence_order(marks, generator).tolist())
        seen[found] = seen.get(found, 0) + 1

    assert len(seen) == 6
    assert all(abs(count - 500) < 5 * 500**0.5 for count in seen.values())


def test_words_stay_whole_where_a_sentence_was_moved():
    """The first word of a row need not be marked; at its new place it still begins one."""
    tokens = torch.tensor([100, 101, 102, 103])
    ends, starts = torch.tensor([0, 1, 0, 1]).bool(), torch.tensor([0, 0, 1, 0]).bool()
    marks = Marks(special=torch.zeros(4, dtype=torch.bool), word_starts=starts, sentence_ends=ends)

    seen = {
        tuple(
            corrupt(
                tokens,
                marks=marks,
                noise=Noise(mask_ratio=0.5, mean_span=9, **SURE),
                fill=FILL,
                generator=drawn(seed),
            ).tolist()
        )
        for seed in range(40)
    }

    assert seen == {(100, 101, MASK), (MASK, 102, 103), (102, 103, MASK), (MASK, 100, 101)}


def test_a_sentence_ends_at_the_last_of_several_full_stops():
    row = torch.tensor([7, 3, 3, 4, 8, 4, 9])

    ends = sentence_ends(row, torch.tensor([3, 4]))

    assert ends.tolist() == [False, False, False, True, False, True, False]
    assert sentence_ends(row[:0], torch.tensor([3])).tolist() == []


def test_two_line_ends_end_a_sentence_and_one_behind_a_full_stop_belongs_to_it():
    row, stop, line = (
        torch.tensor([7, 4, 8, 4, 4, 9, 3, 4, 6, 4]),
        torch.tensor([3]),
        torch.tensor([4]),
    )

    ends = sentence_ends(row, stop, line)

    assert ends.nonzero()[:, 0].tolist() == [4, 7]


@given(depth=st.integers(1, 12), batch=st.integers(0, 3), canvas=st.integers(0, 9), seed=seeds)
def test_exits_are_numbers_from_one_to_the_depth(depth, batch, canvas, seed):
    exits = draw_exits(batch=batch, canvas=canvas, depth=depth, generator=drawn(seed))

    assert (exits.shape, exits.dtype) == ((batch, canvas), torch.int64)
    assert ((exits >= 1) & (exits <= depth)).all()


def test_exits_are_drawn_alike_and_each_for_itself():
    exits = draw_exits(batch=300, canvas=200, depth=6, generator=drawn(0))

    counts = exits.flatten().bincount(minlength=7)
    assert all(abs(count - 10_000) < 5 * 10_000**0.5 for count in counts[1:].tolist())
    assert (exits[:, 1:] == exits[:, :-1]).double().mean().item() == pytest.approx(1 / 6, abs=0.01)


@given(seed=seeds, epoch=st.integers(0, 9), row=st.integers(0, 10**9))
def test_a_generator_is_another_one_for_another_seed_epoch_or_row(seed, epoch, row):
    def first(seed, epoch, row):
        return torch.rand(4, generator=row_generator(seed, epoch=epoch, row=row)).tolist()

    here = first(seed, epoch, row)

    assert here == first(seed, epoch, row)
    others = [first(seed + 1, epoch, row), first(seed, epoch + 1, row), first(seed, epoch, row + 1)]
    assert here not in others


class Corrupted(Dataset):
    """Corrupts on the fly, as a pre-training does."""

    def __len__(self):
        return 12

    def __getitem__(self, row):
        torch.rand(3)  # whatever else a worker draws
        tokens = torch.arange(100, 160)
        marks = Marks(special=torch.zeros(60, dtype=torch.bool), sentence_ends=tokens % 10 == 9)
        generator = row_generator(5, epoch=1, row=row)
        return corrupt(tokens, marks=marks, noise=Noise(), fill=FILL, generator=generator).tolist()


@pytest.mark.parametrize("order", [range(12), [7, 3, 11, 0, 5, 2, 9, 8, 1, 10, 4, 6]])
def test_workers_and_order_change_no_corruption(order):
    alone = [Corrupted()[row] for row in range(12)]

    for workers in (0, 2):
        loaded = DataLoader(
            Corrupted(), sampler=list(order), batch_size=None, num_workers=workers, collate_fn=list
        )
        assert list(loaded) == [alone[row] for row in order]
    assert len(set(map(tuple, alone))) == 12


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"mask_ratio": 1.0}, "mask_ratio must be from 0 to below 1, got 1.0"),
        ({"mean_span": 0}, "mean_span must be at least 0.1, got 0"),
        ({"random_share": 2}, "random_share must be from 0 to 1, got 2"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong, told):
    with pytest.raises(ConfigError, match=told):
        Noise(**wrong)


def test_a_decoder_without_blocks_is_refused():
    with pytest.raises(ConfigError, match="depth must be at least 1, got 0"):
        draw_exits(batch=1, canvas=1, depth=0, generator=drawn(0))
