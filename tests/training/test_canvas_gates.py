"""Gates of ELMER models: what they learn, where they let places leave, what they leave alone."""

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration

from offramp.decoding.oneshot import OneShot
from offramp.errors import ConfigError, InputError
from offramp.models.elmer import ElmerForConditionalGeneration
from offramp.models.elmer.canvas import blank_canvas, mask_of, source_sizes
from offramp.models.elmer.decoder import sight_of
from offramp.models.elmer.leaving import climb
from offramp.training.canvas_gates import CanvasGateSettings, look, train_canvas_gates
from offramp.training.pairs import Pair
from small_seq2seq import elmer_of

HEADS = {
    "plain": {},
    "ctc": {"output_head": "ctc", "canvas_ratio": 2.0},
    "dag": {"output_head": "dag", "canvas_ratio": 2.0},
    "soft": {"soft_exit": True},
    "predicted": {"length_predictor": True},
}
CHANGE = 0.05
"""Of what random layers change."""


def words(count, *, seed):
    generator = torch.Generator().manual_seed(seed)
    letters = torch.randint(97, 123, (count, 9), generator=generator)
    lengths = torch.randint(1, 10, (count,), generator=generator)
    return ["".join(map(chr, row[:n])) for row, n in zip(letters.tolist(), lengths, strict=True)]


def pairs(count, *, seed, target="x"):
    return [Pair(word, (target,)) for word in words(count, seed=seed)]


def model_of(tokenizer, head="plain", **more):
    """Build a model whose later layers change some answers, and not all."""
    sizes = {"vocab_size": len(tokenizer) + 1, "max_position_embeddings": 64}
    model = elmer_of(**sizes, **{**HEADS[head], **more})
    later = model.model.decoder.layers[1:]
    with torch.no_grad():
        for layer in later:
            for part in (layer.self_attn.out_proj, layer.encoder_attn.out_proj, layer.fc2):
                part.weight.mul_(CHANGE)
                part.bias.mul_(CHANGE)
        for layer in model.model.decoder.layers:
            for name, parameter in layer.named_parameters():
                if "norm.bias" in name:
                    parameter.zero_()
        if model.config.soft_exit:
            state, token = model.concat_head.weight.chunk(2, dim=1)
            state.copy_(torch.eye(len(state)))
            token.mul_(CHANGE)
    return model


def sometimes_settled(tokenizer, head="plain"):
    """Build a model whose second layer pulls states on one side of a plane to one token.

    It looks nowhere else, so that what it does can be told from a place's own state.
    """
    model = model_of(tokenizer, head, decoder_layers=2)
    layer = model.model.decoder.layers[1]
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for part in (layer.self_attn.out_proj, layer.encoder_attn.out_proj, layer.fc1, layer.fc2):
            part.weight.zero_()
            part.bias.zero_()
        layer.fc1.weight[0] = 20.0 * torch.randn(layer.fc1.in_features, generator=generator)
        layer.fc2.weight[:, 0] = 20.0 * model.lm_head.weight[77]
    return model


def inputs_of(tokenizer, texts):
    made = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    return made["input_ids"], made["attention_mask"]


def left_by(model, ids, mask, decoding):
    """Give the exit of every place of the canvas."""
    lengths = source_sizes(model.config, mask.sum(-1))
    with torch.inference_mode():
        sight = sight_of(model.encode(ids, mask), mask, mask_of(lengths))
        return climb(model, blank_canvas(model.config, lengths), sight, decoding).exits


@pytest.mark.parametrize("head", HEADS)
def test_nothing_but_the_gates_changes(byte_tokenizer, head):
    model = model_of(byte_tokenizer, head).train()
    before = {name: each.clone() for name, each in model.state_dict().items()}

    reports = train_canvas_gates(
        model, byte_tokenizer, pairs=pairs(30, seed=1), held_out=pairs(20, seed=2)
    )

    after = model.state_dict()
    assert [each.exit for each in reports] == [1, 2, 3]
    assert model.config.gates
    assert model.training
    assert all(torch.equal(after[name], each) for name, each in before.items())
    assert {name.split(".")[0] for name in set(after) - set(before)} == {"gates"}
    assert all(each.grad is None and each.requires_grad for each in model.parameters())


