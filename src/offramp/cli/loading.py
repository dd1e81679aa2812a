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
from offramp.models.default import FOLDER, ensure_default
from offramp.models.embedded import SHIPPED

SAMPLES = 16
HUB_NAME = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*")


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model with what belongs to it."""

    model: Any
    tokenizer: Any
    name: str
    """What the user named, or the embedded default's name."""


def load(name: str | None, *, dtype: str, device: str, exits: str | None = None) -> Loaded:
    """Load a model with exits at every block, unless it brings its own, and its tokenizer.

    Args:
        name: Folder or hub name; None is the embedded default with the exits that ship with it.
        dtype: ``"auto"`` or a name of torch.
        device: ``"auto"`` or a name of torch.
        exits: Folder or hub name of exits that are kept apart from the model.

    Raises:
        ConfigError: The device cannot be used.
        CheckpointError: The model or its tokenizer cannot be loaded.
        DownloadError: The embedded default cannot be fetched.
    """
    if name is None and exits is None:
        exits = str(SHIPPED)
    loaded = load_as_it_is(name, dtype=dtype, place=device_of(device), exits=exits)
    model = loaded.model
    if not model.exit_numbers and model.depth > 1:
        attach_exits(model, range(1, model.depth), "direct")
    return loaded


def load_as_it_is(
    name: str | None, *, dtype: str, place: torch.device, exits: str | None = None
) -> Loaded:
    """Load a model with those exits only that it brings, and its tokenizer.

    Args:
        name: Folder or hub name; None is the embedded default.
        dtype: ``"auto"`` or a name of torch.
        place: Where it shall run.
        exits: Folder or hub name of exits that are kept apart from the model.

    Raises:
        CheckpointError: The model or its tokenizer cannot be loaded.
        DownloadError: The embedded default cannot be fetched.
    """
    source, exact = name, dtype
    if source is None:
        source = str(ensure_default(show_progress=sys.stderr.isatty()))
        exact = "float32" if dtype == "auto" else dtype
    elif os.path.isdir(source):
        source = os.path.abspath(source)  # exits that are saved name their base by it
    elif not HUB_NAME.fullmatch(source):
        raise CheckpointError(
            f"--model {name!r} is no folder, nor a hub name such as owner/name; check the path"
        )
    model = AutoMultiExitModel.from_pretrained(source, exits=exits, dtype=exact)
    tokenizer = _tokenizer_of(model, source)
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
    except Exception as error:  # over damaged files its readers raise anything
        raise CheckpointError(
            f"cannot load the tokenizer of {name!r}: {first_line(error)}; save it into the folder "
            "of the base"
        ) from error


def device_of(name: str) -> torch.device:
    """Find a device, and make sure that it can be used.

    Args:
        name: ``"auto"``, which is CUDA where there is one, or a name of torch.

    Raises:
        ConfigError: It cannot be used.
    """
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
