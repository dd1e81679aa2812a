"""Keep a trained drafter beside the exits of its model.

In:  a model with exits, or a folder of exits. Out: ``drafter.safetensors`` in it, or the drafter.
Law: save then load gives the same bits; what does not fit the base is refused
     (tests/models/test_drafting.py).
Not here: what a drafter computes (offramp.blocks.drafter), whose base it is: the table of exits
     beside it says so (offramp.models.checkpoint).
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from offramp.blocks.drafter import Drafter
from offramp.errors import CheckpointError, first_line
from offramp.models.weight_files import UNREADABLE_TENSORS, check_finite

FILE = "drafter.safetensors"


def save_drafter(model: Any, path: Path) -> None:
    """Write a model's drafter to a file."""
    tensors = {
        name: each.detach().contiguous() for name, each in model.drafter.state_dict().items()
    }
    save_file(tensors, path, metadata={"format": "pt"})


def attach_drafter(model: Any, path: Path) -> None:
    """Give a model the drafter of a file, on its device and in its dtype.

    Raises:
        CheckpointError: The file is damaged, or the drafter is not for this base.
    """
    like = model.get_input_embeddings().weight
    vocabulary, embedded = like.shape
    try:
        tensors = load_file(path)
        hidden, width = tensors["gate.weight"].shape
        lowest, largest = (int(each) for each in tensors["tokens"].aminmax())
    except UNREADABLE_TENSORS as error:
        raise _damaged(path, error) from None
    if width != embedded or lowest < 0 or largest >= vocabulary:
        raise CheckpointError(
            f"{path} is for a model of width {width} and tokens {lowest} to {largest}, this one "
            f"has {embedded} and {vocabulary} tokens; load the base that it was trained for"
        )
    check_finite(path, tensors)
    drafter = Drafter(width=width, hidden=hidden, num_tokens=len(tensors["tokens"]))
    try:
        drafter.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise _damaged(path, error) from None
    model.drafter = drafter.to(device=like.device, dtype=_dtype(like.dtype)).train(model.training)


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} is damaged or no drafter ({first_line(error)}); fetch it again")


def _dtype(of_base: torch.dtype) -> torch.dtype:
    return of_base if of_base.is_floating_point else torch.float32
