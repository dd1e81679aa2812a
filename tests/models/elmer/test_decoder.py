"""A position sees its whole canvas; leaving layers in training equals doing it by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.elmer.brute import climbed
from models.elmer.small import MASK, fresh, shared, sources
from offramp.errors import InputError
from offramp.models.elmer.canvas import blank_canvas, mask_of
from offramp.models.elmer.decoder import sight_of


def sighted(model, lengths=(7, 4, 1)):
    ids, mask = sources([5, 2, 3])
    lengths = torch.tensor(lengths)
    with torch.no_grad():
        sight = sight_of(model.encode(ids, mask), mask, mask_of(lengths))
        begun = model.model.decoder.begin(model.embed(blank_canvas(model.config, lengths)), sight)
    return begun, sight


@given(seed=st.integers(0, 999), count=st.integers(1, 6), number=st.integers(1, 4))
def test_running_some_positions_gives_what_running_all_gives(seed, count, number):
    model = shared()
    begun, sight = sighted(model)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.stack([torch.randperm(7, generator=generator)[:count] for _ in range(3)])
    decoder = model.model.decoder

    with torch.no_grad():
        all_states = decoder(begun, sight)
        some = all_states[number - 1].gather(1, chosen[..., None].expand(-1, -1, 16))
        found = decoder.run_some(number, some, all_states[number - 1], sight)

    wanted = all_states[number].gather(1, chosen[..., None].expand(-1, -1, 16))
    there = sight.canvas.gather(1, chosen)
    assert torch.allclose(found[there], wanted[there], atol=1e-9)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("loaded", [False, True])
def test_the_last_place_of_a_canvas_reaches_the_first(tmp_path, attention, padded, loaded):
    model = fresh(attn_implementation=attention)
    if loaded:
        model.save_pretrained(tmp_path)
        model = (
            type(model)
            .from_pretrained(tmp_path, attn_implementation=attention, dtype=torch.float64)
            .eval()
        )
    ids, mask = sources([5, 2])
    canvas = torch.full((2, 6), MASK)
    changed = canvas.clone()
    changed[:, 3 if padded else 5] = 7
    places = torch.ones_like(canvas)
    places[:, 4:] = 0 if padded else 1

    def first_place(tokens):
        with torch.no_grad():
            return model(ids, mask, tokens, places).logits[:, 0]

    assert model.config._attn_implementation == attention
    assert ((first_place(changed) - first_place(canvas)).abs().amax(-1) > 1e-4).all()


def test_what_is_no_place_of_a_canvas_reaches_nothing():
    model, (ids, mask) = shared(), sources([5, 2])
    canvas = torch.full((2, 6), MASK)
    places = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    changed = canvas.clone()
    changed[1, 4:] = 7

    with torch.no_grad():
        before = model(ids, mask, canvas, places).logits
        after = model(ids, mask, changed, places).logits

    assert torch.equal(before[0], after[0])
    assert torch.allclose(before[1, :4], after[1, :4], atol=1e-12)


@pytest.mark.parametrize("soft", [False, True])
@settings(max_examples=12)
@given(seed=st.integers(0, 999))
def test_exits_in_training_equal_brute_force(soft, seed):
    model = shared(soft_exit=soft)
    lengths, canvases = (7, 4, 1), (7, 6, 9)
    ids, mask = sources([5, 2, 3])
    labels = torch.full((3, 7), 5).masked_fill(~mask_of(torch.tensor(lengths)), -100)
    generator = torch.Generator().manual_seed(seed)
    exits = torch.randint(1, 5, (3, 9), generator=generator)
    exits *= mask_of(torch.tensor(canvases))

    with torch.no_grad():
        output = model(ids, mask, labels=labels, exits=exits)
        logits = output.logits

    assert output.canvas_lengths.tolist() == list(canvases)
    for row, (source, places) in enumerate(zip((5, 2, 3), canvases, strict=True)):

        def leave(exit, *_, row=row, places=places):
            return exits[row, :places] == exit

        canvas = torch.full((places,), MASK)
        with torch.no_grad():
            states, _ = climbed(model, ids[row, :source], canvas, leave)
        assert torch.allclose(logits[row, :places], model.score(states), atol=1e-9)


def test_no_gradient_reaches_a_state_through_its_copies():
    model = fresh()
    ids, _ = sources([5])
    exits = torch.tensor([1, 4, 2, 4, 3, 1])
    labels = torch.tensor([[7, 8, 9, 10, 11, 2]])
    leave = lambda exit, *_: exits == exit  # noqa: E731
    names = ["layers.0.fc1.weight", "layers.1.self_attn.k_proj.weight", "embed_positions.weight"]

    def gradients(loss):
        model.zero_grad()
        loss.backward()
        known = dict(model.model.decoder.named_parameters())
        return torch.cat([known[name].grad.flatten() for name in names])

    def by_hand(detach):
        states, _ = climbed(model, ids[0], torch.full((6,), MASK), leave, detach=detach)
        return torch.nn.functional.cross_entropy(model.score(states).float(), labels[0])

    found = gradients(model(ids, labels=labels, exits=exits[None]).loss)

    assert torch.allclose(found, gradients(by_hand(detach=True)), atol=1e-6)
    assert not torch.allclose(found, gradients(by_hand(detach=False)), atol=1e-3)


def test_a_canvas_with_more_places_than_the_model_knows_is_refused():
    with pytest.raises(InputError, match="a canvas has 33 places, this model knows 32"):
        shared()(sources([3])[0], decoder_input_ids=torch.full((1, 33), MASK))
