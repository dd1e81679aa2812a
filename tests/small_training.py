"""A training of seconds that tests run, here or in processes of their own."""

import json
import multiprocessing
import os
import socket
import sys
from contextlib import contextmanager
from pathlib import Path

import torch

import tiny
from offramp import attach_exits
from offramp.training.data import Collator
from offramp.training.exits import train_exits
from offramp.training.settings import TrainSettings

ROWS = 24
USUAL = {
    "objective": "mixed",
    "positions": 0.5,
    "batch_size": 4,
    "epochs": 2.0,
    "save_steps": 4,
    "log_steps": 3,
    "keep": 5,
    "learning_rate": 1e-2,
    "seed": 3,
}
"""Two epochs of six steps: a checkpoint in the middle of each, log lines that span them."""
QUIET = {"use_cpu": True, "disable_tqdm": True}


class Pad:
    pad_token_id, eos_token_id = 0, None


collate = Collator(Pad())


def model_of(family="llama", kind="lens", exits=(1, 2, 3), dtype=torch.float32, **extra):
    return attach_exits(tiny.model_of(family, **extra).to(dtype), exits, kind)


def ragged_rows(count=ROWS, seed=0):
    """Pairs of several lengths: what is learnt is their second part."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        hidden, learnt = torch.randint(1, 9, (2,), generator=generator).tolist()
        ids = torch.randint(3, tiny.VOCAB, (hidden + learnt,), generator=generator).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * hidden + ids[hidden:]})
    return rows


def train(folder, model=None, rows=None, **more):
    """Train into a folder; what is no setting goes to transformers or to ``train_exits``."""
    named = {**USUAL, **more}
    fields = TrainSettings.__dataclass_fields__
    settings = TrainSettings(**{name: named[name] for name in named if name in fields})
    rest = {name: named[name] for name in named if name not in fields}
    model = model_of() if model is None else model
    rows = ragged_rows() if rows is None else rows
    train_exits(model, rows, folder, settings, collate=collate, **{**QUIET, **rest})
    return model


def weights_of(model):
    return {name: each.detach().clone() for name, each in model.state_dict().items()}


def curve(folder):
    """What the newest checkpoint's log says of losses, at each step."""
    found = sorted(Path(folder).glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    state = json.loads((found[-1] / "trainer_state.json").read_text("utf-8"))
    return [
        {name: line[name] for name in line if "runtime" not in name and "per_second" not in name}
        for line in state["log_history"]
    ]


def run(arguments):
    """What a process of its own does: train, and leave the weights beside the folder."""
    family = arguments.pop("family", {})
    if "dtype" in family:
        family["dtype"] = getattr(torch, family["dtype"])
    folder = arguments.pop("folder")
    if "held_out" in arguments:
        arguments["held_out"] = ragged_rows(arguments["held_out"], seed=1)
    model = train(folder, model_of(**family), **arguments)
    torch.save(weights_of(model), f"{folder}.{os.environ.get('RANK', 0)}.pt")


def _member(rank, size, port, arguments):
    group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if size > 1:
        os.environ.update({name: str(value) for name, value in {**group, **address}.items()})
    torch.set_num_threads(1)
    target = arguments.pop("target", run)
    target(arguments)


def start(arguments, processes=1):
    """Start a training in processes of its own, forked from one that has imported all of it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["offramp.training.exits", "tiny"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = [
        context.Process(target=_member, args=(rank, processes, port, dict(arguments)))
        for rank in range(processes)
    ]
    for each in started:
        each.start()
    return started


@contextmanager
def finished(arguments, processes=1):
    """Wait for such a training; it must succeed."""
    members = start(arguments, processes)
    for each in members:
        each.join(120)
    assert [each.exitcode for each in members] == [0] * processes
    yield Path(arguments["folder"])


if __name__ == "__main__":
    run(json.loads(sys.argv[1]))
