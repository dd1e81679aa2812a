"""Two processes that share the work do what one does: DDP by accelerate, shards by torch.

Real processes, on gloo. Float64 where sums are only ordered otherwise.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from transformers import TrainerCallback

from offramp.errors import CheckpointError
from offramp.training.data import DataSettings, load_rows
from offramp.training.exits import freeze_, shifted
from offramp.training.objectives import Objective
from offramp.training.student import Lesson, Student
from offramp.training.weights import put_weights, take_weights
from small_training import (
    collate,
    curve,
    finished,
    model_of,
    ragged_rows,
    start,
    train,
    weights_of,
)

WIDE = {"family": {"dtype": "float64"}}
ONE, TWO = {"batch_size": 4}, {"batch_size": 2}
FREE = {"unfreeze": True, "layer_dropout": 0.0}


def left_by(folder, rank=0):
    return torch.load(f"{folder}.{rank}.pt", weights_only=True)


def same_curve(one, other, bound):
    """Compare two logs; the Trainer itself adds up the sum of all losses in float32."""
    assert [line.keys() for line in one] == [line.keys() for line in other]
    for left, right in zip(one, other, strict=True):
        assert left.pop("loss", 0) == pytest.approx(right.pop("loss", 0), rel=1e-6)
        assert left == pytest.approx(right, rel=bound, abs=bound)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The training of one process."""
    folder = tmp_path_factory.mktemp("one") / "alone"
    with finished({"folder": str(folder), "held_out": 8, **WIDE, **ONE}):
        return folder


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The same of two."""
    folder = tmp_path_factory.mktemp("two") / "together"
    with finished({"folder": str(folder), "held_out": 8, **WIDE, **TWO}, processes=2):
        return folder


def test_two_processes_give_the_curve_and_the_weights_of_one(alone, together):
    assert any("eval_loss" in line for line in curve(alone))
    same_curve(curve(alone), curve(together), 1e-9)
    torch.testing.assert_close(left_by(alone), left_by(together), rtol=0, atol=1e-10)
    torch.testing.assert_close(left_by(together), left_by(together, 1), rtol=0, atol=0)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_checkpoint_is_gone_on_with_by_another_number_of_processes(
    alone, together, tmp_path, processes
):
    before = together if processes == 1 else alone
    folder = tmp_path / "cut"
    shutil.copytree(before / "checkpoint-8", folder / "checkpoint-8")
    shutil.copy(before / "training.json", folder)

    rows = ONE if processes == 1 else TWO
    with finished({"folder": str(folder), "held_out": 8, **WIDE, **rows}, processes):
        pass

    same_curve(curve(folder), curve(alone), 1e-9)
    torch.testing.assert_close(left_by(folder), left_by(alone), rtol=0, atol=1e-10)


def test_a_base_that_is_trained_too_and_accumulation_are_divided(tmp_path):
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    with finished({"folder": one, **WIDE, **FREE, "epochs": 1.0}):
        pass
    more = {"batch_size": 1, "accumulate": 2, "epochs": 1.0}
    with finished({"folder": two, **WIDE, **FREE, **more}, processes=2):
        pass

    same_curve(curve(one), curve(two), 1e-8)
    torch.testing.assert_close(left_by(one), left_by(two), rtol=0, atol=1e-9)


def streamed(arguments):
    """Train on a stream, in one process of several or alone."""
    rows = load_rows(DataSettings(source=arguments["source"], streaming=True), Bytes())
    model = train(arguments["folder"], model_of(dtype=torch.float64), rows, **arguments["more"])
    torch.save(weights_of(model), f"{arguments['folder']}.{os.environ.get('RANK', 0)}.pt")


class Bytes:
    """Makes a token of each letter."""

    eos_token_id = 2

    def __call__(self, texts, **_):
        return {"input_ids": [[3 + ord(letter) % 50 for letter in text] for text in texts]}


def test_a_stream_is_divided_among_processes(tmp_path):
    source = tmp_path / "pairs.jsonl"
    lines = [json.dumps({"prompt": "p" * (i % 5), "completion": f"c{i}" * 2}) for i in range(24)]
    source.write_text("\n".join(lines), encoding="utf-8")
    steps = {"max_steps": 9, "epochs": 1.0}
    common = {"source": str(source), "target": streamed}

    with finished({"folder": str(tmp_path / "one"), "more": {**steps, **ONE}, **common}) as one:
        pass
    with finished({"folder": str(tmp_path / "two"), "more": {**steps, **TWO}, **common}, 2) as two:
        pass

    same_curve(curve(one), curve(two), 1e-9)
    torch.testing.assert_close(left_by(one), left_by(two), rtol=0, atol=1e-10)


def disk_full(arguments):
    """Train in a process that can soon write no more."""
    train(arguments["folder"], callbacks=[FullDisk()], **TWO)


class FullDisk(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == 5:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))


def test_a_full_disk_ends_all_processes_and_leaves_the_last_good_checkpoint(tmp_path):
    members = start({"folder": str(tmp_path / "out"), "target": disk_full}, processes=2)
    for each in members:
        each.join(120)

    assert [each.exitcode for each in members] == [1, 1]
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == ["checkpoint-4", "training.json"]


def test_torchrun_starts_it(tmp_path):
    arguments = {"folder": str(tmp_path / "out"), "max_steps": 4, **TWO}
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tests)}

    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *("--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"),
            *(str(tests / "small_training.py"), json.dumps(arguments)),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-2000:]
    alone = train(tmp_path / "alone", max_steps=4)
    torch.testing.assert_close(left_by(tmp_path / "out"), weights_of(alone), rtol=0, atol=1e-5)


def student_of(unfreeze, kind):
    model = model_of(kind=kind, dtype=torch.float64)
    freeze_(model, (1, 2, 3), unfreeze=unfreeze)
    weights = dict.fromkeys((1, 2, 3), 1.0) | ({"original": 1.0} if unfreeze else {})
    lesson = Lesson(objective=Objective(name="mixed"), exit_weights=weights, share=0.5)
    return Student(model, lesson, frozen=not unfreeze)


def loop(student, rank, size):
    """Train for a few steps by hand, each process on its part of every batch; give the losses."""
    trained = [each for each in student.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    rows, give = ragged_rows(16), shifted(collate, student.model)
    losses = []
    for step in range(4):
        batch = rows[4 * step : 4 * step + 4]
        count = (give(batch)["shift_labels"] != -100).sum() / size  # FSDP takes the mean
        mine = give(batch[rank * 4 // size : (rank + 1) * 4 // size])
        loss = student(**mine, num_items_in_batch=count, step=step)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        whole = loss.detach().clone()
        if size > 1:
            dist.all_reduce(whole, op=dist.ReduceOp.AVG)
        losses.append(float(whole))
    return losses


def sharded(arguments):
    """Train a sharded student, put its weights back into another one, and leave everything."""
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo")
    student = student_of(arguments["unfreeze"], arguments["kind"])
    shard(student, arguments["blocks"])
    losses = loop(student, rank, 2)
    taken = take_weights(student)
    other = student_of(arguments["unfreeze"], arguments["kind"])
    shard(other, arguments["blocks"])
    put_weights(other, taken)
    again = take_weights(other)
    local = sum(each.to_local().numel() for each in student.parameters())
    torch.save(
        {"losses": losses, "taken": taken, "again": again, "local": local},
        f"{arguments['folder']}.{rank}.pt",
    )
    dist.barrier()
    dist.destroy_process_group()


def shard(student, blocks):
    if blocks:
        for block in student.model.anatomy.blocks:
            fully_shard(block)
    fully_shard(student)


@pytest.mark.parametrize(
    ("unfreeze", "kind", "blocks"),
    [(False, "lens", False), (False, "head", True), (True, "head", True), (False, "block", True)],
)
def test_a_sharded_student_learns_what_a_whole_one_learns(tmp_path, unfreeze, kind, blocks):
    folder = str(tmp_path / "shards")
    asked = {"folder": folder, "unfreeze": unfreeze, "kind": kind, "blocks": blocks}
    whole = student_of(unfreeze, kind)
    losses = loop(whole, 0, 1)

    with finished({**asked, "target": sharded}, processes=2):
        pass

    first, second = left_by(folder), left_by(folder, 1)
    assert first["losses"] == pytest.approx(losses, rel=1e-10)
    torch.testing.assert_close(first["taken"], take_weights(whole), rtol=0, atol=1e-10)
    assert second["taken"] == {}
    assert first["taken"].keys() == first["again"].keys()
    assert all(torch.equal(each, first["again"][name]) for name, each in first["taken"].items())
    put_weights(whole, first["taken"])
    assert all(
        torch.equal(each, first["taken"][name]) for name, each in take_weights(whole).items()
    )
    size = sum(each.numel() for each in whole.parameters())
    assert first["local"] + second["local"] == size
    assert first["local"] < 0.6 * size


def test_weights_of_a_plain_student_go_into_another():
    plain = student_of(True, "lens")
    loop(plain, 0, 1)
    taken = take_weights(plain)

    other = student_of(True, "lens")
    put_weights(other, taken)

    assert all(torch.equal(each, taken[name]) for name, each in take_weights(other).items())
    assert taken.keys() == plain.model.state_dict().keys()


def test_taken_weights_of_a_frozen_base_are_the_exits_alone():
    taken = take_weights(student_of(False, "lens"))

    assert {name.split(".")[0] for name in taken} == {"exits"}


def test_weights_of_another_student_are_refused():
    taken = take_weights(student_of(False, "lens"))

    with pytest.raises(CheckpointError, match="attach the same"):
        put_weights(student_of(False, "head"), taken)
