"""Gates on data whose truth is known, and on models."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
from offramp import AutoMultiExitModel, Contrast, attach_exits, save_exits
from offramp.blocks.gates import Gate
from offramp.errors import ConfigError, ExitNotFoundError, InputError
from offramp.models.fingerprint import fingerprint_of
from offramp.training.gates import (
    Examples,
    _train,
    lowest_threshold,
    rounded_down,
    train_gates,
)

WIDTH = 12


def states_and_odds(count, *, sharpness=3.0, offset=0.0, seed=0):
    """States on the sphere that gates see, and the true log-odds of each."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(count, WIDTH, generator=generator)
    states = states / states.square().mean(-1, keepdim=True).sqrt()
    direction = torch.nn.functional.normalize(torch.randn(WIDTH, generator=generator), dim=0)
    return states, sharpness * (states @ direction) + offset, generator


def flips(odds, generator):
    return torch.rand(len(odds), generator=generator) < odds.sigmoid()


def trained(states, agrees, *, precision=0.9, dtype=torch.float32):
    gate = Gate(states.shape[-1], torch.zeros((), dtype=dtype))
    examples = Examples(states=states.to(dtype), agrees=agrees)
    report = _train(gate, examples, exit=1, precision=precision)
    return gate, report


def test_what_can_be_told_apart_is_told_apart():
    states, odds, _ = states_and_odds(3000)

    gate, report = trained(states, odds > 0, precision=0.98)

    new, new_odds, _ = states_and_odds(3000, seed=0)
    assert report.recall > 0.95
    assert report.precision >= 0.98
    assert ((gate.confidence(new) > 0.5) == (new_odds > 0)).float().mean() > 0.97


@pytest.mark.parametrize("offset", [-2.0, 0.0, 2.0])
def test_confidence_is_the_share_that_is_true(offset):
    states, odds, generator = states_and_odds(20_000, offset=offset)
    gate, _ = trained(states[:12_000], flips(odds[:12_000], generator))
    confidence, truth = gate.confidence(states[12_000:]), flips(odds[12_000:], generator)

    places = (confidence * 10).long().clamp(max=9)
    error = sum(
        (confidence[places == each].mean() - truth[places == each].float().mean()).abs()
        * (places == each).float().mean()
        for each in range(10)
        if (places == each).any()
    )

    assert error < 0.03
    assert (confidence - odds[12_000:].sigmoid()).abs().mean() < 0.03


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("precision", [0.6, 0.8, 0.95, 1.0])
def test_the_threshold_keeps_the_precision_on_what_was_kept_back(precision, dtype):
    states, odds, generator = states_and_odds(4000)
    agrees = flips(odds, generator)

    gate, report = trained(states, agrees, precision=precision, dtype=dtype)

    kept = slice(len(states) - report.positions, None)
    stops = gate.confidence(states[kept].to(dtype)) >= gate.threshold
    right = int((stops & agrees[kept]).sum())
    assert report.positions == 800
    assert report.agreement == pytest.approx(float(agrees[kept].float().mean()))
    assert right >= precision * int(stops.sum())
    assert report.precision == pytest.approx(right / max(int(stops.sum()), 1))
    assert report.recall == pytest.approx(right / int(agrees[kept].sum()))
    assert precision > 0.95 or report.recall > 0.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_where_nothing_is_ever_true_the_gate_never_stops(dtype):
    states, _, _ = states_and_odds(500)

    gate, report = trained(states, torch.zeros(500, dtype=torch.bool), dtype=dtype)

    assert gate.threshold > 1
    assert gate.confidence(states).max() < 0.1
    assert (report.precision, report.recall, report.agreement) == (0, 0, 0)


def test_where_everything_is_true_it_always_stops():
    states, _, _ = states_and_odds(500)

    gate, report = trained(states, torch.ones(500, dtype=torch.bool))

    assert (gate.confidence(states[-100:]) >= gate.threshold).all()
    assert (report.precision, report.recall) == (1, 1)


