from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offramp.errors import ConfigError
from offramp.logits.dag import dag_align, dag_loss, dag_transitions
from offramp.logits.dag_beam import dag_beam
from offramp.logits.dag_decode import dag_viterbi
from offramp.logits.labels import NO_LABEL

VOCAB, PAD = 3, 9


def graph(seed: int, canvas: int, spread: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    kind = {"generator": made, "dtype": torch.float64}
    logits = spread * torch.randn(1, canvas, VOCAB, **kind)
    raw = spread * torch.randn(1, canvas, canvas, **kind)
    return logits, dag_transitions(raw, torch.tensor([canvas]))


def rated(texts: list[list[int]], logits, arcs, penalty: float) -> torch.Tensor:
    """Each text's log-probability over all its paths, for its length."""
    count, canvas = len(texts), logits.shape[1]
    longest = max(len(text) for text in texts)
    labels = torch.tensor([text + [NO_LABEL] * (longest - len(text)) for text in texts])
    logits, arcs = logits.expand(count, -1, -1), arcs.expand(count, -1, -1)
    loss = dag_loss(logits, arcs, labels, canvas_lengths=torch.full((count,), canvas))
    return -loss / torch.tensor([len(text) for text in texts]) ** penalty


@given(
    canvas=st.integers(1, 5),
    seed=st.integers(0, 10**6),
    penalty=st.sampled_from([-1.0, 0.0, 1.0, 2.0]),
    most=st.sampled_from([None, 3]),
)
def test_a_wide_beam_finds_the_best_of_all_texts(canvas, seed, penalty, most):
    logits, arcs = graph(seed, canvas)

    tokens, written, vertices = dag_beam(
        logits,
        arcs,
        canvas_lengths=torch.tensor([canvas]),
        pad=PAD,
        num_beams=VOCAB**canvas,
        length_penalty=penalty,
        max_length=most,
    )

    sizes = range(1, min(canvas, most or canvas) + 1)
    every = [list(text) for size in sizes for text in product(range(VOCAB), repeat=size)]
    best = rated(every, logits, arcs, penalty).max()
    assert written.tolist() == [tokens.shape[1]]
    assert torch.isclose(rated(tokens.tolist(), logits, arcs, penalty)[0], best)
    aligned = dag_align(logits, arcs, tokens, canvas_lengths=torch.tensor([canvas]))
    assert torch.equal(vertices, aligned)


def test_the_beam_adds_up_paths_where_viterbi_sees_only_the_best():
    """Text 1-1 has one path of 0.3; text 1-0-1 has two, of 0.35 x 0.6 each: together more."""
    arcs = torch.zeros(1, 4, 4)
    arcs[0, 0] = torch.tensor([0.0, 0.35, 0.35, 0.3])
    arcs[0, 1:3, 3] = 1.0
    said = torch.tensor([[0.0, 1.0, 0.0], [0.6, 0.0, 0.4], [0.6, 0.0, 0.4], [0.0, 1.0, 0.0]])
    size = {"canvas_lengths": torch.tensor([4]), "pad": PAD, "length_penalty": 0.0}

    beam, _, _ = dag_beam(said.log()[None], arcs.log(), **size)
    viterbi, _, _ = dag_viterbi(said.log()[None], arcs.log(), **size)

    assert beam.tolist() == [[1, 0, 1]]
    assert viterbi.tolist() == [[1, 1]]


def test_a_start_is_worth_only_what_can_go_on_and_a_longer_text_may_still_win():
    """The jump 0-3 has 0.6, the chain 0-1-2-3 has 0.4: worse, but not for each of four tokens."""
    arcs = torch.zeros(1, 4, 4)
    arcs[0, 0] = torch.tensor([0.0, 0.4, 0.0, 0.6])
    arcs[0, 1, 2] = arcs[0, 2, 3] = 1.0
    size = {"canvas_lengths": torch.tensor([4]), "pad": PAD, "num_beams": 1}

    tokens, _, _ = dag_beam(torch.eye(4).log()[None], arcs.log(), **size)
    short, _, _ = dag_beam(torch.eye(4).log()[None], arcs.log(), length_penalty=0.0, **size)

    assert tokens.tolist() == [[0, 1, 2, 3]]
    assert short.tolist() == [[0, 3]]


def test_starts_compete_with_all_their_probability():
    """Of 0-2 (0.54), 0-3 (0.36) and 1-2 (0.06) the second wins in the end and must be kept."""
    arcs = torch.zeros(1, 5, 5)
    arcs[0, 0] = torch.tensor([0.0, 0.6, 0.4, 0.0, 0.0])
    arcs[0, 1, 3] = arcs[0, 2, 4] = arcs[0, 3, 4] = 1.0
    said = torch.tensor(
        [[0.9, 0.1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0.25, 0.25, 0.25, 0.25], [1, 0, 0, 0]]
    )
    size = {"canvas_lengths": torch.tensor([5]), "pad": PAD, "length_penalty": 0.0}

    tokens, _, vertices = dag_beam(said.log()[None], arcs.log(), num_beams=2, **size)

    assert tokens.tolist() == [[0, 3, 0]]
    assert vertices.tolist() == [[0, 2, 4]]


@pytest.mark.parametrize("spread", [1.0, 100.0])
def test_a_long_canvas_in_float32_gives_a_possible_text(spread):
    logits, arcs = graph(1, 120, spread)
    size = {"canvas_lengths": torch.tensor([120])}

    tokens, _, _ = dag_beam(logits.float(), arcs.float(), pad=PAD, **size)

    assert dag_loss(logits, arcs, tokens, **size).isfinite().all()


def test_no_beam_is_refused():
    logits, arcs = graph(0, 3)

    with pytest.raises(ConfigError, match="num_beams must be 1 or more, got 0"):
        dag_beam(logits, arcs, canvas_lengths=torch.tensor([3]), pad=PAD, num_beams=0)
