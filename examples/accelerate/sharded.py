"""Train exits of a base that does not fit on one GPU: its blocks are sharded by torch (FSDP2).

The loop is short, so that it can be made your own: rows in, one step, checkpoints that any number
of processes goes on from. A thousand steps on two machines of eight GPUs, the same on both but for
the rank:

    accelerate launch --config_file examples/accelerate/ddp_two_nodes.yaml \
        --main_process_ip 10.0.0.1 --machine_rank 0 examples/accelerate/sharded.py \
        --model my-70b --data text.jsonl --exits '10;20;30' --output /shared/exits --steps 1000

accelerate only starts the processes here; it is `fully_shard` that divides weights, gradients and
the optimiser's state among them, and torch.distributed.checkpoint that writes each shard.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as checkpoints
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoTokenizer

from offramp import AutoMultiExitModel, attach_exits, save_exits
from offramp.config import parse_exits
from offramp.training.data import Collator, DataSettings, load_rows
from offramp.training.exits import freeze_, shifted
from offramp.training.objectives import Objective
from offramp.training.student import Lesson, Student
from offramp.training.weights import take_weights

TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)


def main() -> None:
    """Shard, train, save."""
    asked = options()
    if asked.cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if asked.cuda else "gloo")
    mesh = init_device_mesh("cuda" if asked.cuda else "cpu", (dist.get_world_size(),))
    exits = parse_exits(asked.exits)
    plain = model_of(asked, exits)  # whole, in the machine's memory; only shards go to a GPU
    lesson = Lesson(objective=Objective(name="mixed"), exit_weights=dict.fromkeys(exits, 1.0))
    student = Student(plain, lesson)
    for block in plain.anatomy.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(student, mesh=mesh)
    trained = [each for each in student.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=asked.learning_rate)
    train(student, optimizer, asked)
    weights = take_weights(student)  # whole tensors, on the first process alone
    if dist.get_rank() == 0:
        whole = model_of(asked, exits)
        whole.load_state_dict(weights, strict=False)
        save_exits(whole, asked.output)
    dist.barrier()
    dist.destroy_process_group()


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", required=True, help="folder or hub name of the base")
    parser.add_argument("--data", required=True, help="text to train on")
    parser.add_argument("--output", required=True, type=Path, help="a folder that all machines see")
    parser.add_argument("--exits", required=True, help="such as '10;20;30'")
    parser.add_argument("--projection", default="lens")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=16, help="of a step, on all processes together")
    parser.add_argument("--block-size", type=int, default=512)
    parser.add_argument("--save-steps", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--cuda", action=argparse.BooleanOptionalAction, default=None)
    asked = parser.parse_args()
    asked.cuda = torch.cuda.is_available() if asked.cuda is None else asked.cuda
    return asked


def model_of(asked: argparse.Namespace, exits: tuple[int, ...]) -> Any:
    """Load the base and attach fresh exits."""
    base = AutoMultiExitModel.from_pretrained(asked.model, dtype=getattr(torch, asked.dtype))
    model = attach_exits(base, exits, asked.projection)
    freeze_(model, exits, unfreeze=False)
    return model


def train(student: Student, optimizer: torch.optim.Optimizer, asked: argparse.Namespace) -> None:
    """Go through the rows, each process with its part of every step."""
    rank, size = dist.get_rank(), dist.get_world_size()
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    rows = load_rows(DataSettings(source=asked.data, block_size=asked.block_size), tokenizer)
    batch_of = shifted(Collator(tokenizer), student.model)
    for step in range(go_on(student, optimizer, asked.output), asked.steps):
        batch = [rows[(step * asked.rows + row) % len(rows)] for row in range(asked.rows)]
        count = (batch_of(batch)["shift_labels"] != -100).sum() / size  # FSDP takes the mean
        mine = batch_of(batch[rank * asked.rows // size : (rank + 1) * asked.rows // size])
        mine = {name: each.to(student.model.device) for name, each in mine.items()}
        loss = student(**mine, num_items_in_batch=count, step=step)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % asked.save_steps == 0 or step + 1 == asked.steps:
            state = state_of(student, optimizer)
            checkpoints.save(state, checkpoint_id=asked.output / f"shards-{step + 1}")


def state_of(student: Student, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Give this process's shards of what is trained."""
    model, state = get_state_dict(student, optimizer, options=TRAINED)
    return {"model": model, "optimizer": state}


def go_on(student: Student, optimizer: torch.optim.Optimizer, folder: Path) -> int:
    """Load the newest whole checkpoint, of however many processes; give its step."""
    whole = [each.parent for each in folder.glob("shards-*/.metadata")]  # written last
    if not whole:
        return 0
    last = max(whole, key=lambda each: int(each.name.removeprefix("shards-")))
    state = state_of(student, optimizer)
    checkpoints.load(state, checkpoint_id=last)
    set_state_dict(
        student,
        optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
        options=TRAINED,
    )
    return int(last.name.removeprefix("shards-"))


if __name__ == "__main__":
    main()
