"""Damaged files of models, exits, drafters, calibrations: a model that writes, or one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import tiny
from fuzzing import broken, fuzzed, json_files, outcome, safetensors
from offramp import (
    AutoMultiExitModel,
    Contrast,
    EarlyExit,
    FixedExit,
    MultiExitConfiguration,
    SelfSpeculation,
    attach_exits,
    save_exits,
    save_published,
)
from offramp.blocks.drafter import Drafter
from offramp.blocks.projections import add_gate_
from offramp.decoding.calibrated import Calibrated, CalibratedContrast, CalibratedDrafts
from offramp.evaluation.promises import promise
from offramp.evaluation.replay import Ladder, Recorded
from offramp.models.calibration import early_exit_of, hash_of_model

KINDS = ("head", "cast", "lens")


def _calibrated(model):
    text = Recorded(torch.full((4, 3), 0.4), torch.ones(4, 3).bool())
    ladder = Ladder(exits=(1, 2, 3), depth=4)
    (kept, *_) = promise([text] * 80, [text] * 20, ladder=ladder, rule="gate", bound=0.05)
    drafts = {"draft_exit": 2, "draft_length": 3, "surest": 0.4, "lookup": 4, "used": True}
    asked = {"upper": "original", "lower": 2, "alpha": 0.1, "used": True}
    return Calibrated(
        exits_hash=hash_of_model(model),
        early_exit=(early_exit_of({**kept.as_dict(), "speed": None}),),
        speculation=CalibratedDrafts(**drafts, speedup=1.4, low=1.2, high=1.5),
        contrast=CalibratedContrast(**asked, cross_entropy=1.0, plain=2.0),
        machine={"threads": 1},
        date="2026-01-02",
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A base, and a folder with every file that lies beside exits."""
    place = tmp_path_factory.mktemp("whole")
    tiny.model_of("llama").save_pretrained(place / "base")
    model = tiny.model_of("llama")
    for exit, kind in zip((1, 2, 3), KINDS, strict=True):
        attach_exits(model, (exit,), kind)
        add_gate_(model.exits[str(exit)], model.anatomy, exit)
    model.drafter = Drafter(width=32, hidden=24, num_tokens=11)
    model.drafter.tokens.copy_(torch.randperm(tiny.VOCAB)[:11])
    model.calibration = _calibrated(model)
    save_exits(model, place / "exits")
    for kind in ("head", "cast"):
        save_published(attach_exits(tiny.model_of("gpt2"), (1, 3), kind), place / kind)
    state = load_file(place / "head" / "model.safetensors")
    shutil.copytree(place / "head", place / "bin")
    (place / "bin" / "model.safetensors").unlink()
    torch.save(state, place / "bin" / "pytorch_model.bin")
    return place


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "damaged"


def damaged(source: Path, folder: Path, name: str, data: bytes) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    (folder / name).write_bytes(data)
    return folder


def use(model):
    """Let a model that could be loaded write in each of the ways that its files decide."""
    ids = tiny.prompt(model)["input_ids"]
    for decoding in (None, FixedExit(exit=1), Contrast(lower=2), EarlyExit(), SelfSpeculation()):
        outcome(model.generate, ids, decoding=decoding, max_new_tokens=3, do_sample=False)


def load_and_use(base, **options):
    model = outcome(AutoMultiExitModel.from_pretrained, base, **options)
    if model is not None:
        use(model.eval())


@pytest.mark.parametrize("name", ["exits.json", "calibration.json"])
@fuzzed(5)
@given(data=st.data())
def test_a_damaged_table(whole, folder, name, data):
    document = json.loads((whole / "exits" / name).read_text("utf-8"))
    wrong = data.draw(json_files(document))

    load_and_use(whole / "base", exits=damaged(whole / "exits", folder, name, wrong))


@fuzzed(5)
@given(data=st.data())
def test_a_damaged_table_that_shall_name_its_base(whole, folder, data):
    document = json.loads((whole / "exits" / "exits.json").read_text("utf-8"))
    document["base"]["name"] = str(whole / "base")

    wrong = data.draw(json_files(document))

    load_and_use(damaged(whole / "exits", folder, "exits.json", wrong))


@pytest.mark.parametrize("name", ["exits.safetensors", "drafter.safetensors"])
@fuzzed(5)
@given(data=st.data())
def test_damaged_weights(whole, folder, name, data):
    wrong = data.draw(safetensors((whole / "exits" / name).read_bytes()))

    load_and_use(whole / "base", exits=damaged(whole / "exits", folder, name, wrong))


@pytest.mark.parametrize("kind", ["head", "cast"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "generation_config.json"])
@fuzzed(2)
@given(data=st.data())
def test_a_damaged_published_checkpoint(whole, folder, kind, name, data):
    content = (whole / kind / name).read_bytes()
    strategy = json_files(json.loads(content)) if name.endswith("json") else safetensors(content)

    wrong = data.draw(strategy)

    settings = MultiExitConfiguration(use_original_head=False, contrast_layer_indices="original;1")
    place = damaged(whole / kind, folder, name, wrong)
    model = outcome(AutoMultiExitModel.from_pretrained, place, multi_exit_config=settings)
    if model is not None and name.endswith("safetensors"):  # settings of generate: test_commands
        use(model.eval())


@fuzzed(2)
@given(data=st.data())
def test_a_damaged_pickle_of_weights(whole, folder, data):
    content = (whole / "bin" / "pytorch_model.bin").read_bytes()

    wrong = data.draw(broken(content))

    load_and_use(damaged(whole / "bin", folder, "pytorch_model.bin", wrong))
