from itertools import combinations, pairwise, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offramp.errors import InputError
from offramp.logits.dag import (
    dag_align,
    dag_fits,
    dag_loss,
    dag_mixed_transitions,
    dag_transitions,
)
from offramp.logits.labels import NO_LABEL

VOCAB = 4
CANVAS = 6


def scores(seed: int, *shape: int) -> torch.Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 2 * drawn


def padded(rows: list[list[int]], width: int) -> torch.Tensor:
    return torch.tensor([row + [NO_LABEL] * (width - len(row)) for row in rows]).reshape(-1, width)


def paths(canvas: int, count: int) -> list[tuple[int, ...]]:
    if canvas == 1 or count < 2:
        return [(0,)] if count == canvas == 1 else []
    return [(0, *inner, canvas - 1) for inner in combinations(range(1, canvas - 1), count - 2)]


def score_of(path, text, arcs: torch.Tensor, log_probs: torch.Tensor) -> torch.Tensor:
    """Log-probability of a path and what it writes, the arcs normalised here by hand."""
    score = sum(log_probs[vertex, token] for vertex, token in zip(path, text, strict=True))
    for start, end in pairwise(path):
        score = score + arcs[start, start + 1 :].log_softmax(0)[end - start - 1]
    return score


texts = st.lists(st.integers(0, VOCAB - 1), max_size=5)
rows = st.lists(st.tuples(texts, st.integers(1, CANVAS)), min_size=1, max_size=3)


def tensors(rows, seed):
    labels = padded([text for text, _ in rows], 5)
    lengths = torch.tensor([canvas for _, canvas in rows])
    raw = scores(seed + 1, len(rows), CANVAS, CANVAS).requires_grad_()
    return scores(seed, len(rows), CANVAS, VOCAB).requires_grad_(), raw, labels, lengths


@given(rows=rows, seed=st.integers(0, 10**6))
def test_loss_and_its_gradient_equal_the_sum_over_every_path(rows, seed):
    logits, raw, labels, lengths = tensors(rows, seed)

    arcs = dag_transitions(raw, lengths)
    loss = dag_loss(logits, arcs, labels, canvas_lengths=lengths)

    expected = torch.zeros(len(rows), dtype=torch.float64)
    for i, (text, canvas) in enumerate(rows):
        log_probs = logits[i].log_softmax(-1)
        every = [
            score_of(path, text, raw[i, :canvas, :canvas], log_probs)
            for path in paths(canvas, len(text))
        ]
        expected[i] = -torch.stack(every).logsumexp(0) if every else torch.inf
    assert torch.allclose(loss, expected)
    fits = expected.isfinite()
    assert torch.equal(dag_fits(labels, lengths), fits)
    if fits.any():
        weights = torch.arange(1.0, len(rows) + 1)[fits]
        got = torch.autograd.grad((weights * loss[fits]).sum(), [logits, raw])
        want = torch.autograd.grad(
            (weights * expected[fits]).sum(), [logits, raw], allow_unused=True
        )
        assert torch.allclose(got[0], want[0], atol=1e-10)
        # a canvas of one vertex has no arc at all
        assert torch.allclose(got[1], torch.zeros_like(raw) if want[1] is None else want[1])


@given(rows=rows, seed=st.integers(0, 10**6))
def test_the_alignment_is_the_best_of_all_paths(rows, seed):
    logits, raw, labels, lengths = tensors(rows, seed)

    arcs = dag_transitions(raw, lengths)
    aligned = dag_align(logits, arcs, labels, canvas_lengths=lengths)

    for i, (text, canvas) in enumerate(rows):
        every = paths(canvas, len(text))
        if not every:
            assert set(aligned[i].tolist()) == {-1}
            continue
        assert aligned[i, len(text) :].tolist() == [-1] * (5 - len(text))
        path = tuple(aligned[i, : len(text)].tolist())
        assert path in every
        situation = text, raw[i, :canvas, :canvas], logits[i].log_softmax(-1)
        assert score_of(path, *situation) == max(score_of(p, *situation) for p in every)