def test_the_tokenizer_stays_as_it_was(byte_tokenizer):
    before = byte_tokenizer.backend_tokenizer.to_str()

    train_canvas_gates(
        model_of(byte_tokenizer),
        byte_tokenizer,
        pairs=pairs(30, seed=1),
        held_out=pairs(20, seed=2),
    )

    assert byte_tokenizer.backend_tokenizer.to_str() == before


def test_sources_that_the_model_cannot_read_whole_are_cut_and_told_of(byte_tokenizer, caplog):
    long = [Pair("a" * 100, ("x",)), *pairs(30, seed=1)]

    train_canvas_gates(
        model_of(byte_tokenizer), byte_tokenizer, pairs=long, held_out=pairs(20, seed=2)
    )

    assert caplog.messages == [
        "1 of 31 pairs to train gates on with a source of more than 64 tokens, which is cut "
        "(the model reads no more)"
    ]


@pytest.mark.parametrize("head", HEADS)
def test_labels_are_those_of_one_source_alone(byte_tokenizer, head):
    model = model_of(byte_tokenizer, head)
    texts = words(6, seed=4)
    together = look(model, *inputs_of(byte_tokenizer, texts))

    for row, text in enumerate(texts):
        alone = look(model, *inputs_of(byte_tokenizer, [text]))
        there = together.there[row]
        assert alone.there.sum() == there.sum()
        assert torch.equal(together.counted[row][there], alone.counted[0])
        for ours, theirs in zip(together.agrees, alone.agrees, strict=True):
            assert torch.equal(ours[row][there], theirs[0])
        for ours, theirs in zip(together.states, alone.states, strict=True):
            assert torch.allclose(ours[row][there], theirs[0], atol=1e-4)


@pytest.mark.parametrize("head", ["plain", "ctc", "dag", "soft"])
def test_labels_compare_what_exits_and_last_layer_say(byte_tokenizer, head):
    model = model_of(byte_tokenizer, head)
    ids, mask = inputs_of(byte_tokenizer, words(6, seed=4))
    config = model.config
    written = {config.pad_token_id, config.bos_token_id, config.mask_token_id}
    written = [each for each in range(config.vocab_size) if each not in written]
    written += [config.mask_token_id] if head == "ctc" else []

    looked = look(model, ids, mask)

    with torch.no_grad():
        canvas = blank_canvas(config, looked.there.sum(-1))
        output = model(
            input_ids=ids,
            attention_mask=mask,
            decoder_input_ids=canvas,
            decoder_attention_mask=looked.there,
        )
    states = output.decoder_hidden_states
    said = [model.score(each)[..., written].argmax(-1) for each in states]
    places = looked.there.clone()
    places[:, 0] = False  # BOS may stand there
    for exit, agrees in enumerate(looked.agrees, start=1):
        same = said[exit] == said[-1]
        assert 0.2 < agrees[places].float().mean() < 0.9
        if head == "dag":
            assert not (agrees & ~same)[places].any()
        else:
            assert torch.equal(agrees[places], same[places])


@pytest.mark.parametrize("head", ["plain", "dag", "predicted"])
def test_places_that_count_are_those_that_generate_reads(byte_tokenizer, head):
    model = model_of(byte_tokenizer, head)
    model.final_logits_bias[:, model.config.eos_token_id] += 3.0  # texts end before their canvas
    ids, mask = inputs_of(byte_tokenizer, words(6, seed=4))

    looked = look(model, ids, mask)
    made = model.generate(input_ids=ids, attention_mask=mask, return_dict_in_generate=True)

    for row, places in enumerate(made.places.tolist()):
        read = sorted(place for place in places if place >= 0)
        assert looked.counted[row].nonzero()[:, 0].tolist() == read
    assert looked.counted.sum() < looked.there.sum()


def test_a_blank_counts_as_well(byte_tokenizer):
    looked = look(model_of(byte_tokenizer, "ctc"), *inputs_of(byte_tokenizer, ["ab", "a"]))

    assert torch.equal(looked.counted, looked.there)


