"""Load the model that a command names, ready to answer from its exits.

In:  a name, a dtype and a device as text. Out: model, tokenizer and the name for results.
Not here: the embedded default (offramp.models.embedded), formats of files (offramp.models.auto).
"""

import os
import re
import sys
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch
from transformers import AutoTokenizer

from offramp.errors import CheckpointError, ConfigError, first_line
from offramp.models.attach import attach_exits
from offramp.models.auto import AutoMultiExitModel
from offramp.models.default import FOLDER
from offramp.models.embedded import load_default

SAMPLES = 16
HUB_NAME = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*")


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model with what belongs to it."""

    model: Any
    tokenizer: Any
    name: str
    """What the user named, or the embedded default's name."""


def load(name: str | None, *, dtype: str, device: str) -> Loaded:
    """Load a model with exits at every block, unless it brings its own, and its tokenizer.

    Args:
        name: Folder or hub name; None is the embedded default.
        dtype: ``"auto"`` or a name of torch.
        device: ``"auto"`` or a name of torch.

    Raises:
        ConfigError: The device cannot be used.
        CheckpointError: The model or its tokenizer cannot be loaded.
        DownloadError: The embedded default cannot be fetched.
    """
    place = _device(device)
    if name is None:
        exact = getattr(torch, "float32" if dtype == "auto" else dtype)
        model, tokenizer = load_default(dtype=exact, show_progress=sys.stderr.isatty())
    else:
        if not os.path.isdir(name) and not HUB_NAME.fullmatch(name):
            raise CheckpointError(
                f"--model {name!r} is no folder, nor a hub name such as owner/name; check the path"
            )
        model = AutoMultiExitModel.from_pretrained(name, dtype=dtype)
        tokenizer = _tokenizer_of(model, name)
        if not model.exit_numbers and model.depth > 1:
            attach_exits(model, range(1, model.depth), "direct")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Loaded(model=model.eval().to(place), tokenizer=tokenizer, name=name or FOLDER)


def weights_hash(model: Any) -> str:
    """Tell models apart by a few values of each tensor, those of the exits included."""
    digest = sha256()
    for name, tensor in model.state_dict().items():
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // SAMPLES)].double().cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {sample.tolist()}".encode())
    return digest.hexdigest()[:16]


def _tokenizer_of(model: Any, name: str) -> Any:
    """Load the tokenizer that lies beside the base, which need not be where the exits are."""
    try:
        return AutoTokenizer.from_pretrained(model.name_or_path or name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"cannot load the tokenizer of {name!r}: {first_line(error)}; save it into the folder "
            "of the base"
        ) from error


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"--device {name} cannot be used here ({first_line(error)}); use cpu or auto"
        ) from None
    return device