@given(canvas=st.integers(0, CANVAS), seed=st.integers(0, 10**6))
def test_transitions_sum_to_one_and_go_only_forwards_inside_the_canvas(canvas, seed):
    raw = scores(seed, 2, CANVAS, CANVAS).requires_grad_()

    arcs = dag_transitions(raw, torch.tensor([canvas, CANVAS]))
    total = arcs.masked_fill(arcs == -torch.inf, 0).sum()
    assert torch.autograd.grad(total, raw)[0].isfinite().all()

    for length, row in zip([canvas, CANVAS], arcs.exp(), strict=True):
        for start, end in product(range(CANVAS), repeat=2):
            assert (row[start, end] > 0) == (start < end < length)
        assert torch.allclose(row.sum(-1)[: max(length - 1, 0)], torch.ones(1).double())


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_no_step_of_the_gradient_is_nan_though_the_last_vertex_leads_nowhere():
    logits, raw, labels, lengths = tensors([([0, 1], 4), ([2], 3)], 5)

    with torch.autograd.detect_anomaly(check_nan=True):
        loss = dag_loss(logits, dag_transitions(raw, lengths), labels, canvas_lengths=lengths)
        loss.sum().backward()

    assert raw.grad.isfinite().all()


@given(seed=st.integers(0, 10**6), canvas=st.integers(1, CANVAS))
def test_heads_are_mixed_by_the_gates_of_each_vertex(seed, canvas):
    raw = scores(seed, 2, 3, CANVAS, CANVAS).requires_grad_()
    gates = scores(seed + 1, 2, CANVAS, 3).requires_grad_()
    lengths = torch.tensor([canvas, CANVAS])

    arcs = dag_mixed_transitions(raw, gates, lengths)

    heads = torch.stack([dag_transitions(raw[:, head], lengths).exp() for head in range(3)])
    shares = gates.softmax(-1).permute(2, 0, 1)[..., None]
    assert torch.allclose(arcs.exp(), (heads * shares).sum(0))
    total = arcs.masked_fill(arcs == -torch.inf, 0).sum()
    assert all(each.isfinite().all() for each in torch.autograd.grad(total, [raw, gates]))


@given(seed=st.integers(0, 10**6), more=st.integers(0, 3), wider=st.integers(0, 3))
def test_batch_mates_and_padding_change_nothing(seed, more, wider):
    canvas = CANVAS + more
    logits, raw = scores(seed, 3, canvas, VOCAB), 50 * scores(seed + 1, 3, canvas, canvas)
    labels, lengths = padded([[0, 0, 3], [1, 2], [3] * 4], 4 + wider), torch.tensor([6, 5, 4])
    arcs = dag_transitions(raw, lengths)

    loss = dag_loss(logits, arcs, labels, canvas_lengths=lengths)
    aligned = dag_align(logits, arcs, labels, canvas_lengths=lengths)

    for i, (size, target) in enumerate([(6, 3), (5, 2), (4, 4)]):
        own = {"canvas_lengths": lengths[i : i + 1]}
        alone = dag_transitions(raw[i : i + 1, :size, :size], **own)
        alone = logits[i : i + 1, :size], alone, labels[i : i + 1, :target]
        assert torch.allclose(dag_loss(*alone, **own), loss[i : i + 1])
        assert torch.equal(dag_align(*alone, **own), aligned[i : i + 1, :target])


