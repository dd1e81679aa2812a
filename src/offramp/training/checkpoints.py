"""Find, check and read the checkpoints of a training.

In:  the folder of a training. Out: its newest whole checkpoint, put into the model.
Law: a checkpoint that was cut off at any byte is passed over, one of another training or with code
     in it is refused, and no pickle is ever executed (tests/training/test_killed.py).
Not here: writing them (offramp.training.trainer), the files of exits (offramp.models.checkpoint).

A checkpoint holds the exits, base and exits, or a model alone, as a model's folder does, and
``optimizer.pt``, ``scheduler.pt``, ``rng_state*.pth`` and, written last, ``trainer_state.json``.
Beside the checkpoints ``training.json`` says what was trained how.
"""

import json
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from offramp.errors import CheckpointError, first_line
from offramp.models.checkpoint import TABLE, TENSORS, read_own
from offramp.models.files import json_of
from offramp.models.fingerprint import check_fingerprint
from offramp.whole import write_text_whole

FACTS = "training.json"
_UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    SafetensorError,
    pickle.UnpicklingError,
)
"""What torch and transformers raise over a file that is missing, damaged or foreign."""


def last_checkpoint(output: str | Path, *, exits: bool = True) -> str | None:
    """Give the newest whole checkpoint in a folder; one that was cut off is passed over.

    Args:
        output: Folder of the training.
        exits: Whether checkpoints hold exits, and not a model alone.
    """
    whole = [path for path in _checkpoints(Path(output)) if is_whole(path, exits=exits)]
    return str(max(whole, key=_step)) if whole else None


def is_whole(checkpoint: Path, *, exits: bool = True) -> bool:
    """Tell whether a checkpoint was written to its end.

    Args:
        checkpoint: Its folder.
        exits: Whether it holds exits, and not a model alone.
    """
    weights = list(checkpoint.glob("model*.safetensors"))
    if exits:
        weights.append(checkpoint / TENSORS)
    table = TABLE if exits else "config.json"
    pickles = [checkpoint / "optimizer.pt", checkpoint / "scheduler.pt"]
    pickles += [*checkpoint.glob("rng_state*.pth"), *checkpoint.glob("scaler.pt")]
    try:
        for path in (checkpoint / table, checkpoint / "trainer_state.json"):
            json_of(path.read_text(encoding="utf-8"))
        for path in weights:
            with safe_open(path, framework="pt"):  # it compares the length with the header
                pass
    except (OSError, ValueError, SafetensorError):
        return False
    return bool(weights) and all(map(zipfile.is_zipfile, pickles))


def check_facts(
    output: str | Path, facts: Mapping[str, Any], *, write: bool, exits: bool = True
) -> None:
    """Refuse to go on with another training; note what this one is.

    Args:
        output: Folder of the training.
        facts: What decides its course, as JSON.
        write: Whether this process writes files.
        exits: Whether checkpoints hold exits, and not a model alone.

    Raises:
        CheckpointError: The folder holds checkpoints of another training, or cannot be written.
    """
    path = Path(output, FACTS)
    if last_checkpoint(output, exits=exits) is not None:
        try:
            known = dict(json_of(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"cannot tell of which training the checkpoints in {output} are "
                f"({first_line(error)}); name another folder"
            ) from None
        if changed := [name for name in facts if known.get(name) != facts[name]]:
            name = changed[0]
            raise CheckpointError(
                f"{output} holds checkpoints of another training: its {name} is "
                f"{known.get(name)}, not {facts[name]}; name another folder, or train as before"
            )
    elif write:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text_whole(path, json.dumps(facts, indent=1) + "\n")
        except OSError as error:
            raise CheckpointError(f"cannot write {path}: {first_line(error)}") from None


@contextmanager
def readable(checkpoint: str | Path | None) -> Iterator[None]:
    """Turn what libraries say about a damaged checkpoint into one line."""
    try:
        yield
    except CheckpointError:
        raise
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{checkpoint} is damaged, foreign or holds code, which is never run "
            f"({type(error).__name__}: {first_line(error)[:200]}); delete it and run the same "
            "command again"
        ) from None


def load_checkpoint_(model: Any, folder: str | Path, *, base: bool) -> None:
    """Put the weights of a checkpoint into a model.

    Args:
        model: With the same exits attached.
        folder: A checkpoint that a training left.
        base: Whether the base was trained too.

    Raises:
        CheckpointError: It is damaged, holds other exits, or was made with another base.
    """
    with readable(folder):
        stored = read_own(Path(folder, TABLE))
        if set(stored.projections) != set(model.exit_numbers):
            raise CheckpointError(
                f"{folder} holds exits {sorted(stored.projections)}, the model has "
                f"{list(model.exit_numbers)}; attach the same, or name another output folder"
            )
        if base:
            plain = type(model).base_class.from_pretrained(
                folder, dtype=model.dtype, use_safetensors=True
            )
            model.load_state_dict(plain.state_dict(), strict=False)
        elif stored.fingerprint:
            check_fingerprint(model, dict(stored.fingerprint), str(folder))
        stored.fill_(model.exits)


def load_model_(model: Any, folder: str | Path) -> None:
    """Put the weights of a checkpoint that holds no exits into a model.

    Args:
        model: Of the same configuration.
        folder: A checkpoint that a training left.

    Raises:
        CheckpointError: It is damaged, or of another model.
    """
    with readable(folder):
        stored = type(model).from_pretrained(folder, dtype=model.dtype, use_safetensors=True)
        model.load_state_dict(stored.state_dict())


def _checkpoints(output: Path) -> Iterator[Path]:
    if output.is_dir():
        for name in os.listdir(output):
            start, _, number = name.rpartition("-")
            if start == "checkpoint" and number.isdecimal():
                yield output / name


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
