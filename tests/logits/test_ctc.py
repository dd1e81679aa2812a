from itertools import groupby, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offramp.errors import InputError
from offramp.logits.ctc import ctc_align, ctc_collapse, ctc_fits, ctc_loss
from offramp.logits.labels import NO_LABEL

VOCAB = 4
BLANK = 2  # neither first nor last, so that no default can stand in for it


def scores(seed: int, *shape: int) -> torch.Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 2 * drawn


def padded(rows: list[list[int]], width: int) -> torch.Tensor:
    return torch.tensor([row + [NO_LABEL] * (width - len(row)) for row in rows]).reshape(-1, width)


def text_of(alignment) -> list[int]:
    return [token for token, _ in groupby(alignment) if token != BLANK]


def alignments(text: list[int], canvas: int) -> list[tuple[int, ...]]:
    return [path for path in product(range(VOCAB), repeat=canvas) if text_of(path) == text]


def score_of(alignment, log_probs: torch.Tensor) -> torch.Tensor:
    return log_probs[torch.arange(len(alignment)), torch.tensor(alignment)].sum()


texts = st.lists(st.sampled_from([0, 1, 3]), max_size=3)
rows = st.lists(st.tuples(texts, st.integers(1, 5)), min_size=1, max_size=3)


@given(rows=rows, seed=st.integers(0, 10**6))
def test_loss_and_its_gradient_equal_the_sum_over_every_alignment(rows, seed):
    labels, lengths = padded([text for text, _ in rows], 3), torch.tensor([n for _, n in rows])
    logits = scores(seed, len(rows), 5, VOCAB).requires_grad_()

    loss = ctc_loss(logits, labels, canvas_lengths=lengths, blank=BLANK)

    expected = torch.zeros(len(rows), dtype=torch.float64)
    for i, (text, canvas) in enumerate(rows):
        paths = alignments(text, canvas)
        log_probs = logits[i, :canvas].log_softmax(-1)
        every = [score_of(path, log_probs) for path in paths]
        expected[i] = -torch.stack(every).logsumexp(0) if paths else torch.inf
    assert torch.equal(ctc_fits(labels, lengths), expected.isfinite())
    assert torch.allclose(loss, expected)
    fits = expected.isfinite()
    if fits.any():
        (got,) = torch.autograd.grad(loss[fits].sum(), logits)
        (want,) = torch.autograd.grad(expected[fits].sum(), logits)
        assert torch.allclose(got, want, atol=1e-10)


@given(rows=rows, seed=st.integers(0, 10**6))
def test_the_alignment_is_the_best_of_all_and_collapses_to_its_labels(rows, seed):
    labels, lengths = padded([text for text, _ in rows], 3), torch.tensor([n for _, n in rows])
    logits = scores(seed, len(rows), 5, VOCAB)

    aligned = ctc_align(logits, labels, canvas_lengths=lengths, blank=BLANK)

    tokens, written, _ = ctc_collapse(aligned, canvas_lengths=lengths, blank=BLANK, pad=9)
    for i, (text, canvas) in enumerate(rows):
        paths = alignments(text, canvas)
        assert set(aligned[i, canvas:].tolist()) <= {BLANK}
        if not paths:
            assert set(aligned[i].tolist()) == {BLANK}
            continue
        log_probs = logits[i, :canvas].log_softmax(-1)
        best = max(score_of(path, log_probs) for path in paths)
        assert torch.isclose(score_of(aligned[i, :canvas].tolist(), log_probs), best)
        assert tokens[i, : written[i]].tolist() == text


@given(ids=st.lists(st.integers(0, 3), min_size=6, max_size=6), canvas=st.integers(0, 6))
def test_collapse_merges_then_drops_and_says_where_each_token_stood(ids, canvas):
    rows = torch.tensor([ids, [0, 2, 0, 2, 0, 2]])

    tokens, lengths, positions = ctc_collapse(
        rows, canvas_lengths=torch.tensor([canvas, 6]), blank=BLANK, pad=9
    )

    text = text_of(ids[:canvas])
    width = max(3, len(text))
    assert tokens[0].tolist() == text + [9] * (width - len(text))
    assert tokens[1].tolist() == [0, 0, 0] + [9] * (width - 3)
    assert lengths.tolist() == [len(text), 3]
    starts = [i for i in range(canvas) if i == 0 or ids[i] != ids[i - 1]]
    starts = [i for i in starts if ids[i] != BLANK]
    assert positions[0].tolist() == starts + [-1] * (width - len(starts))