@pytest.mark.parametrize("spread", [1.0, 30.0, 300.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_long_canvas_is_finite_in_float32(spread, dtype):
    logits = (spread * scores(1, 2, 200, 50)).to(dtype).requires_grad_()
    raw = (spread * scores(2, 2, 200, 200)).to(dtype).requires_grad_()
    labels = torch.randint(50, (2, 60), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([200, 150])

    loss = dag_loss(logits, dag_transitions(raw, lengths), labels, canvas_lengths=lengths)
    loss.sum().backward()

    assert loss.dtype == torch.float32
    assert loss.isfinite().all()
    assert logits.grad.isfinite().all()
    assert raw.grad.isfinite().all()
    assert bool((raw.grad != 0).any())


def test_float32_agrees_with_float64_where_the_best_prefix_leads_nowhere():
    """The path all others must take is e^-300 times as likely as one that ends too early."""
    raw, logits = torch.zeros(1, 4, 4), torch.zeros(1, 4, 2)
    raw[0, 0] = torch.tensor([0.0, -300.0, 0.0, 300.0])
    labels, lengths = torch.tensor([[0, 1, 0, 1]]), torch.tensor([4])

    narrow, exact = (
        dag_loss(
            logits.to(kind), dag_transitions(raw.to(kind), lengths), labels, canvas_lengths=lengths
        )
        for kind in (torch.float32, torch.float64)
    )

    assert exact.item() > 600
    assert narrow.item() == pytest.approx(exact.item(), rel=1e-6)


@pytest.mark.parametrize("unfit", [[1] * 5, [1], []])
def test_a_row_that_does_not_fit_is_inf_and_spoils_no_gradient(unfit):
    logits, raw, labels, lengths = tensors([(unfit, 4), ([1, 2], 4)], 3)

    loss = dag_loss(logits, dag_transitions(raw, lengths), labels, canvas_lengths=lengths)
    loss.sum().backward()

    assert loss[0] == torch.inf
    assert loss[1].isfinite()
    for gradient in (logits.grad, raw.grad):
        assert bool((gradient[0] == 0).all())
        assert gradient[1].isfinite().all()
        assert bool((gradient[1] != 0).any())


def test_a_forbidden_token_is_inf_and_spoils_no_gradient():
    logits = torch.zeros(2, 3, VOCAB)
    logits[..., 1] = -torch.inf
    logits.requires_grad_()
    lengths = torch.tensor([3, 3])
    arcs = dag_transitions(torch.zeros(2, 3, 3), lengths)
    labels = torch.tensor([[0, 1], [0, 2]])

    loss = dag_loss(logits, arcs, labels, canvas_lengths=lengths)
    loss.sum().backward()

    assert loss[0] == torch.inf
    assert loss[1].isfinite()
    assert logits.grad.isfinite().all()
    assert dag_align(logits, arcs, labels, canvas_lengths=lengths).tolist() == [[-1, -1], [0, 2]]


def test_no_canvas_and_no_label_are_inf():
    empty = torch.zeros(1, 0, 0), torch.tensor([0])
    arcs = dag_transitions(*empty)

    nothing = torch.zeros(1, 0, dtype=torch.long)
    loss = dag_loss(torch.zeros(1, 0, 3), arcs, torch.tensor([[1]]), canvas_lengths=empty[1])

    assert loss.tolist() == [torch.inf]
    lengths = torch.tensor([2])
    arcs = dag_transitions(torch.zeros(1, 2, 2), lengths)
    without = dag_loss(torch.zeros(1, 2, 3), arcs, nothing, canvas_lengths=lengths)
    assert without.tolist() == [torch.inf]
    beside = torch.tensor([0, 1])
    arcs = dag_transitions(torch.zeros(2, 2, 2), beside)
    loss = dag_loss(torch.zeros(2, 2, 4), arcs, torch.tensor([[1], [1]]), canvas_lengths=beside)
    assert loss.exp().tolist() == [torch.inf, pytest.approx(4)]


@pytest.mark.parametrize(
    ("labels", "message"),
    [([[1, VOCAB]], "label 4 is no token"), ([[NO_LABEL, 1]], "padded at the right")],
)
@pytest.mark.parametrize("function", [dag_loss, dag_align])
def test_labels_that_cannot_be_scored_are_refused(function, labels, message):
    lengths = torch.tensor([3])
    arcs = dag_transitions(torch.zeros(1, 3, 3), lengths)

    with pytest.raises(InputError, match=message):
        function(torch.zeros(1, 3, VOCAB), arcs, torch.tensor(labels), canvas_lengths=lengths)
