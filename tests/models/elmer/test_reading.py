"""A text ends at its first end token, and holds no pad, mask or BOS."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.elmer.small import BOS, EOS, MASK, PAD, config_of
from offramp.decoding.oneshot import PATHS, OneShot
from offramp.models.elmer.reading import forbid_, read, tempered, without_repeats

V = 8
TOKENS = {"vocab_size": V, "mask_token_id": V - 1, "d_model": 4, "dag_heads": 1}


def config(head="plain", **more):
    return config_of(**{**TOKENS, "output_head": head, **more})


def saying(tokens, *, gap=9.0, vocab=V):
    """Give scores that say these tokens."""
    return torch.nn.functional.one_hot(torch.tensor(tokens), vocab).float() * gap


def read_tokens(logits, lengths, kind, **how):
    reading = read(
        forbid_(logits, kind),
        torch.tensor(lengths),
        config=kind,
        settings=OneShot(**how),
        transitions=steps(logits, lengths) if kind.output_head == "dag" else None,
    )
    return [row[place >= 0].tolist() for row, place in zip(*halves(reading), strict=True)], reading


def halves(reading):
    return reading.tokens, reading.places


def steps(logits, lengths):
    """Let each place go to the next one, up to the last of its row."""
    size = logits.shape[1]
    arcs = torch.full((len(logits), size, size), -torch.inf)
    for row, length in enumerate(lengths):
        for place in range(length - 1):
            arcs[row, place, place + 1] = 0.0
    return arcs


def test_a_text_ends_with_its_first_end_token():
    texts, reading = read_tokens(saying([[3, EOS, 4, EOS], [5, 6, 3, 4]]), [4, 4], config())

    assert texts == [[3, EOS], [5, 6, 3, 4]]
    assert reading.tokens.tolist() == [[3, EOS, PAD, PAD], [5, 6, 3, 4]]
    assert reading.places.tolist() == [[0, 1, -1, -1], [0, 1, 2, 3]]
    assert reading.scores[0, 2:].tolist() == [0.0, 0.0]
    assert (reading.scores[reading.places >= 0] < 0).all()


def test_a_place_that_does_not_exist_is_not_read():
    assert read_tokens(saying([[3, 4, 5]]), [2], config())[0] == [[3, 4]]


@pytest.mark.parametrize("head", ["plain", "ctc", "dag"])
@given(seed=st.integers(0, 999), temperature=st.sampled_from([0.0, 1.0]))
def test_no_text_holds_pad_mask_or_bos_nor_anything_behind_its_end(head, seed, temperature):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 6, V, generator=generator) * 3
    lengths = [6, 4, 1]
    kind = config(head)
    arcs = steps(logits, lengths) if head == "dag" else None
    decoding = OneShot(temperature=temperature)
    logits = forbid_(logits, kind)

    reading = read(
        logits,
        torch.tensor(lengths),
        config=kind,
        settings=decoding,
        drawn=tempered(logits, decoding, generator),
        transitions=arcs,
    )

    there = reading.places >= 0
    said = reading.tokens[there].tolist()
    assert not {PAD, MASK, V - 1, BOS} & set(said)
    assert (reading.tokens[~there] == PAD).all()
    assert reading.scores.isfinite().all()
    for row, length in enumerate(lengths):
        text, places = reading.tokens[row][there[row]], reading.places[row][there[row]].tolist()
        assert EOS not in text[:-1].tolist()
        assert places == sorted(set(places))
        assert all(place < length for place in places)


@pytest.mark.parametrize("head", ["plain", "ctc"])
def test_a_bos_before_the_text_is_left_out_and_moves_nothing(head):
    """Tokenizers like BART's put it before every target, so that a model learns to say it."""
    logits = saying([[BOS, 3, 4, EOS]])

    texts, reading = read_tokens(logits, [4], config("plain"))

    assert texts == [[3, 4, EOS]]
    assert reading.places.tolist() == [[1, 2, 3]]


def test_a_bos_within_a_text_is_not_written():
    logits = saying([[3, BOS, EOS]]) + saying([[5, 6, 5]], gap=1.0)

    assert read_tokens(logits, [3], config())[0] == [[3, 6, EOS]]


def test_a_model_whose_bos_is_its_end_token_writes_texts_as_well():
    kind = config(bos_token_id=EOS)

    assert read_tokens(saying([[3, 4, EOS]]), [3], kind)[0] == [[3, 4, EOS]]


def test_ctc_merges_what_repeats_drops_blanks_and_ends_at_an_end_token():
    blank = V - 1
    kind = config("ctc")
    rows = [[3, 3, blank, 3, 4], [blank] * 5, [3, EOS, EOS, 4, 5]]

    texts, reading = read_tokens(saying(rows), [5, 5, 5], kind)

    assert texts == [[3, 3, 4], [], [3, EOS]]
    assert reading.places[0].tolist() == [0, 3, 4]


def test_a_path_begins_with_bos_which_is_not_written_whatever_the_first_place_says():
    """Not even an end token there may end the text, nor does the next one repeat it."""
    for first in (EOS, 3, BOS):
        texts, reading = read_tokens(
            saying([[first, 3, 4, EOS]]),
            [4],
            config("dag"),
            collapse_repeats=True,
            no_repeat_ngram=1,
        )

        assert texts == [[3, 4, EOS]]
        assert reading.places.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("path", PATHS)
