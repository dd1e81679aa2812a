"""What a hub name gives, from the folders in which the hub's client keeps what it fetched."""

import shutil

import pytest
import torch

import tiny
from offramp import AutoMultiExitModel, attach_exits, save_exits
from offramp.errors import CheckpointError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Put a folder where the hub's client would have kept it, without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def keep(folder, name):
        kept = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        shutil.copytree(folder, kept / "snapshots" / COMMIT)
        (kept / "refs").mkdir()
        (kept / "refs" / "main").write_text(COMMIT, "utf-8")
        return name

    return keep


@pytest.fixture
def model():
    torch.manual_seed(0)
    return attach_exits(tiny.model_of("llama"), (1, 2), "lens").eval()


def logits(model):
    with torch.no_grad():
        return model.exit_logits(torch.tensor([[5, 6, 7]]), exits=(1, 2))


def test_a_model_with_exits_comes_by_its_hub_name(model, hub, tmp_path):
    model.save_pretrained(tmp_path / "own")

    found = AutoMultiExitModel.from_pretrained(hub(tmp_path / "own", "me/own"))

    assert found.exit_numbers == (1, 2)
    for exit, each in logits(model).items():
        assert torch.equal(each, logits(found)[exit])


def test_exits_come_by_their_own_hub_name_and_know_their_base(model, hub, tmp_path):
    base = tiny.model_of("llama")
    base.load_state_dict(
        {name: value for name, value in model.state_dict().items() if "exits." not in name}
    )
    base.save_pretrained(tmp_path / "base")
    name = hub(tmp_path / "base", "me/base")
    model.name_or_path = name
    save_exits(model, tmp_path / "exits")
    exits = hub(tmp_path / "exits", "me/exits")

    beside = AutoMultiExitModel.from_pretrained(name, exits=exits)
    alone = AutoMultiExitModel.from_pretrained(exits)

    for found in (beside, alone):
        for exit, each in logits(model).items():
            assert torch.equal(each, logits(found)[exit])


def test_a_revision_that_was_never_fetched_is_told(model, hub, tmp_path):
    model.save_pretrained(tmp_path / "own")
    name = hub(tmp_path / "own", "me/own")

    assert AutoMultiExitModel.from_pretrained(name, revision=COMMIT).exit_numbers == (1, 2)
    with pytest.raises(CheckpointError, match="me/own"):
        AutoMultiExitModel.from_pretrained(name, revision="other")
