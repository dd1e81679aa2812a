"""calibration.json is what was found, is obeyed, and is refused where it does not belong."""

import json
from dataclasses import replace

import pytest
import torch

import tiny
from offramp import (
    AutoMultiExitModel,
    EarlyExit,
    MultiExitConfiguration,
    SelfSpeculation,
    attach_exits,
    save_exits,
)
from offramp.blocks.machine import machine_facts
from offramp.blocks.projections import add_gate_
from offramp.decoding.calibrated import (
    Calibrated,
    CalibratedContrast,
    CalibratedDrafts,
)
from offramp.errors import CheckpointError
from offramp.evaluation.promises import promise
from offramp.evaluation.replay import Ladder, Recorded
from offramp.models.calibration import (
    DRAFT_KEYS,
    EXIT_KEYS,
    FILE,
    early_exit_of,
    hash_of_model,
    read_calibration,
    save_calibration,
)
from offramp.models.checkpoint import TABLE

DRAFTS = CalibratedDrafts(
    draft_exit=2, draft_length=3, surest=0.4, lookup=4, speedup=1.4, low=1.2, high=1.5, used=True
)


def gated():
    model = attach_exits(tiny.model_of("llama"), (1, 2, 3), "lens")
    for exit in model.exit_numbers:
        add_gate_(model.exits[str(exit)], model.anatomy, exit)  # undecided: 0.5
    return model


def early_exit(threshold=0.4):
    """A promise that was kept on texts whose exits are always right, and equally sure."""
    text = Recorded(torch.full((4, 3), 0.999 * threshold + 0.0005), torch.ones(4, 3).bool())
    (found, *_) = promise(
        [text] * 80, [text] * 20, ladder=Ladder(exits=(1, 2, 3), depth=4), rule="gate", bound=0.05
    )
    return early_exit_of({**found.as_dict(), "speed": None})


def found_for(model, **more):
    more = {"early_exit": (early_exit(),), "speculation": DRAFTS, **more}
    return Calibrated(
        exits_hash=hash_of_model(model), machine={"threads": 1}, date="2026-01-02", **more
    )


@pytest.fixture
def base(tmp_path):
    tiny.model_of("llama").save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def kept(tmp_path, base):
    """A folder of exits, and what was found for them."""
    model = gated()
    model.calibration = found_for(model)
    save_exits(model, tmp_path / "exits")
    return tmp_path / "exits"


def loaded(base, kept, **options):
    return AutoMultiExitModel.from_pretrained(base, exits=kept, **options)


def test_save_then_load_gives_the_same(base, kept):
    model = loaded(base, kept)

    contrast = CalibratedContrast(
        upper="original", lower=2, alpha=0.1, cross_entropy=1.0, plain=2.0, used=True
    )
    again = found_for(model, contrast=contrast)
    save_calibration(again, kept)

    assert loaded(base, kept).calibration == again
    assert loaded(base, kept).calibration.thresholds("gate") == early_exit().thresholds
    assert loaded(base, kept).calibration.thresholds("top_gap") is None
    assert loaded(base, kept).calibration.thresholds("gate", bound=0.3) is None


def test_the_file_survives_another_dtype_of_the_exits(base, kept, tmp_path):
    wider = loaded(base, kept, dtype=torch.float64)
    wider.save_pretrained(tmp_path / "wider")
    assert AutoMultiExitModel.from_pretrained(tmp_path / "wider").calibration is not None

    narrower = loaded(base, kept, dtype=torch.bfloat16)
    assert narrower.calibration is not None


def test_without_a_file_there_is_no_calibration(base, kept):
    (kept / FILE).unlink()

    assert loaded(base, kept).calibration is None


def test_the_keys_of_the_file_are_those_of_what_is_found():
    text = Recorded(torch.rand(4, 1), torch.ones(4, 1).bool())
    (found, *_) = promise([text], [], ladder=Ladder(exits=(1,), depth=4), rule="gate", bound=0.05)

    assert set(EXIT_KEYS) == {*found.as_dict(), "speed"}
    assert set(DRAFT_KEYS) == set(vars(DRAFTS))