def test_the_step_of_a_path_is_part_of_the_answer(byte_tokenizer):
    model = model_of(byte_tokenizer, "dag", decoder_layers=2)
    inputs = inputs_of(byte_tokenizer, words(6, seed=4))
    layer = model.model.decoder.layers[1]
    before = look(model, *inputs).agrees[0]
    for name in ("self_attn", "encoder_attn"):
        torch.nn.init.zeros_(getattr(layer, name).out_proj.weight)
        torch.nn.init.zeros_(getattr(layer, name).out_proj.bias)
    torch.nn.init.zeros_(layer.fc2.weight)
    torch.nn.init.zeros_(layer.fc2.bias)
    for part in (*model.model.decoder.layers, layer):
        torch.nn.init.zeros_(part.final_layer_norm.bias)
    for norm in (layer.self_attn_layer_norm, layer.encoder_attn_layer_norm):
        torch.nn.init.zeros_(norm.bias)

    same = look(model, *inputs)  # a layer that changes nothing

    assert not before.all()
    assert same.agrees[0][same.there].all()


@pytest.mark.parametrize("head", ["plain", "ctc"])
def test_a_gate_learns_which_places_are_settled(byte_tokenizer, head):
    model = sometimes_settled(byte_tokenizer, head)

    (report,) = train_canvas_gates(
        model,
        byte_tokenizer,
        pairs=pairs(200, seed=1),
        held_out=pairs(60, seed=2),
        settings=CanvasGateSettings(precision=0.98),
    )

    looked = look(model, *inputs_of(byte_tokenizer, words(60, seed=5)))
    truth = looked.agrees[0][looked.counted]
    confidence = model.gates["1"].confidence(looked.states[0][looked.counted])
    stops = confidence >= model.gates["1"].threshold
    assert 0.2 < report.agreement < 0.8
    assert report.precision >= 0.98
    assert report.recall > 0.8
    assert truth[stops].float().mean() > 0.95
    assert stops[truth].float().mean() > 0.8


@pytest.mark.parametrize("head", HEADS)
def test_the_report_is_of_the_held_out_places_that_reach_a_text(byte_tokenizer, head):
    model, held = model_of(byte_tokenizer, head), pairs(40, seed=2)

    reports = train_canvas_gates(
        model,
        byte_tokenizer,
        pairs=pairs(60, seed=1),
        held_out=held,
        settings=CanvasGateSettings(precision=0.85),
    )

    looked = look(model, *inputs_of(byte_tokenizer, [each.source for each in held]))
    assert any(0 < each.recall < 1 for each in reports)
    for report, states, agrees in zip(reports, looked.states, looked.agrees, strict=True):
        gate, truth = model.gates[str(report.exit)], agrees[looked.counted]
        stops = gate.confidence(states)[looked.counted] >= gate.threshold
        right = float((stops & truth).sum())
        assert report.positions == len(truth)
        assert report.agreement == pytest.approx(float(truth.float().mean()), abs=0.01)
        assert report.precision == pytest.approx(right / max(int(stops.sum()), 1), abs=0.02)
        assert report.recall == pytest.approx(right / int(truth.sum()), abs=0.02)
        assert report.precision >= 0.85 or report.recall == 0


@pytest.mark.parametrize("head", ["plain", "ctc", "dag", "soft"])
def test_places_leave_where_the_gate_is_as_sure_as_its_threshold(byte_tokenizer, head):
    model = model_of(byte_tokenizer, head, gates=True)
    torch.nn.init.normal_(model.gates["1"].linear.weight)
    ids, mask = inputs_of(byte_tokenizer, words(40, seed=2))
    looked = look(model, ids, mask)
    confidence = model.gates["1"].confidence(looked.states[0]).detach()
    ordered = confidence[looked.there].sort().values
    middle = len(ordered) // 2
    model.gates["1"].threshold.fill_(float(ordered[middle : middle + 2].mean()))

    exits = left_by(model, ids, mask, OneShot(exit_rule="gate", exits=(1,)))

    stops = confidence >= model.gates["1"].threshold
    assert 0 < stops[looked.there].sum() < looked.there.sum()
    assert torch.equal((exits == 1)[looked.there], stops[looked.there])


def test_a_place_exactly_at_the_threshold_leaves(byte_tokenizer):
    model = model_of(byte_tokenizer, gates=True)
    ids, mask = inputs_of(byte_tokenizer, ["abc"])
    for gate in model.gates.values():
        gate.threshold.fill_(0.5)
        torch.nn.init.zeros_(gate.linear.bias)
        torch.nn.init.zeros_(gate.linear.weight)

    at, above = (
        left_by(model, ids, mask, OneShot(exit_rule="gate", threshold=each)) for each in (None, 0.5)
    )

    assert at.unique().tolist() == [1]
    assert above.unique().tolist() == [4]


