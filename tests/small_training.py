"""A training of seconds that tests run, here or in processes of their own."""

import faulthandler
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import weakref
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")  # see ``start``

import torch
from torch.distributed import TCPStore

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
PATIENCE = 120
"""Seconds that a member may take; shortly before, it says where it hangs."""
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


class Group(list):
    """The processes of a training, and what they leave behind.

    It holds their store, which so is there before the first of them starts and after the last one
    ends, on a port that nobody else can take.
    """

    def __init__(self, size):
        super().__init__()
        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.folder = tempfile.mkdtemp(prefix="members-")
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.environments = [
            {
                **{"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size},
                **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": self.store.port},
                "TORCHELASTIC_USE_AGENT_STORE": True,  # connect to it, as under torchrun
            }
            for rank in range(size)
        ]

    def told(self):
        """How each of them ended, and the last that it said."""
        lines = [f"killed for want of memory on this machine since it started: {oom_kills()}"]
        for rank, each in enumerate(self):
            said = Path(self.folder, str(rank)).read_text("utf-8", errors="replace")
            lines += [f"--- member {rank}: {ended(each.exitcode)}", said[-4000:]]
        return "\n".join(lines)


def ended(code):
    """Name an exit code."""
    if code is None:
        return "did not end"
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"


def oom_kills():
    """How many processes the kernel has killed because memory was short."""
    try:
        counters = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    except OSError:
        return "unknown"
    return counters.get("oom_kill", "unknown")


def _member(said, environment, arguments):
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 2)
    faulthandler.enable()
    faulthandler.dump_traceback_later(PATIENCE - 10, exit=False)
    if environment["WORLD_SIZE"] > 1:
        os.environ.update({name: str(value) for name, value in environment.items()})
    torch.set_num_threads(1)
    target = arguments.pop("target", run)
    target(arguments)


def start(arguments, processes=1):
    """Start a training in processes of its own, forked from one that has imported all of it.

    That one has a single thread: a fork takes along whatever lock another thread holds. (pyarrow's
    jemalloc would start one.)
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["offramp.training.exits", "tiny"])
    group = Group(processes)
    group.extend(
        context.Process(
            target=_member,
            args=(os.path.join(group.folder, str(rank)), environment, dict(arguments)),
        )
        for rank, environment in enumerate(group.environments)
    )
    for each in group:
        each.start()
        each.group = group  # whoever holds one of them holds their store and folder
    return group


@contextmanager
def finished(arguments, processes=1):
    """Wait for such a training; it must succeed."""
    members = start(arguments, processes)
    for each in members:
        each.join(PATIENCE)
    assert [each.exitcode for each in members] == [0] * processes, members.told()
    yield Path(arguments["folder"])


if __name__ == "__main__":
    run(json.loads(sys.argv[1]))
