from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offramp.errors import ConfigError
from offramp.logits.dag import dag_transitions
from offramp.logits.dag_beam import dag_beam
from offramp.logits.dag_decode import dag_greedy, dag_lookahead, dag_viterbi

VOCAB, CANVAS, PAD = 4, 6, 9
EVERY = [dag_greedy, dag_lookahead, dag_viterbi, dag_beam]


def scores(seed: int, *shape: int) -> torch.Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 2 * drawn


def graph(seed: int, lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    sizes = torch.tensor(lengths)
    raw = scores(seed + 1, len(lengths), CANVAS, CANVAS)
    return scores(seed, len(lengths), CANVAS, VOCAB), dag_transitions(raw, sizes), sizes


def paths(canvas: int) -> list[tuple[int, ...]]:
    if canvas == 1:
        return [(0,)]
    inner = [c for size in range(canvas - 1) for c in combinations(range(1, canvas - 1), size)]
    return [(0, *between, canvas - 1) for between in inner]


def chain() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Four vertices: the likeliest jump leads from 0 to 1, which does not know what to write."""
    arcs = torch.zeros(1, 4, 4)
    arcs[0, 0] = torch.tensor([0.0, 0.6, 0.4, 0.0])
    arcs[0, 1] = torch.tensor([0.0, 0.0, 0.2, 0.8])
    arcs[0, 2, 3] = 1.0
    said = torch.tensor([[0.9, 0.1, 0.0], [0.3, 0.4, 0.3], [0.0, 0.1, 0.9], [1.0, 0.0, 0.0]])
    return said.log()[None], arcs.log(), torch.tensor([4])


def test_greedy_takes_the_likeliest_jump():
    logits, arcs, lengths = chain()

    tokens, written, vertices = dag_greedy(logits, arcs, canvas_lengths=lengths, pad=PAD)

    assert vertices.tolist() == [[0, 1, 3]]
    assert tokens.tolist() == [[0, 1, 0]]
    assert written.tolist() == [3]


def test_lookahead_weighs_the_jump_with_the_token_it_leads_to():
    logits, arcs, lengths = chain()  # 0.6 x 0.4 against 0.4 x 0.9

    tokens, written, vertices = dag_lookahead(logits, arcs, canvas_lengths=lengths, pad=PAD)

    assert vertices.tolist() == [[0, 2, 3]]
    assert tokens.tolist() == [[0, 2, 0]]
    assert written.tolist() == [3]


@given(
    canvas=st.integers(1, CANVAS),
    seed=st.integers(0, 10**6),
    penalty=st.sampled_from([0.0, 0.7, 1.0, 3.0]),
    most=st.sampled_from([None, 2, 4]),
)
def test_viterbi_is_the_best_of_every_path_and_text(canvas, seed, penalty, most):
    logits, arcs, lengths = graph(seed, [canvas])
    log_probs = logits[0].log_softmax(-1)

    tokens, written, vertices = dag_viterbi(
        logits, arcs, canvas_lengths=lengths, pad=PAD, length_penalty=penalty, max_length=most
    )

    def rated(path, text):
        score = sum(log_probs[vertex, token] for vertex, token in zip(path, text, strict=True))
        score = score + sum(arcs[0, start, end] for start, end in pairwise(path))
        return float(score) / len(path) ** penalty

    every = [path for path in paths(canvas) if len(path) <= (most or canvas)]
    best = max(rated(path, log_probs[list(path)].argmax(-1).tolist()) for path in every)
    found = vertices[0, : written[0]].tolist(), tokens[0, : written[0]].tolist()
    assert tuple(found[0]) in every
    assert rated(*found) == pytest.approx(best)


@pytest.mark.parametrize("decode", EVERY)
@given(seed=st.integers(0, 10**6), more=st.integers(0, 3))
def test_batch_mates_and_padding_change_nothing(decode, seed, more):
    logits, arcs, lengths = graph(seed, [6, 1, 4])
    logits = torch.cat([logits, 100 * scores(seed + 2, 3, more, VOCAB)], dim=1)
    arcs = torch.nn.functional.pad(arcs, (0, more, 0, more), value=-torch.inf)

    tokens, written, vertices = decode(logits, arcs, canvas_lengths=lengths, pad=PAD)

    assert tokens.shape[1] == max(written)
    for i, canvas in enumerate([6, 1, 4]):
        alone = decode(
            logits[i : i + 1, :canvas],
            arcs[i : i + 1, :canvas, :canvas],
            canvas_lengths=lengths[i : i + 1],
            pad=PAD,
        )
        size = int(written[i])
        assert alone[1].tolist() == [size]
        assert torch.equal(alone[0][0], tokens[i, :size])
        assert torch.equal(alone[2][0], vertices[i, :size])
        assert set(tokens[i, size:].tolist()) <= {PAD}
        assert set(vertices[i, size:].tolist()) <= {-1}
        assert vertices[i, 0] == 0
        assert vertices[i, size - 1] == canvas - 1
        assert bool((vertices[i, :size].diff() > 0).all())


@pytest.mark.parametrize("decode", EVERY)
def test_an_empty_canvas_writes_nothing(decode):
    logits, arcs, _ = graph(0, [0, 3])

    tokens, written, vertices = decode(logits, arcs, canvas_lengths=torch.tensor([0, 3]), pad=PAD)
    blank = decode(logits, arcs, canvas_lengths=torch.tensor([0, 0]), pad=PAD)
    none = decode(
        torch.zeros(1, 0, VOCAB), torch.zeros(1, 0, 0), canvas_lengths=torch.tensor([0]), pad=PAD
    )

    assert written[0] == 0
    assert written[1] >= 2
    assert set(tokens[0].tolist()) == {PAD}
    assert set(vertices[0].tolist()) == {-1}
    assert blank[0].shape == blank[2].shape == (2, 0)
    assert none[0].shape == none[2].shape == (1, 0)


@pytest.mark.parametrize("decode", EVERY)
def test_half_precision_and_forbidden_tokens_break_nothing(decode):
    logits, arcs, lengths = graph(4, [6, 5])
    logits[..., 2] = -torch.inf

    tokens, written, _ = decode(logits.bfloat16(), arcs.float(), canvas_lengths=lengths, pad=PAD)

    assert bool((written >= 2).all())
    assert 2 not in tokens


@pytest.mark.parametrize("decode", [dag_viterbi, dag_beam])
def test_a_text_of_fewer_than_two_tokens_cannot_be_asked_for(decode):
    logits, arcs, lengths = graph(0, [6])

    with pytest.raises(ConfigError, match="max_length must be 2 or more, got 1"):
        decode(logits, arcs, canvas_lengths=lengths, pad=PAD, max_length=1)
