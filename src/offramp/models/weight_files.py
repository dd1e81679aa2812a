"""Read tensors from files that somebody else wrote.

In:  a path. Out: tensors by name.
Law: a file that is cut off, foreign, holds code or no numbers ends in one line that says so, and
     nothing in it is ever executed (tests/models/test_checkpoint.py, tests/fuzz).
Not here: what the names mean (offramp.models.checkpoint, offramp.models.drafting).
"""

import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from offramp.errors import CheckpointError, first_line

UNREADABLE_TENSORS = (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError)
"""What the reader of safetensors raises over a file that is missing, damaged or foreign."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file.

    Raises:
        CheckpointError: It is damaged, or holds values that are no numbers.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except UNREADABLE_TENSORS as error:
        raise CheckpointError(
            f"{path} is damaged or not a safetensors file ({first_line(error)}); fetch it again"
        ) from None
    check_finite(path, tensors)
    return tensors


def check_finite(source: Path | str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are no numbers: whatever is computed from them means nothing.

    Args:
        source: Where they are from, for the message.
        tensors: By name.

    Raises:
        CheckpointError: One holds NaN or infinity.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.float().isfinite().all()):
            raise CheckpointError(
                f"{source}: {name} holds values that are not finite; fetch it again, or train "
                "again with a lower learning rate"
            )


def tensors_in(path: Path, *, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Tensor]]:
    """Read some tensors of a file of weights, safetensors or torch's.

    Args:
        path: The file.
        wanted: Tells by the name whether a tensor is read.

    Raises:
        CheckpointError: It is damaged, or holds pickled code, which is never run.
    """
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - no dict
                    if wanted(name):
                        yield name, file.get_tensor(name)
        except UNREADABLE_TENSORS as error:
            raise CheckpointError(
                f"{path} is damaged or no safetensors file ({first_line(error)}); fetch it again"
            ) from None
        return
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        items = [(name, value) for name, value in state.items() if wanted(name)]
        if not all(isinstance(value, Tensor) for _, value in items):
            raise ValueError("not everything in it is a tensor")
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds pickled code, which is never run ({first_line(error)}); convert it to "
            "safetensors where you trust it"
        ) from None
    except Exception as error:  # torch's reader trips over damage in any way
        raise CheckpointError(
            f"{path} is damaged or not a file of weights ({first_line(error)}); fetch it again"
        ) from None
    yield from items