@pytest.mark.parametrize("head", HEADS)
def test_thresholds_that_are_never_reached_give_the_texts_of_all_layers(byte_tokenizer, head):
    model = model_of(byte_tokenizer, head)
    ids, mask = inputs_of(byte_tokenizer, words(8, seed=6))
    train_canvas_gates(model, byte_tokenizer, pairs=pairs(30, seed=1), held_out=pairs(20, seed=2))

    def written(threshold, decoding):
        for gate in model.gates.values():
            gate.threshold.fill_(threshold)
        return model.generate(input_ids=ids, attention_mask=mask, decoding=decoding).tolist()

    whole, gated = OneShot(), OneShot(exit_rule="gate")
    assert written(1.01, gated) == written(1.01, whole)
    assert written(0.0, gated) != written(0.0, whole)


@pytest.mark.parametrize("head", ["plain", "dag"])
def test_gates_are_saved_and_loaded_with_their_model(byte_tokenizer, head, tmp_path):
    model = model_of(byte_tokenizer, head)
    train_canvas_gates(model, byte_tokenizer, pairs=pairs(30, seed=1), held_out=pairs(20, seed=2))
    ids, mask = inputs_of(byte_tokenizer, words(8, seed=6))
    model.save_pretrained(tmp_path)

    loaded = ElmerForConditionalGeneration.from_pretrained(tmp_path)

    ours, theirs = model.state_dict(), loaded.state_dict()
    assert loaded.config.gates
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    early = OneShot(exit_rule="gate")
    said = [
        each.generate(input_ids=ids, attention_mask=mask, decoding=early)
        for each in (model, loaded)
    ]
    assert torch.equal(*said)


def test_targets_are_not_read_and_the_same_pairs_give_the_same_gates(byte_tokenizer):
    model = model_of(byte_tokenizer)

    def train(target, seed=0):
        return train_canvas_gates(
            model,
            byte_tokenizer,
            pairs=pairs(60, seed=1, target=target),
            held_out=pairs(30, seed=2, target=target),
            settings=CanvasGateSettings(positions=100, seed=seed, batch_size=4),
        )

    first = train("x")

    assert train("quite another target") == first
    assert train("x", seed=1) != first


def test_no_more_positions_are_read_than_asked_for(byte_tokenizer):
    told = []

    (report, *_) = train_canvas_gates(
        model_of(byte_tokenizer),
        byte_tokenizer,
        pairs=pairs(60, seed=1),
        held_out=pairs(60, seed=2),
        settings=CanvasGateSettings(positions=50, batch_size=2),
        advance=told.append,
    )

    assert report.positions == 50
    assert 100 <= sum(told) < 180


def test_a_half_precision_model_keeps_its_promise(byte_tokenizer):
    model = model_of(byte_tokenizer).to(torch.bfloat16)

    reports = train_canvas_gates(
        model,
        byte_tokenizer,
        pairs=pairs(60, seed=1),
        held_out=pairs(60, seed=2),
        settings=CanvasGateSettings(precision=0.8),
    )

    for report in reports:
        gate = model.gates[str(report.exit)]
        assert gate.threshold.dtype == torch.bfloat16
        assert float(gate.threshold) == report.threshold
        assert report.precision >= 0.8


def test_what_cannot_be_trained_is_refused(byte_tokenizer):
    model, some = model_of(byte_tokenizer), pairs(30, seed=1)
    bart = BartForConditionalGeneration(
        BartConfig(vocab_size=20, d_model=16, encoder_layers=1, decoder_layers=1)
    )
    shallow = model_of(byte_tokenizer, decoder_layers=1)

    for wrong, message in ((bart, "for ELMER models, this is a bart"), (shallow, "one decoder")):
        with pytest.raises(ConfigError, match=message):
            train_canvas_gates(wrong, byte_tokenizer, pairs=some, held_out=some)
    with pytest.raises(InputError, match="0 positions to train gates on are too few"):
        train_canvas_gates(model, byte_tokenizer, pairs=[], held_out=some)
    with pytest.raises(InputError, match="held out to find thresholds on are too few"):
        train_canvas_gates(model, byte_tokenizer, pairs=some, held_out=[])
    assert not model.config.gates


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"precision": 0.0}, "precision must be above 0 and at most 1, got 0.0"),
        ({"precision": 1.5}, "precision must be above 0 and at most 1, got 1.5"),
        ({"positions": 9}, "positions must be at least 10, got 9"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        CanvasGateSettings(**setting)
