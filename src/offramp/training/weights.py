"""Take the weights that are trained out of a student, and put them back, however it is spread.

In:  a student, plain, in DDP or sharded by FSDP. Out: whole tensors on the CPU, by their names in
     the model.
Law: put back what was taken out, on any number of processes, and the weights are the same bits
     (tests/training/test_processes.py).
Not here: files (offramp.models.storage, offramp.models.checkpoint).
"""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)

PREFIX = "model."


def take_weights(student: nn.Module) -> dict[str, Tensor]:
    """Give the exits' tensors and, of a base that is trained, the base's; called on every process.

    Of a sharded student only the first process gets them.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(student, options=options)
    frozen = getattr(student, "frozen", True)
    return {
        name.removeprefix(PREFIX): tensor
        for name, tensor in state.items()
        if not frozen or name.startswith(f"{PREFIX}exits.")
    }


def put_weights(student: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Set what ``take_weights`` gave; called on every process with the same tensors."""
    options = StateDictOptions(full_state_dict=True, strict=False)
    named = {f"{PREFIX}{name}": tensor for name, tensor in weights.items()}
    set_model_state_dict(student, named, options=options)