def test_where_there_is_nothing_to_learn_the_confidence_is_the_agreement():
    states, _, generator = states_and_odds(6000)
    agrees = torch.rand(6000, generator=generator) < 0.3

    gate, report = trained(states, agrees, precision=0.99)

    assert (gate.confidence(states) - 0.3).abs().mean() < 0.05
    assert report.recall < 0.05


def test_the_part_kept_back_is_not_fitted_on():
    states, odds, _ = states_and_odds(1000)
    agrees = odds > 0
    agrees[-200:] = ~agrees[-200:]

    _, report = trained(states, agrees, precision=0.9)

    assert report.recall < 0.5


@given(
    seed=st.integers(0, 999),
    precision=st.floats(0.05, 1.0),
    levels=st.integers(1, 30),
)
def test_the_threshold_is_the_lowest_that_is_precise_enough(seed, precision, levels):
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.randint(levels, (40,), generator=generator) / levels
    truth = torch.rand(40, generator=generator) < 0.6

    found = lowest_threshold(confidence, truth, precision=precision)

    good = [
        float(each)
        for each in confidence.unique()
        if truth[confidence >= each].float().mean() >= precision
    ]
    assert found == (min(good) if good else 1.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@given(confidence=st.lists(st.floats(0, 1, width=32), min_size=1), seed=st.integers(0, 99))
def test_rounding_down_changes_no_comparison_with_what_the_dtype_holds(dtype, confidence, seed):
    exact = torch.tensor(confidence)
    generator = torch.Generator().manual_seed(seed)
    thresholds = torch.cat((torch.rand(20, generator=generator), exact)).to(dtype).float()

    rounded = rounded_down(exact, dtype)

    assert torch.equal(rounded, rounded.to(dtype).float())
    for threshold in thresholds:
        assert torch.equal(exact >= threshold, rounded >= threshold)


def batches(rows=24, length=20, seed=3):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, tiny.VOCAB, (rows, length), generator=generator)
    shift = torch.cat((ids[:, 1:], ids.new_full((rows, 1), -100)), -1)
    return [
        {"input_ids": ids[start : start + 8], "shift_labels": shift[start : start + 8]}
        for start in range(0, rows, 8)
    ]


def gated(projection="lens", family="llama", exits=(1, 4)):
    model = attach_exits(tiny.model_of(family), exits, projection)
    return model, train_gates(model, batches(), exits=exits, share=1.0)


@pytest.mark.parametrize("projection", ["direct", "lens", "head", "block"])
def test_agreement_is_that_of_the_exits_own_answers(projection):
    model = attach_exits(tiny.model_of("llama"), (3,), projection)
    told = []

    (report,) = train_gates(model, batches(), exits=(3,), share=1.0, advance=told.append)

    agrees = []
    for batch in batches():
        with torch.no_grad():
            said = model.exit_logits(batch["input_ids"], exits=(3, "original"), use_cache=False)
        agree = said[3].argmax(-1) == said["original"].argmax(-1)
        agrees.append(agree[batch["shift_labels"] != -100])
    kept = torch.cat(agrees)[-report.positions :]
    assert sum(told) == 24 * 19
    assert report.agreement == pytest.approx(float(kept.float().mean()))
    assert report.threshold == pytest.approx(float(model.exits["3"].gate.threshold))


def test_thresholds_and_reports_are_those_of_the_held_out_text():
    def found(held_out):
        model = attach_exits(tiny.model_of("llama"), (3,), "direct")
        some = None if held_out is None else batches(16, seed=held_out)
        (report,) = train_gates(model, batches(), exits=(3,), share=1.0, held_out=some)
        states = torch.randn(9, 32, generator=torch.Generator().manual_seed(1))
        return report, model.exits["3"].gate.confidence(states).argsort()

    (first, order), (second, same), (alone, _) = found(8), found(9), found(None)

    assert first.positions == second.positions == 16 * 19
    assert alone.positions == 24 * 19 // 5
    assert first.agreement != second.agreement
    assert torch.equal(order, same)  # the fit is that of the text, whatever is held out


