"""A canvas knows its source only; in training nothing of its size tells the target's length."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.elmer.small import BOS, EOS, MASK, PLACES, config_of
from offramp.errors import InputError
from offramp.models.elmer.canvas import (
    blank_canvas,
    drawn_sizes,
    fitted,
    laid_exits,
    measured_sizes,
    places_of,
    source_sizes,
    spread_over,
    told_sizes,
)

numbers = st.lists(st.integers(1, 40), min_size=1, max_size=5)


@given(numbers, st.sampled_from([0.0, 0.5, 1.0, 2.5]), st.integers(0, 9))
def test_a_canvas_has_ratio_times_source_plus_extra_places_of_those_that_there_are(
    lengths, ratio, extra
):
    config = config_of(canvas_ratio=ratio, canvas_extra=extra or 1)

    sizes = source_sizes(config, torch.tensor(lengths)).tolist()

    wanted = [-int(-length * ratio // 1) + (extra or 1) for length in lengths]
    assert sizes == [min(max(size, 1), PLACES) for size in wanted]


def test_a_training_canvas_is_any_from_the_target_s_to_the_source_s_length_equally_often():
    config = config_of(canvas_ratio=1.0, canvas_extra=3)
    torch.manual_seed(0)
    rows = torch.ones(4000, dtype=torch.long)

    sizes = drawn_sizes(config, rows * 6, rows * 5)  # 5 to 9

    shares = sizes.bincount(minlength=10)[5:] / len(rows)
    assert sizes.min() == 5
    assert sizes.max() == 9
    assert torch.allclose(shares, torch.full((5,), 0.2), atol=0.03)


def test_a_target_longer_than_its_source_allows_gets_just_its_own_length():
    config = config_of(canvas_ratio=1.0, canvas_extra=0)

    assert drawn_sizes(config, torch.tensor([3]), torch.tensor([7])).tolist() == [7]


def test_without_slack_all_get_the_longest_target_s_length_as_published():
    config = config_of(canvas_slack=False)

    assert drawn_sizes(config, torch.tensor([9, 9]), torch.tensor([2, 5])).tolist() == [5, 5]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_a_held_out_loss_is_measured_on_the_canvas_of_a_text(lengths):
    sources, longer = torch.tensor(lengths), torch.tensor(lengths) + 9
    config = config_of(canvas_ratio=1.0, canvas_extra=3)

    assert torch.equal(measured_sizes(config, sources, sources), source_sizes(config, sources))
    assert torch.equal(measured_sizes(config, sources, longer).minimum(longer), longer)
    for more in ({"length_predictor": True}, {"canvas_slack": False}):
        assert torch.equal(measured_sizes(config_of(**more), sources, longer), longer)


def test_canvases_are_masks_behind_the_start_that_the_configuration_names():
    plain = blank_canvas(config_of(), torch.tensor([2, 3]))
    published = blank_canvas(config_of(canvas_start_token_id=BOS), torch.tensor([2]))

    assert plain.tolist() == [[MASK] * 3] * 2
    assert published.tolist() == [[BOS, MASK]]


def test_labels_are_never_laid_where_there_is_no_place():
    labels = torch.tensor([[5, 6, EOS], [7, EOS, -100]])
    places = torch.tensor([[True, True, False, False], [True, True, True, True]])

    assert fitted(labels, places, EOS).tolist() == [[5, 6, -100, -100], [7, EOS, EOS, EOS]]


def test_a_mask_with_gaps_or_of_another_size_is_refused():
    canvas = torch.full((1, 3), MASK)

    assert places_of(canvas, torch.tensor([[1, 1, 0]])).tolist() == [[True, True, False]]
    for mask in ([[1, 0, 1]], [[0, 1, 1]], [[1, 1]]):
        with pytest.raises(InputError, match="decoder_attention_mask must mark the first places"):
            places_of(canvas, torch.tensor(mask))


def test_exits_that_there_are_not_are_refused_and_places_without_one_leave_at_the_last():
    labels = torch.tensor([[5, -100]])
    places = torch.ones(1, 3, dtype=torch.bool)

    assert laid_exits(torch.tensor([[4, 2]]), labels, places, depth=4).tolist() == [[4, 2, 4]]
    assert laid_exits(torch.tensor([[1, 0, 3, 2]]), labels, places, depth=4).tolist() == [[1, 4, 3]]
    for exits in ([0, 1], [5, 1], [1, 5], [1, -1], [0]):
        wrong = next(each for each in exits if each != 1)
        with pytest.raises(InputError, match=f"exits must be from 1 to 4, got {wrong}"):
            laid_exits(torch.tensor([exits]), labels, places, depth=4)


def test_a_target_token_without_an_exit_is_refused():
    labels, places = torch.tensor([[5, 2]]), torch.ones(1, 2, dtype=torch.bool)

    with pytest.raises(InputError, match="exits must be from 1 to 4, got 0"):
        laid_exits(torch.tensor([[3]]), labels, places, depth=4)


def test_a_canvas_has_a_place_for_each_exit_or_without_slack_for_the_target_alone():
    exits, targets = (
        torch.tensor([[1, 4, 2, 0], [3, 2, 1, 1], [4, 0, 0, 0]]),
        torch.tensor([2, 4, 3]),
    )

    assert told_sizes(config_of(), exits, targets).tolist() == [3, 4, 3]
    assert told_sizes(config_of(canvas_slack=False), exits, targets).tolist() == [2, 4, 3]


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=3),
    st.integers(1, 12),
    st.sampled_from(["right", "left"]),
)
def test_a_source_is_laid_over_its_canvas_in_order_whatever_its_padding(lengths, size, side):
    states, mask = torch.full((len(lengths), 7, 1), -1.0), torch.zeros(len(lengths), 7, dtype=bool)
    for row, length in enumerate(lengths):
        there = slice(0, length) if side == "right" else slice(7 - length, 7)
        states[row, there, 0], mask[row, there] = torch.arange(float(length)), True
    places = torch.ones(len(lengths), size, dtype=torch.bool)

    laid = spread_over(states, mask, places)[..., 0]

    for row, length in enumerate(lengths):
        assert laid[row].tolist() == [at * length // size for at in range(size)]
        short = places.clone()
        short[:, (size + 1) // 2 :] = False
        own = (size + 1) // 2
        found = spread_over(states, mask, short)[row, :own, 0]
        assert found.tolist() == [at * length // own for at in range(own)]
