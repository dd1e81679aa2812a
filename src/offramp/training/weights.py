"""Take the weights that are trained out of a student, and put them back, however it is spread.

In:  a student, plain, in DDP or sharded by FSDP. Out: whole tensors on the CPU, by their names in
     the model.
Law: put back what was taken out, on any number of processes, and the weights are the same bits
     (tests/training/test_processes.py).
Not here: files (offramp.models.storage, offramp.models.checkpoint).

To shard a student, shard the base's blocks if you like, and always the student itself last::

    for block in student.model.anatomy.blocks:
        fully_shard(block)
    fully_shard(student)

Frozen and trained weights may share a shard. Do not shard an exit, the head or the last norm by
itself: their weights are read, not called as modules, so nothing would gather them.
"""

from collections.abc import Mapping
from typing import Any

import torch.distributed
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)

from offramp.errors import CheckpointError
from offramp.training.student import Student

PREFIX = "model."


def take_weights(student: nn.Module) -> dict[str, Tensor]:
    """Give the exits' tensors and, of a base that is trained, the base's; called on every process.

    Args:
        student: A ``Student``, also inside DDP or sharded.

    Returns:
        Copies. Where there are several processes only the first one gets them, the others nothing.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: dict[str, Any] = get_model_state_dict(student, options=options)
    if _divided() and torch.distributed.get_rank() != 0:
        return {}
    frozen = _student(student).frozen
    return {
        name.removeprefix(PREFIX): tensor.detach().clone()
        for name, tensor in state.items()
        if not frozen or name.startswith(f"{PREFIX}exits.")
    }


def put_weights(student: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Set what ``take_weights`` gave; called on every process, the first one's tensors count.

    Args:
        student: A ``Student``, also inside DDP or sharded.
        weights: By name in the model.

    Raises:
        CheckpointError: They are not those of this student.
    """
    options = StateDictOptions(full_state_dict=True, strict=False, broadcast_from_rank0=_divided())
    named: dict[str, Any] = {f"{PREFIX}{name}": tensor for name, tensor in weights.items()}
    if unknown := sorted(named.keys() - _student(student).state_dict().keys()):
        raise CheckpointError(f"the student has no weights named {unknown[:3]}; attach the same")
    set_model_state_dict(student, named, options=options)


def _divided() -> bool:
    return torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


def _student(wrapped: nn.Module) -> Student:
    return next(each for each in wrapped.modules() if isinstance(each, Student))
