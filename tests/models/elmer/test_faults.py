"""None of the faults of the published code is here: a test for each that a model can have.

Others are those of a clock (3, tests/evaluation/test_pace.py) and of trainings (8,
tests/training/test_pretraining.py and test_finetuning.py; 9, tests/training/test_pretraining.py).
"""

import inspect

import pytest
import torch
from transformers import BartForConditionalGeneration
from transformers.utils import ModelOutput

from models.elmer.small import EOS, HEADS, MASK, PAD, RULES, fresh, shared, sources, targets
from offramp.decoding.oneshot import OneShot

IDS, MASKS = sources([5, 2])


def test_1_no_canvas_knows_its_reference_s_length():
    model = shared()
    short, long = (
        model.generate(IDS, MASKS, labels=targets(lengths), return_dict_in_generate=True)
        for lengths in ([1, 1], [9, 9])
    )

    assert torch.equal(short.canvas_lengths, long.canvas_lengths)
    assert torch.equal(short.sequences, long.sequences)


def test_1_in_training_a_canvas_may_be_longer_than_its_reference():
    model = fresh().train()
    torch.manual_seed(0)

    sizes = [model(IDS, MASKS, labels=targets([2, 2])).canvas_lengths.tolist() for _ in range(20)]

    assert len({size for pair in sizes for size in pair}) > 5
    assert all(2 <= one <= 13 and 2 <= other <= 10 for one, other in sizes)


def test_1_in_layer_permutation_the_end_is_learned_at_all_places_behind_it_too():
    model = fresh().train()
    exits = torch.tensor([[2, 4, 1, 3, 1, 0], [1, 3, 4, 2, 2, 1]])
    labels = targets([3, 2])

    output = model(IDS, MASKS, labels=labels, exits=exits)

    assert output.canvas_lengths.tolist() == [5, 6]
    logs, nats = output.logits.log_softmax(-1), []
    for row, length in enumerate((3, 2)):
        text = labels[row, : length - 1].tolist()
        nats += [-logs[row, place, token] for place, token in enumerate(text)]
        nats.append(-logs[row, length - 1 : [5, 6][row], EOS].mean())
    assert torch.allclose(output.loss, torch.stack(nats).sum().float() / 5, atol=1e-5)


def test_2_words_that_repeat_are_dropped_by_a_switch_alone():
    model = fresh()
    with torch.no_grad():
        model.final_logits_bias[:, 7] = 50.0

    plain = model.generate(IDS, MASKS)
    dropped = model.generate(IDS, MASKS, decoding=OneShot(collapse_repeats=True))

    assert (plain[0] == 7).sum() > 5
    assert dropped.tolist() == [[7], [7]]


def test_4_positions_leave_for_good_when_they_are_sure():
    output = shared().generate(
        *sources([5, 2, 6]),
        decoding=OneShot(exit_rule="entropy", threshold=RULES["entropy"]),
        return_dict_in_generate=True,
    )

    assert output.layers[0] > output.layers[-1]
    assert len(set(output.exits[output.exits > 0].tolist())) > 1


def test_5_layer_permutation_runs_and_learns():
    model = fresh().train()
    labels = targets([4, 3])
    exits = torch.randint(1, 5, labels.shape, generator=torch.Generator().manual_seed(0))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = model(IDS, MASKS, labels=labels, exits=exits).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))

    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("head", HEADS)
def test_6_and_7_forward_gives_one_output_that_a_trainer_can_read(head):
    model = shared(**HEADS[head])

    output = model(IDS, MASKS, labels=targets([4, 3]))
    pair = model(IDS, MASKS, labels=targets([4, 3]), return_dict=False)

    assert isinstance(output, ModelOutput)
    assert torch.equal(output["loss"], output[0])
    assert isinstance(pair, tuple)
    assert torch.equal(pair[0], output.loss)
    assert "num_items_in_batch" in inspect.signature(model.forward).parameters


def test_10_what_is_behind_a_canvas_is_not_seen():
    model = shared()
    canvas = torch.full((2, 6), MASK)
    places = torch.tensor([[1] * 4 + [0] * 2, [1] * 6])

    padded = model(IDS, MASKS, canvas, places).logits[0, :4]
    alone = model(IDS[:1], MASKS[:1], canvas[:1, :4]).logits[0]
    seen = model(IDS, MASKS, canvas).logits[0, :4]

    assert torch.allclose(padded, alone, atol=1e-9)
    assert not torch.allclose(seen, alone, atol=1e-3)


def test_11_nothing_of_transformers_is_overwritten():
    """BART stays BART: a causal decoder, though ours is made of its parts."""
    shared()
    torch.manual_seed(0)
    kept = ("vocab_size", "d_model", "encoder_layers", "decoder_layers", "decoder_ffn_dim")
    sizes = {name: getattr(shared().config, name) for name in kept}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24}
    bart = BartForConditionalGeneration(BartForConditionalGeneration.config_class(**sizes, **heads))
    changed = torch.tensor([[5, 6, 7], [5, 6, 8]])

    with torch.no_grad():
        one, other = bart.eval()(input_ids=IDS, decoder_input_ids=changed).logits
        one = bart(input_ids=IDS[:1], decoder_input_ids=changed[:1]).logits[0]
        other = bart(input_ids=IDS[:1], decoder_input_ids=changed[1:]).logits[0]

    assert torch.allclose(one[:2], other[:2], atol=1e-6)
    assert not torch.allclose(one[2], other[2], atol=1e-4)


def test_12_bart_s_class_refuses_the_weights(tmp_path):
    shared().save_pretrained(tmp_path)

    with pytest.raises(Exception, match="ElmerForConditionalGeneration"):
        BartForConditionalGeneration.from_pretrained(tmp_path)


def test_13_it_writes_by_generate_like_any_model_of_transformers():
    ids = shared().generate(input_ids=IDS, attention_mask=MASKS, max_new_tokens=5)

    assert ids.dtype == torch.long
    assert ids.shape[0] == 2
    assert ids.shape[1] <= 5
    assert not (ids == MASK).any()
    for row in ids.tolist():
        behind = row[row.index(EOS) + 1 :] if EOS in row else []
        assert set(behind) <= {PAD}