def test_the_last_exit_always_agrees():
    _, reports = gated("direct")

    assert [each.exit for each in reports] == [1, 4]
    assert (reports[1].agreement, reports[1].precision, reports[1].recall) == (1, 1, 1)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma2"])
@pytest.mark.parametrize("projection", ["direct", "lens", "block"])
def test_gates_are_saved_and_loaded_with_their_exits(projection, family, tmp_path):
    model, _ = gated(projection, family)
    tiny.model_of(family).save_pretrained(tmp_path / "base")
    save_exits(model, tmp_path / "exits")

    loaded = AutoMultiExitModel.from_pretrained(tmp_path / "base", exits=tmp_path / "exits")

    states = torch.randn(20, model.config.hidden_size)
    for exit in ("1", "4"):
        ours, theirs = model.exits[exit].gate, loaded.exits[exit].gate
        assert torch.equal(ours.confidence(states), theirs.confidence(states))
        assert torch.equal(ours.threshold, theirs.threshold)


def test_gates_are_saved_beside_their_base(tmp_path):
    model, _ = gated()

    model.save_pretrained(tmp_path)

    loaded = AutoMultiExitModel.from_pretrained(tmp_path)
    ours, theirs = (each.exits["1"].gate.state_dict() for each in (model, loaded))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_exits_without_a_gate_load_without_one(tmp_path):
    model = attach_exits(tiny.model_of("llama"), (1, 3), "lens")
    train_gates(model, batches(), exits=(3,))
    model.save_pretrained(tmp_path)

    loaded = AutoMultiExitModel.from_pretrained(tmp_path)

    assert loaded.exits["1"].gate is None
    assert loaded.exits["3"].gate is not None


@pytest.mark.parametrize("projection", ["direct", "lens", "head", "block"])
def test_gates_change_no_answer_no_base_and_no_exit(projection):
    model = attach_exits(tiny.model_of("llama"), (1, 3), projection)
    inputs = tiny.prompt(model)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    print_before = fingerprint_of(model)

    def said():
        made = model.generate(**inputs, max_new_tokens=5, do_sample=False)
        rule = Contrast(lower=1)
        return made, model.generate(**inputs, max_new_tokens=5, do_sample=False, decoding=rule)

    told = said()
    train_gates(model, batches(), exits=(1, 3))

    assert all(torch.equal(a, b) for a, b in zip(told, said(), strict=True))
    assert fingerprint_of(model) == print_before
    after = model.state_dict()
    assert all(torch.equal(after[name], each) for name, each in before.items())
    assert {name.split(".", 3)[2] for name in set(after) - set(before)} == {"gate"}


def test_a_gate_is_trained_anew_in_place_of_the_old_one():
    model, first = gated()

    second = train_gates(model, batches(), exits=(1, 4), share=1.0)

    assert first == second


def test_what_cannot_be_trained_is_refused():
    model = attach_exits(tiny.model_of("llama"), (1,), "lens")
    short = [{"input_ids": torch.tensor([[3, 4]]), "shift_labels": torch.tensor([[4, -100]])}]

    for wrong in (0.0, 1.5):
        with pytest.raises(ConfigError, match=f"precision must be above 0 .* got {wrong}"):
            train_gates(model, batches(), exits=(1,), precision=wrong)
    with pytest.raises(ConfigError, match="no exit to give a gate"):
        train_gates(model, batches(), exits=())
    with pytest.raises(ExitNotFoundError, match="exit 2 is not attached"):
        train_gates(model, batches(), exits=(2,))
    for text in ([], short):
        with pytest.raises(InputError, match="too little text"):
            train_gates(model, text, exits=(1,))
        with pytest.raises(InputError, match="too little held-out text"):
            train_gates(model, batches(), exits=(1,), held_out=text)
    assert model.exits["1"].gate is None