def test_early_exit_leaves_by_what_was_found(base, kept):
    model = loaded(base, kept)
    plan = EarlyExit()
    options = {"max_new_tokens": 6, "do_sample": False, "return_dict_in_generate": True}
    ids = torch.tensor([[5, 6, 7]])
    for exit in (1, 2, 3):
        model.exits[str(exit)].gate.threshold.fill_(1.0)  # of training: never

    early = model.generate(ids, decoding=plan, eos_token_id=None, **options)
    subset = model.generate(ids, decoding=EarlyExit(exits=(2, 3)), eos_token_id=None, **options)
    model.calibration = None
    never = model.generate(ids, decoding=plan, eos_token_id=None, **options)

    assert early.exits[0].tolist() == [4, 1, 1, 1, 1, 1]  # 0.5 is more than what was found
    assert set(subset.exits[0].tolist()) == {4}  # the promise is for all exits together
    assert set(never.exits[0].tolist()) == {4}


@pytest.mark.parametrize("how", [{"cache": "copy"}, {"lower": 1}])
def test_a_promise_is_for_filled_caches_and_plain_scores(base, kept, how):
    model = loaded(base, kept)

    assert EarlyExit().calibrated(model) == early_exit().thresholds
    assert EarlyExit(**how).calibrated(model) is None


def test_where_no_threshold_keeps_the_bound_nobody_leaves(base, kept):
    model = loaded(base, kept)
    facts = {**early_exit().facts, "thresholds": None, "threshold": None, "usable": False}
    model.calibration = found_for(model, early_exit=(early_exit_of(facts),))
    for exit in (1, 2, 3):
        model.exits[str(exit)].gate.threshold.fill_(0.1)  # of training: always

    output = model.generate(
        torch.tensor([[5, 6, 7]]),
        decoding=EarlyExit(),
        max_new_tokens=4,
        return_dict_in_generate=True,
    )

    assert set(output.exits[0].tolist()) == {4}


def test_a_rule_that_reads_scores_takes_what_was_found_for_it(base, kept):
    model = loaded(base, kept)
    facts = {**early_exit(0.0).facts, "rule": "top_gap", "thresholds": [0.0, 1.0, 1.0]}
    model.calibration = found_for(model, early_exit=(early_exit_of(facts),))
    options = {"max_new_tokens": 5, "return_dict_in_generate": True, "do_sample": False}

    found, given = (
        model.generate(torch.tensor([[5, 6, 7]]), decoding=decoding, **options)
        for decoding in (
            EarlyExit(rule="top_gap"),
            EarlyExit(rule="top_gap", threshold={1: 0.0, 2: 1.0, 3: 1.0}),
        )
    )

    assert found.exits.tolist() == given.exits.tolist()
    assert 1 in found.exits


def test_a_confidence_equal_to_the_threshold_does_not_leave(base, kept):
    model = loaded(base, kept)
    facts = {**early_exit().facts, "thresholds": [0.5, 0.5, 0.5]}
    model.calibration = found_for(model, early_exit=(early_exit_of(facts),))
    ids = torch.tensor([[5, 6, 7]])

    output = model.generate(
        ids, decoding=EarlyExit(), max_new_tokens=4, return_dict_in_generate=True
    )

    assert set(output.exits[0].tolist()) == {4}


def test_self_speculation_takes_the_settings_that_were_fastest(base, kept):
    model = loaded(base, kept)

    assert SelfSpeculation().settled(model) == SelfSpeculation(
        draft_exit=2, draft_length=3, surest=0.4, lookup=4
    )
    elsewhere = SelfSpeculation(engine="onnxruntime")  # it was timed on the engine of "auto"
    assert elsewhere.settled(model) is elsewhere
    for said in (SelfSpeculation(draft_exit=1), SelfSpeculation(draft_exit="drafter")):
        assert said.settled(model) is said
    ids = torch.tensor([[5, 6, 7]])
    drafted = model.generate(ids, decoding=SelfSpeculation(), max_new_tokens=6, do_sample=False)
    assert drafted.tolist() == model.generate(ids, max_new_tokens=6, do_sample=False).tolist()


