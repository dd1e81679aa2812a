"""Many thresholds at once are a walk through the exits, token by token."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offramp.errors import ConfigError, InputError
from offramp.evaluation.replay import Ladder, Recorded, replay, threshold_grid

EXITS, DEPTH = (2, 5, 9), 12


def recorded(generator, tokens):
    # tenths, so that confidences equal thresholds now and then
    tenths = torch.randint(11, (tokens, len(EXITS)), generator=generator) / 10
    return Recorded(tenths, torch.rand(tokens, len(EXITS), generator=generator) < 0.6)


def walk(text, ladder, thresholds):
    """Count the tokens that change and the blocks that run."""
    changed = blocks = 0
    for confidence, agrees in zip(text.confidence.tolist(), text.agrees.tolist(), strict=True):
        rungs = zip(ladder.exits, confidence, agrees, thresholds.tolist(), strict=True)
        for exit, sure, right, threshold in rungs:
            if exit >= ladder.min_exit and sure > threshold:
                changed, blocks = changed + (not right), blocks + exit
                break
        else:
            blocks += ladder.depth
    return changed, blocks


@given(
    seed=st.integers(0, 10**6),
    lengths=st.lists(st.integers(1, 8), min_size=1, max_size=4),
    min_exit=st.integers(0, 9),
    offsets=st.none() | st.tuples(*[st.floats(-2, 2)] * 3),
)
def test_a_replay_is_a_walk_token_by_token(seed, lengths, min_exit, offsets):
    generator = torch.Generator().manual_seed(seed)
    texts = [recorded(generator, tokens) for tokens in lengths]
    ladder = Ladder(exits=EXITS, depth=DEPTH, min_exit=min_exit, offsets=offsets)
    knobs = torch.tensor([1.0, 0.9, 0.5, 0.3, 0.0])

    played = replay(texts, ladder=ladder, thresholds=knobs)

    for row, thresholds in enumerate(ladder.thresholds(knobs)):
        walked = [walk(text, ladder, thresholds) for text in texts]
        assert played.changed[row].tolist() == [changed for changed, _ in walked]
        mean = sum(blocks for _, blocks in walked) / sum(lengths)
        assert played.blocks[row].item() == pytest.approx(mean, abs=1e-12)
    assert played.tokens.tolist() == lengths
    assert played.losses[:, 0].tolist() == (played.changed[:, 0] / lengths[0]).tolist()


def test_at_threshold_1_nobody_leaves_and_at_0_everybody_who_is_a_little_sure():
    text = Recorded(torch.tensor([[1.0], [1e-30], [0.0]]), torch.zeros(3, 1, dtype=torch.bool))

    played = replay([text], ladder=Ladder(exits=(6,), depth=24))

    assert played.changed[0].item() == 0
    assert played.blocks[0] == 24
    assert played.changed[-1].item() == 2
    assert played.blocks[-1] == 12


def test_bolder_thresholds_never_run_more_blocks():
    texts = [recorded(torch.Generator().manual_seed(seed), 20) for seed in range(5)]

    played = replay(texts, ladder=Ladder(exits=EXITS, depth=DEPTH))

    assert (played.blocks.diff() <= 0).all()
    assert (played.saved.diff() >= 0).all()


def test_what_is_saved_at_an_agreement_is_the_most_that_any_threshold_saves():
    confidence = torch.tensor([[0.9]] * 8 + [[0.5]] + [[0.1]])
    agrees = torch.tensor([[True]] * 8 + [[False]] + [[True]])
    played = replay([Recorded(confidence, agrees)], ladder=Ladder(exits=(6,), depth=12))

    saved = [played.saved_at(agreement) for agreement in (1.0, 0.95, 0.9, 0.0)]

    assert saved == pytest.approx([0.4, 0.4, 0.5, 0.5])


def test_one_threshold_for_all_is_the_knob_to_the_last_bit():
    knobs = threshold_grid()

    shared = Ladder(exits=EXITS, depth=DEPTH).thresholds(knobs)
    level = Ladder(exits=EXITS, depth=DEPTH, offsets=(0.0, 0.0, 0.0)).thresholds(knobs)

    assert torch.equal(shared, knobs[:, None].expand(-1, 3))
    torch.testing.assert_close(level, shared, rtol=2e-7, atol=0)


def test_a_positive_offset_asks_an_exit_to_be_surer():
    thresholds = Ladder(exits=EXITS, depth=DEPTH, offsets=(2.0, 0.0, -2.0)).thresholds(
        torch.tensor([1.0, 0.5, 0.0])
    )

    assert thresholds[0].tolist() == [1, 1, 1]
    assert thresholds[1].tolist() == pytest.approx([0.880797, 0.5, 0.119203], abs=1e-6)
    assert thresholds[2].tolist() == [0, 0, 0]


@pytest.mark.parametrize("like", [None, torch.rand(50, 3), torch.zeros(4), torch.zeros(0)])
def test_a_grid_goes_down_from_never_to_at_once(like):
    grid = threshold_grid(20, like=like)

    assert grid[0] == 1
    assert grid[-1] == 0
    assert (grid.diff() < 0).all()


def test_the_fixed_grid_has_no_gap_wider_than_it_says():
    grid = threshold_grid().double()[1:-1]

    assert len(grid) > 150
    inner = grid[grid < 0.9999]
    assert inner.logit().diff().abs().max() < 0.12


def test_a_grid_like_other_texts_is_fine_where_their_confidences_crowd():
    crowded = 0.5 + torch.rand(1000, generator=torch.Generator().manual_seed(0)) / 1000

    fixed, like = threshold_grid(), threshold_grid(like=crowded)

    assert ((fixed > 0.5) & (fixed < 0.501)).sum() <= 1
    assert ((like > 0.5) & (like < 0.501)).sum() > 190


GOOD = Recorded(torch.rand(2, 3), torch.ones(2, 3, dtype=torch.bool))


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([], "there is no text"),
        ([GOOD, Recorded(GOOD.confidence[:0], GOOD.agrees[:0])], "text 1 has confidences"),
        ([Recorded(GOOD.confidence[:, :2], GOOD.agrees[:, :2])], r"\[tokens, 3\]"),
        ([Recorded(GOOD.confidence, GOOD.agrees[:1])], "text 0 has confidences"),
        ([Recorded(GOOD.confidence, GOOD.agrees.float())], "make them bool"),
        ([Recorded(GOOD.confidence * math.nan, GOOD.agrees)], "got nan in text 0"),
        ([Recorded(GOOD.confidence + 3, GOOD.agrees)], "from 0 to 1, got 3"),
    ],
)
def test_an_unusable_record_is_refused(texts, said):
    with pytest.raises(InputError, match=said):
        replay(texts, ladder=Ladder(exits=EXITS, depth=DEPTH))


@pytest.mark.parametrize("knobs", [[0.5, 0.9], [1.5, 0.5], [math.nan], []])
def test_thresholds_that_do_not_go_down_are_refused(knobs):
    with pytest.raises(ConfigError, match="thresholds must go down"):
        replay([GOOD], ladder=Ladder(exits=EXITS, depth=DEPTH), thresholds=torch.tensor(knobs))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"exits": ()}, "exits must ascend"),
        ({"exits": (5, 2, 9)}, "exits must ascend"),
        ({"exits": (2, 5, 12)}, "exits must ascend"),
        ({"min_exit": 10}, "leaves no exit"),
        ({"offsets": (1.0,)}, "got 1 offsets for 3 exits"),
        ({"offsets": (1.0, math.inf, 0.0)}, "must be finite"),
    ],
)
def test_an_impossible_ladder_is_refused(wrong, said):
    with pytest.raises(ConfigError, match=said):
        Ladder(**({"exits": EXITS, "depth": DEPTH} | wrong))


def test_a_grid_of_too_few_steps_or_of_what_is_no_confidence_is_refused():
    with pytest.raises(ConfigError, match="3 steps or more, got 2"):
        threshold_grid(2)
    with pytest.raises(InputError, match="got 7 in the grid"):
        threshold_grid(like=torch.tensor([7.0]))
