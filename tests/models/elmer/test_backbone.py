"""Without a head the states are the same, and padding is nothing wherever it is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel

from models.elmer.small import shared, sources
from offramp.errors import InputError
from offramp.models.elmer import ElmerModel


@pytest.mark.parametrize("given_canvas", [False, True])
def test_its_states_are_those_of_the_model_with_a_head(tmp_path, given_canvas):
    model, (ids, mask) = shared(), sources([5, 2])
    model.save_pretrained(tmp_path)
    backbone = AutoModel.from_pretrained(tmp_path, dtype=torch.float64)
    canvas = torch.full((2, 4), 39) if given_canvas else None

    with torch.no_grad():
        found = backbone(ids, mask, decoder_input_ids=canvas)
        wanted = model(ids, mask, decoder_input_ids=canvas)

    assert type(backbone) is ElmerModel
    for one, other in (
        (found.last_hidden_state, wanted.decoder_hidden_states[-1]),
        (found.encoder_last_hidden_state, wanted.encoder_last_hidden_state),
    ):  # weights that lie elsewhere in memory give other last bits on some processors
        assert torch.allclose(one, other, atol=1e-12)


@settings(max_examples=12)
@given(lengths=st.lists(st.integers(1, 6), min_size=2, max_size=4), seed=st.integers(0, 99))
def test_where_the_padding_is_changes_nothing(lengths, seed):
    model = shared()
    right, left = (sources(lengths, seed=seed, side=side) for side in ("right", "left"))

    with torch.no_grad():
        one, other = (model(ids, mask) for ids, mask in (right, left))

    assert torch.allclose(one.logits, other.logits, atol=1e-9)
    for (_, mask), output in ((right, one), (left, other)):
        alone = [
            model(sources(lengths, seed=seed)[0][row : row + 1, :length])
            for row, length in enumerate(lengths)
        ]
        for row, single in enumerate(alone):
            states = output.encoder_last_hidden_state[row][mask[row] > 0]
            assert torch.allclose(states, single.encoder_last_hidden_state[0], atol=1e-9)


def test_a_source_longer_than_the_model_knows_or_no_source_is_refused():
    model = shared()

    with pytest.raises(InputError, match="a source has 33 tokens, this model knows 32"):
        model(torch.full((1, 33), 5))
    for nothing in (torch.empty(0, 3), torch.empty(2, 0)):
        with pytest.raises(InputError, match="no sources were given"):
            model(nothing.long())


def test_a_mask_of_another_shape_is_refused():
    ids, mask = sources([5, 2])

    with pytest.raises(InputError, match=r"shape of input_ids, \[2, 5\], got \[2, 3\]"):
        shared()(ids, mask[:, :3])
