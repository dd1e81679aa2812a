"""A drafter goes with its exits, through files and out of the way of the base."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from offramp import (
    AutoMultiExitModel,
    SelfSpeculation,
    attach_exits,
    export_exit,
    save_exits,
)
from offramp.blocks.drafter import Drafter
from offramp.errors import CheckpointError


def drafted():
    model = attach_exits(tiny.model_of("llama"), (2,), "lens")
    torch.manual_seed(1)
    model.drafter = Drafter(width=32, hidden=24, num_tokens=11)
    model.drafter.tokens.copy_(torch.randperm(tiny.VOCAB)[:11])
    return model


def test_save_then_load_gives_the_same_bits(tmp_path):
    model = drafted()
    model.save_pretrained(tmp_path)

    loaded = AutoMultiExitModel.from_pretrained(tmp_path)

    kept, again = model.drafter.state_dict(), loaded.drafter.state_dict()
    assert kept.keys() == again.keys()
    assert all(torch.equal(kept[name], again[name]) for name in kept)
    assert not any("drafter" in name for name in load_file(tmp_path / "model.safetensors"))


def test_a_drafter_travels_with_exits_that_are_kept_apart(tmp_path):
    model = drafted()
    base = tiny.model_of("llama")
    base.save_pretrained(tmp_path / "base")
    save_exits(model, tmp_path / "exits")

    loaded = AutoMultiExitModel.from_pretrained(tmp_path / "base", exits=tmp_path / "exits")

    inputs = tiny.prompt(base, rows=1)
    plain = loaded.generate(**inputs, max_new_tokens=8, do_sample=False)
    speculated = loaded.generate(
        **inputs, max_new_tokens=8, do_sample=False, decoding=SelfSpeculation()
    )
    assert loaded.drafter is not None
    assert plain.tolist() == speculated.tolist()


def test_saving_without_a_drafter_leaves_none_behind(tmp_path):
    model = drafted()
    save_exits(model, tmp_path)
    del model.drafter
    save_exits(model, tmp_path)

    assert not (tmp_path / "drafter.safetensors").exists()


def test_a_drafter_changes_neither_fingerprint_nor_base(tmp_path):
    model = attach_exits(tiny.model_of("llama"), (2,), "lens")
    save_exits(model, tmp_path / "before")
    before = copy.deepcopy({k: v for k, v in model.state_dict().items()})
    model.drafter = Drafter(width=32, hidden=24, num_tokens=11)
    save_exits(model, tmp_path / "after")

    texts = [(tmp_path / name / "exits.json").read_text() for name in ("before", "after")]
    assert texts[0] == texts[1]
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b"no"), "damaged or no drafter"),
        (lambda path: save_file({"tokens": torch.zeros(2)}, path), "damaged or no drafter"),
        (
            lambda path: save_file(Drafter(width=8, hidden=4, num_tokens=3).state_dict(), path),
            "for a model of width 8",
        ),
    ],
)
def test_a_drafter_that_does_not_fit_is_refused(tmp_path, spoil, message):
    drafted().save_pretrained(tmp_path)
    spoil(tmp_path / "drafter.safetensors")

    with pytest.raises(CheckpointError, match=message):
        AutoMultiExitModel.from_pretrained(tmp_path)


def test_an_exit_is_exported_without_the_drafter(tmp_path):
    model = drafted()
    attach_exits(model, (3,), "direct")

    export_exit(model, tmp_path / "three", exit=3)

    assert not any("drafter" in name for name in load_file(tmp_path / "three/model.safetensors"))