@given(seed=st.integers(0, 10**6), more=st.integers(0, 3), wider=st.integers(0, 3))
def test_batch_mates_and_padding_change_nothing(seed, more, wider):
    logits = scores(seed, 3, 7, VOCAB)
    labels, lengths = padded([[0, 0, 3], [1], []], 3 + wider), torch.tensor([7, 5, 4])
    logits = torch.cat([logits, 100 * scores(seed + 1, 3, more, VOCAB)], dim=1)
    logits[1, 5:], logits[2, 4:] = 50.0, -50.0

    loss = ctc_loss(logits, labels, canvas_lengths=lengths, blank=BLANK)
    aligned = ctc_align(logits, labels, canvas_lengths=lengths, blank=BLANK)

    for i, (canvas, target) in enumerate([(7, 3), (5, 1), (4, 0)]):
        alone = logits[i : i + 1, :canvas], labels[i : i + 1, :target]
        size = {"canvas_lengths": lengths[i : i + 1], "blank": BLANK}
        assert torch.allclose(ctc_loss(*alone, **size), loss[i : i + 1])
        assert torch.equal(ctc_align(*alone, **size), aligned[i : i + 1, :canvas])


def test_a_row_that_does_not_fit_is_inf_and_spoils_no_gradient():
    logits = scores(0, 2, 3, VOCAB).requires_grad_()
    labels = torch.tensor([[1, 1, 1], [1, 3, NO_LABEL]])

    loss = ctc_loss(logits, labels, canvas_lengths=torch.tensor([3, 3]), blank=BLANK)
    loss.sum().backward()

    assert loss[0] == torch.inf
    assert loss[1].isfinite()
    assert bool((logits.grad[0] == 0).all())
    assert logits.grad[1].isfinite().all()
    assert bool((logits.grad[1] != 0).any())


def test_a_forbidden_label_is_inf_and_has_no_alignment():
    logits = torch.zeros(1, 3, VOCAB)
    logits[..., 1] = -torch.inf
    logits.requires_grad_()
    size = {"canvas_lengths": torch.tensor([3]), "blank": BLANK}

    assert ctc_loss(logits, torch.tensor([[1]]), **size).tolist() == [torch.inf]
    assert ctc_align(logits, torch.tensor([[1]]), **size).tolist() == [[BLANK] * 3]
    nothing_last = torch.zeros(1, 3, VOCAB).index_fill(1, torch.tensor([2]), -torch.inf)
    assert ctc_align(nothing_last, torch.tensor([[1]]), **size).tolist() == [[BLANK] * 3]
    allowed = ctc_loss(logits, torch.tensor([[0]]), **size)
    allowed.sum().backward()
    assert allowed.isfinite().all()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_long_canvas_is_finite_in_float32(dtype):
    logits = (5 * scores(1, 2, 200, 50)).to(dtype).requires_grad_()
    labels = torch.randint(3, 50, (2, 60), generator=torch.Generator().manual_seed(0))
    size = {"canvas_lengths": torch.tensor([200, 150]), "blank": BLANK}

    loss = ctc_loss(logits, labels, **size)
    loss.sum().backward()

    assert loss.dtype == torch.float32
    assert loss.isfinite().all()
    assert logits.grad.isfinite().all()
    assert ctc_align(logits, labels, **size).requires_grad is False


def test_no_canvas_can_hold_only_the_empty_text():
    size = {"canvas_lengths": torch.tensor([0, 0]), "blank": BLANK}
    labels = torch.tensor([[NO_LABEL], [1]])

    assert ctc_loss(torch.zeros(2, 0, VOCAB), labels, **size).tolist() == [0.0, torch.inf]
    assert ctc_loss(torch.zeros(2, 3, VOCAB), labels, **size).tolist() == [0.0, torch.inf]
    assert ctc_align(torch.zeros(2, 0, VOCAB), labels, **size).shape == (2, 0)
    tokens, lengths, _ = ctc_collapse(torch.zeros(2, 0, dtype=torch.long), pad=9, **size)
    assert tokens.shape == (2, 0)
    assert lengths.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[1, BLANK]], "contain the blank, token 2"),
        ([[1, VOCAB]], "label 4 is no token: allowed are 0 to 3"),
        ([[1, -7]], "label -7 is no token"),
        ([[NO_LABEL, 1]], "padded at the right"),
    ],
)
@pytest.mark.parametrize("function", [ctc_loss, ctc_align])
def test_labels_that_cannot_be_scored_are_refused(function, labels, message):
    with pytest.raises(InputError, match=message):
        function(
            torch.zeros(1, 4, VOCAB),
            torch.tensor(labels),
            canvas_lengths=torch.tensor([4]),
            blank=BLANK,
        )
