"""A training that is killed at any moment and started again ends like one that never was.

Children are forked from a server that has imported torch already, so that they start at once.
"""

import random
import shutil
import time
from contextlib import suppress

import pytest
import torch
from transformers import TrainerCallback

from offramp.errors import CheckpointError
from offramp.training.checkpoints import is_whole, last_checkpoint
from small_training import ROWS, curve, finished, model_of, ragged_rows, start, train, weights_of

KILLS = 5
LONG = {"epochs": 8.0, "save_steps": 3, "log_steps": 2, "keep": 2}
"""48 steps of about 10 ms, and a checkpoint of about as much at every third; two are kept."""


def wait_for_writing(checkpoint, since, seconds=60):
    """Wait for a file in it that is newer than ``since``: a run before may have left others."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(FileNotFoundError):
            if any(file.stat().st_mtime > since for file in checkpoint.iterdir()):
                return
        time.sleep(0.0005)
    raise AssertionError(f"{checkpoint} was not written")


def seconds_between_checkpoints(folder):
    written = [(path / "trainer_state.json").stat().st_mtime for path in folder.glob("checkpoint*")]
    return max(written) - min(written)


def steps_done(folder):
    last = last_checkpoint(folder)
    return int(last.rpartition("-")[2]) if last else 0


def test_kills_at_random_moments_change_neither_curve_nor_weights(tmp_path):
    with finished({"folder": str(tmp_path / "whole"), **LONG}) as whole:
        pass
    moments, folder, done = random.Random(0), tmp_path / "cut", []
    pause = seconds_between_checkpoints(whole)

    for _ in range(KILLS):
        since = time.time()
        (running,) = start({"folder": str(folder), **LONG})
        wait_for_writing(folder / f"checkpoint-{steps_done(folder) + 3}", since)
        time.sleep(moments.uniform(0, 2 * pause))
        running.kill()
        running.join()
        done.append(steps_done(folder))
    with finished({"folder": str(folder), **LONG}):
        pass

    assert done == sorted(done)
    assert len({step for step in done if 0 < step < 48}) > 1, f"no kill hit the run: {done}"
    assert curve(whole) == curve(folder)
    one, other = (torch.load(f"{each}.0.pt", weights_only=True) for each in (whole, folder))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A whole training in this process: its folder and its weights."""
    folder = tmp_path_factory.mktemp("training") / "whole"
    return folder, weights_of(train(folder))


@pytest.fixture
def cut(undisturbed, tmp_path):
    """The same folder as it was when the second checkpoint had just been written."""
    folder = tmp_path / "cut"
    folder.mkdir()
    shutil.copy(undisturbed[0] / "training.json", folder)
    for name in ("checkpoint-4", "checkpoint-8"):
        shutil.copytree(undisturbed[0] / name, folder / name)
    return folder


FILES = [
    ("trainer_state.json", 0.5),
    ("trainer_state.json", None),
    ("rng_state.pth", 0.9),
    ("scheduler.pt", 0.0),
    ("optimizer.pt", 0.99),
    ("optimizer.pt", None),
    ("exits.json", 0.7),
    ("exits.safetensors", 0.99),
    ("exits.safetensors", None),
]


@pytest.mark.parametrize(("name", "share"), FILES)
def test_a_checkpoint_that_was_cut_off_is_passed_over(cut, name, share):
    path = cut / "checkpoint-8" / name
    if share is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    assert not is_whole(cut / "checkpoint-8")
    assert last_checkpoint(cut) == str(cut / "checkpoint-4")


@pytest.mark.parametrize("damage", ["none", "cut", "emptied"])
def test_it_goes_on_from_what_is_left_with_the_same_bits(cut, undisturbed, damage):
    newest = cut / "checkpoint-8"
    if damage == "cut":
        (newest / "optimizer.pt").write_bytes(b"PK")
    elif damage == "emptied":
        shutil.rmtree(newest)
        newest.mkdir()

    model = train(cut, model_of(seed=0))

    folder, weights = undisturbed
    assert curve(cut) == curve(folder)
    assert all(torch.equal(each, weights[name]) for name, each in weights_of(model).items())


def test_it_resumes_with_exits_that_were_changed_meanwhile(cut, undisturbed):
    """The start of a second run is the checkpoint, not what the model holds."""
    model = model_of()
    with torch.no_grad():
        model.exits["1"].linear.weight.fill_(7.0)

    train(cut, model)

    assert all(torch.equal(each, undisturbed[1][name]) for name, each in weights_of(model).items())


def test_what_a_killed_run_left_of_a_checkpoint_does_not_make_the_next_one_whole(cut):
    """A stale last file beside files that are being written again would look like a whole one."""
    (cut / "checkpoint-8" / "optimizer.pt").unlink()
    seen = []

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            seen.append(is_whole(cut / "checkpoint-8"))

    train(cut, callbacks=[Look()])

    assert seen == [False] * 4 + [True] * 4
    assert is_whole(cut / "checkpoint-8")


def test_exits_of_another_number_are_refused(cut):
    with pytest.raises(CheckpointError, match=r"exits \[1, 2, 3\], the model has \[0, 1, 2, 3\]"):
        train(cut, model_of(exits=(0, 1, 2, 3)), exits=(1, 2, 3))


def test_every_row_is_read_once_in_each_epoch_across_a_resume(cut):
    read = []

    class Counted(list):
        def __getitem__(self, place):
            read.append(place)
            return super().__getitem__(place)

    train(cut, rows=Counted(ragged_rows()))

    assert len(read) == 2 * ROWS - 8 * 4
    assert len(set(read)) == len(read)
