"""Kept states against the text they came from."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from offramp import attach_exits
from offramp.errors import CheckpointError, ConfigError, InputError
from offramp.training.candidates import Candidates
from offramp.training.exits import freeze_
from offramp.training.objectives import Objective
from offramp.training.states import TABLE, keep_states, kept_batches
from offramp.training.student import Lesson, Student

TEXT, TAUGHT = Objective(name="next-token"), Objective()


def student_of(projection="lens", *, objective=TAUGHT, exits=(1, 3), seed=0, **lesson):
    model = attach_exits(tiny.model_of("llama", seed=seed), exits, projection)
    freeze_(model, exits, unfreeze=False)
    weights = dict.fromkeys(exits, 1.0)
    return Student(model, Lesson(objective=objective, exit_weights=weights, share=0.5, **lesson))


def batches(count=3, seed=0):
    made = []
    for place in range(count):
        generator = torch.Generator().manual_seed(seed * 100 + place)
        ids = torch.randint(3, tiny.VOCAB, (2, 9), generator=generator)
        shift = torch.cat((ids[:, 1:], ids.new_full((2, 1), -100)), -1)
        made.append({"input_ids": ids, "shift_labels": shift})
    return made


def losses_of_training(student, inputs):
    """Train for a step on each batch, and give the losses on the way."""
    optimiser = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for step, batch in enumerate(inputs):
        told = student(**batch, step=step)
        optimiser.zero_grad()
        told["loss"].backward()
        optimiser.step()
        losses.append(told["exit_losses"])
    return torch.stack(losses)


@pytest.mark.parametrize("candidates", [None, Candidates(top=4, others=8)])
@pytest.mark.parametrize("projection", ["lens", "cast", "head"])
def test_training_on_kept_states_is_training_on_the_text(projection, candidates, tmp_path):
    on_text, on_states = (student_of(projection, candidates=candidates) for _ in range(2))
    count = keep_states(on_states, batches(), tmp_path)

    ours = losses_of_training(on_states, kept_batches(on_states, tmp_path))

    assert torch.allclose(ours, losses_of_training(on_text, batches()), rtol=1e-6, atol=1e-7)
    assert count == sum(int(on_text.choose(b, step=s).sum()) for s, b in enumerate(batches()))


def test_states_kept_for_the_text_alone_still_hold_the_last_layer(tmp_path):
    keep_states(student_of(objective=TEXT, exits=(1,)), batches(), tmp_path)
    on_text, on_states = (student_of(exits=(1,)) for _ in range(2))

    ours = losses_of_training(on_states, kept_batches(on_states, tmp_path))

    assert torch.allclose(ours, losses_of_training(on_text, batches()), rtol=1e-6, atol=1e-7)


def test_some_of_the_exits_kept_can_be_trained(tmp_path):
    keep_states(student_of(), batches(), tmp_path)
    on_text, on_states = (student_of(exits=(3,)) for _ in range(2))

    ours = losses_of_training(on_states, kept_batches(on_states, tmp_path))

    assert torch.allclose(ours, losses_of_training(on_text, batches()), rtol=1e-6, atol=1e-7)


def test_an_exit_that_is_not_attached_is_kept_as_direct(tmp_path):
    student = student_of(exits=(1,))
    other = Student(student.model, Lesson(objective=TAUGHT, exit_weights={2: 1.0}))

    assert keep_states(other, batches(), tmp_path) == 48


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_keeping_goes_on_after_a_kill_and_ends_with_the_same_bytes(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    keep_states(student_of(), batches(), whole)
    keep_states(student_of(), batches()[:1], cut)
    (cut / "000001.part").write_bytes(b"half of it")
    student = student_of()
    passes = []
    student.model.model.register_forward_hook(lambda *_: passes.append(1))
    told = []

    count = keep_states(student, batches(), cut, advance=told.append)

    assert len(passes) == 2
    assert sum(told) == count
    assert bytes_of(cut) == bytes_of(whole)


def test_keeping_leaves_the_base_as_it_was(tmp_path):
    student = student_of()
    before = {name: each.clone() for name, each in student.model.state_dict().items()}

    keep_states(student, batches(), tmp_path)

    after = student.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_another_base_is_refused(tmp_path):
    keep_states(student_of(), batches(), tmp_path)
    other = student_of(seed=1)

    with pytest.raises(InputError, match="another base, other exits or positions"):
        keep_states(other, batches(), tmp_path)
    with pytest.raises(CheckpointError, match="made for another base"):
        next(iter(kept_batches(other, tmp_path)))


def test_another_text_is_refused(tmp_path):
    keep_states(student_of(), batches(), tmp_path)

    with pytest.raises(InputError, match=r"000000\.safetensors holds states of another text"):
        keep_states(student_of(), batches(seed=1), tmp_path)


def test_an_exit_that_was_not_kept_is_refused(tmp_path):
    keep_states(student_of(exits=(1,)), batches(), tmp_path)

    with pytest.raises(InputError, match=r"no states of exits \[3\], only of \[1\]"):
        list(kept_batches(student_of(), tmp_path))


@pytest.mark.parametrize("damage", ["cut", "foreign"])
def test_a_damaged_shard_is_refused_by_name(damage, tmp_path):
    keep_states(student_of(), batches(), tmp_path)
    path = tmp_path / "000001.safetensors"
    path.write_bytes(path.read_bytes()[:200] if damage == "cut" else b"<html>")

    with pytest.raises(InputError, match=r"000001\.safetensors is damaged .* make it again"):
        list(kept_batches(student_of(), tmp_path))
    with pytest.raises(InputError, match=r"000001\.safetensors is damaged"):
        keep_states(student_of(), batches(), tmp_path)


def test_a_shard_that_lacks_an_exit_is_refused(tmp_path):
    keep_states(student_of(), batches(), tmp_path)
    path = tmp_path / "000001.safetensors"
    shard = load_file(path)
    del shard["exit.3"]
    save_file(shard, path)

    with pytest.raises(InputError, match=r"000001\.safetensors is damaged"):
        list(kept_batches(student_of(), tmp_path))


@pytest.mark.parametrize("table", [None, "", "{}", json.dumps({"exits": 3}), "[1]"])
def test_a_folder_without_states_is_refused(table, tmp_path):
    if table is not None:
        (tmp_path / TABLE).write_text(table)

    with pytest.raises(InputError, match="holds no kept states"):
        list(kept_batches(student_of(), tmp_path))


def test_a_disk_that_is_full_is_told_in_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("offramp.training.states.save_file", full)

    with pytest.raises(InputError, match=r"No space left .* it goes on from there"):
        keep_states(student_of(), batches(), tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == [TABLE]


@pytest.mark.parametrize("below", ["", "below"])
def test_a_file_in_the_folders_place_is_told_in_one_line(below, tmp_path):
    (tmp_path / "file").write_text("mine")
    folder = tmp_path / "file" / below

    with pytest.raises(InputError, match=rf"cannot keep states in {folder}: .* name a folder"):
        keep_states(student_of(), batches(), folder)

    assert (tmp_path / "file").read_text() == "mine"


def test_block_exits_and_a_base_that_is_trained_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="exit 1 is a 'block'"):
        keep_states(student_of("block"), batches(), tmp_path)
    keep_states(student_of(), batches(), tmp_path)
    with pytest.raises(ConfigError, match="exit 1 is a 'block'"):
        list(kept_batches(student_of("block"), tmp_path))
    student = student_of()
    student.frozen = False
    with pytest.raises(ConfigError, match="change at every step"):
        keep_states(student, batches(), tmp_path)