def test_every_path_is_read(path):
    texts, _ = read_tokens(saying([[BOS, 3, EOS], [BOS, EOS, 5]]), [3, 2], config("dag"), path=path)

    assert texts == [[3, EOS], [EOS]]


@pytest.mark.parametrize("path", ["viterbi", "beam"])
def test_a_length_penalty_prefers_longer_texts(path):
    logits = saying([[BOS, 3, EOS]], gap=2.0)
    arcs = torch.tensor([[[0.0, 0.3, 0.7], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]]).log()
    size = torch.tensor([3])

    lengths = []
    for penalty in (0.0, 5.0):
        how = OneShot(path=path, length_penalty=penalty)
        scores = forbid_(logits.clone(), config("dag"))
        found = read(scores, size, config=config("dag"), settings=how, transitions=arcs)
        lengths.append(int((found.places >= 0).sum()))

    assert lengths == [1, 2]


def test_repeats_are_dropped_only_when_asked_for():
    logits = saying([[3, 3, 4, 3, 3, EOS]])

    assert read_tokens(logits.clone(), [6], config())[0] == [[3, 3, 4, 3, 3, EOS]]
    texts, reading = read_tokens(logits, [6], config(), collapse_repeats=True)
    assert texts == [[3, 4, 3, EOS]]
    assert reading.places.tolist() == [[0, 2, 3, 5]]


@given(seed=st.integers(0, 9999), size=st.integers(1, 3))
@settings(max_examples=60)
def test_no_row_of_tokens_is_written_twice(seed, size):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(1, 9, 4, generator=generator)

    (text,) = without_repeats(scores, size).tolist()

    rows = [tuple(text[start : start + size]) for start in range(len(text) - size + 1)]
    if size > 1:
        assert len(set(rows)) == len(rows) or fewer_ways_than_rows(rows, text, size)
    else:
        assert len(set(text[:4])) == 4


def fewer_ways_than_rows(rows, text, size):
    """Tell whether a repeat came only where every token would have repeated."""
    for place, row in enumerate(rows):
        if row in rows[:place]:
            known = {old[-1] for old in rows[:place] if old[:-1] == row[:-1]}
            if known != set(range(4)):
                return False
    return True


def test_without_repeats_takes_the_best_of_what_is_new():
    scores = torch.tensor([[[2.0, 1.0, 0.0]] * 3])

    assert without_repeats(scores, 1).tolist() == [[0, 1, 2]]
    assert without_repeats(scores, 2).tolist() == [[0, 0, 1]]


def test_where_nothing_new_is_left_the_likeliest_that_may_be_written_is():
    logits = saying([[3, 3, 3, 3, 3, 3]]) + torch.linspace(0, 1, V)

    texts, _ = read_tokens(logits, [6], config(), no_repeat_ngram=1)

    (text,) = texts
    assert text[:4] == [3, 6, 5, 4]  # then EOS, the last that is new
    assert text[4:] == [EOS]
    stubborn = logits.clone()
    stubborn[..., EOS] = -torch.inf
    (text,), _ = read_tokens(stubborn, [6], config(), no_repeat_ngram=1)
    assert text == [3, 6, 5, 4, 3, 3]


def test_scores_are_log_probabilities_of_what_may_be_written():
    logits = torch.zeros(1, 1, V)

    _, reading = read_tokens(logits, [1], config(bos_token_id=None))

    assert reading.scores[0, 0].exp().item() == pytest.approx(1 / (V - 2))  # all but pad and mask


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_from_the_tempered_distribution(temperature):
    """Chi-square with 4 degrees of freedom: above 18.5 one draw in a thousand."""
    logits = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0]).expand(1, 20_000, 5)
    generator = torch.Generator().manual_seed(0)

    drawn = tempered(logits, OneShot(temperature=temperature), generator).argmax(-1)

    found = drawn.flatten().bincount(minlength=5).double()
    wanted = (logits[0, 0].double() / temperature).softmax(-1) * 20_000
    assert ((found - wanted) ** 2 / wanted).sum() < 18.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_at_a_low_temperature_the_likeliest_token_is_drawn_in_any_precision(dtype):
    logits = torch.randn(4, 50, V, generator=torch.Generator().manual_seed(0)) * 8 + 8
    logits = logits.to(dtype)

    drawn = tempered(logits, OneShot(temperature=1e-4), torch.Generator().manual_seed(1))

    assert drawn.isfinite().all()
    ties = logits == logits.amax(-1, keepdim=True)  # half precision may have several
    assert ties.gather(-1, drawn.argmax(-1, keepdim=True)).all()


def test_what_must_not_be_written_is_not_drawn():
    logits = torch.zeros(1, 2000, V)
    kind = config()
    drawn = tempered(forbid_(logits, kind), OneShot(temperature=5.0), None).argmax(-1)[0]

    assert set(drawn[1:].tolist()) == {EOS, 3, 4, 5, 6}