def test_settings_that_were_slower_are_not_used(base, kept):
    model = loaded(base, kept)
    slower = CalibratedDrafts(**{**vars(DRAFTS), "low": 0.8, "used": False})
    model.calibration = found_for(model, speculation=slower)

    plain = SelfSpeculation()

    assert plain.settled(model) is plain


@pytest.mark.parametrize(
    ("name", "value"), [("processor", "Another"), ("device", "An H100"), ("dtype", "bfloat16")]
)
def test_settings_that_were_timed_elsewhere_are_not_used(base, kept, name, value):
    model = loaded(base, kept)
    here = machine_facts(model)
    plain = SelfSpeculation()

    model.calibration = replace(found_for(model), machine=here)
    assert plain.settled(model).lookup == DRAFTS.lookup

    model.calibration = replace(found_for(model), machine={**here, name: value})
    assert plain.settled(model) is plain


def test_settings_equal_to_the_defaults_are_themselves(base, kept):
    model = loaded(base, kept)
    same = {"draft_exit": None, "draft_length": "auto", "lookup": 0}
    model.calibration = found_for(model, speculation=CalibratedDrafts(**{**vars(DRAFTS), **same}))

    plain = SelfSpeculation()

    assert plain.settled(model) is plain


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("date"), r"missing \['date'\]"),
        (lambda content: content.update(extra=1), r"unknown \['extra'\]"),
        (lambda content: content.update(version=1), "version 1"),
        (lambda content: content.update(machine=[]), "machine cannot be"),
        (lambda content: content.update(exits_hash="x"), "for other exits than those beside it"),
        (lambda content: content["speculation"].update(used=1), "used cannot be 1"),
        (lambda content: content["early_exit"][0].update(extra=1), r"unknown \['extra'\]"),
        (lambda content: content["early_exit"][0].update(bound=True), "bound cannot be True"),
        (lambda content: content["early_exit"][0].update(thresholds=[0.5]), "do not fit"),
        (lambda content: content["early_exit"][0].update(thresholds=[2, 2, 2]), "do not fit"),
    ],
)
def test_a_file_that_is_damaged_or_foreign_is_refused(base, kept, change, message):
    content = json.loads((kept / FILE).read_text("utf-8"))
    change(content)
    (kept / FILE).write_text(json.dumps(content), "utf-8")

    with pytest.raises(CheckpointError, match=message):
        loaded(base, kept)


def test_a_file_that_is_cut_off_is_refused(base, kept):
    (kept / FILE).write_bytes((kept / FILE).read_bytes()[:40])

    with pytest.raises(CheckpointError, match="and run offramp calibrate again"):
        loaded(base, kept)


def test_it_does_not_apply_to_some_of_the_exits(base, kept):
    some = MultiExitConfiguration(lm_head_layer_indices=(1, 3))

    assert loaded(base, kept, multi_exit_config=some).calibration is None


def test_other_exits_lose_it(base, kept):
    model = loaded(base, kept)

    attach_exits(model, (2,), "direct")
    save_exits(model, kept)

    assert model.calibration is None
    assert not (kept / FILE).exists()


def test_changed_exits_are_not_saved_with_it(base, kept, tmp_path):
    model = loaded(base, kept)
    with torch.no_grad():
        model.exits["2"].gate.linear.bias.add_(1)

    save_exits(model, tmp_path / "changed")

    assert not (tmp_path / "changed" / FILE).exists()
    assert (tmp_path / "changed" / TABLE).exists()


def test_a_folder_that_cannot_be_written_is_one_error(kept, tmp_path):
    with pytest.raises(CheckpointError, match="cannot write"):
        save_calibration(found_for(gated()), tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="is not a calibration"):
        read_calibration(tmp_path / "nowhere" / FILE, "")
