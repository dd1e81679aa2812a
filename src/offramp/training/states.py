"""Keep the states of exits on disk, so that a second training needs no pass through the base.

In:  a student and batches. Out: a folder of shards, one for each batch, and batches made of them.
Law: training on kept states gives what training on the text gave, with the same positions and
     seeds; states of another base or text are never taken for those asked for
     (tests/training/test_states.py).
Not here: ``block`` exits, which need every position, and a base that is trained, whose states
     change; both are refused.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset

from offramp.blocks.projections import Block
from offramp.blocks.watch import Watched
from offramp.errors import ConfigError, InputError, first_line
from offramp.logits.labels import NO_LABEL
from offramp.models.files import json_of
from offramp.models.fingerprint import check_fingerprint, fingerprint_of
from offramp.models.weight_files import UNREADABLE_TENSORS
from offramp.training.objectives import Objective
from offramp.training.positions import position_weights
from offramp.training.student import Kept, Student
from offramp.whole import write_text_whole

TABLE = "states.json"


def keep_states(
    student: Student,
    batches: Iterable[Mapping[str, Tensor]],
    folder: str | Path,
    *,
    advance: Callable[[int], None] = lambda positions: None,
) -> int:
    """Write the states at the chosen positions of each batch; go on with what is there.

    Args:
        student: Its lesson says which exits and positions.
        batches: As the student takes them, in a fixed order.
        folder: Made if missing.
        advance: Called with the number of positions of each batch.

    Returns:
        How many positions the folder holds.

    Raises:
        ConfigError: An exit is a ``block``, or the base is not frozen.
        InputError: The folder holds states of another base, lesson or text, a shard is damaged, or
            the folder cannot be written.
    """
    folder = Path(folder)
    numbers = _numbers(student)
    if not student.frozen:
        raise ConfigError(
            "states of a base that is trained change at every step; train it on the text"
        )
    looking = Student(student.model, replace(student.lesson, objective=Objective())).eval()
    _claim(folder, student, numbers)
    count = 0
    for step, batch in enumerate(batches):
        path = folder / f"{step:06d}.safetensors"
        tokens = batch["shift_labels"][looking.choose(batch, step=step)].cpu()
        if not path.exists():
            _write(path, _states(looking, batch, step=step))
        elif not torch.equal(_read(path)["tokens"], tokens):
            raise InputError(f"{path} holds states of another text; name another folder")
        positions = len(tokens)
        count += positions
        advance(positions)
    return count


def kept_batches(student: Student, folder: str | Path) -> Iterator[dict[str, Any]]:
    """Read the states back as batches that the student takes, one for each shard.

    Raises:
        InputError: There are none, a shard is damaged, or they are of other exits.
        CheckpointError: They are of another base.
        ConfigError: An exit is a ``block``.
    """
    states = KeptStates(student, folder)
    return (states[place] for place in range(len(states)))


class KeptStates(Dataset[dict[str, Any]]):
    """The batches of a folder, each read when it is asked for; ``train_exits`` takes them as rows.

    Args:
        student: Its lesson says which exits.
        folder: Where ``keep_states`` wrote.

    Raises:
        InputError: There are none, or they are of other exits.
        CheckpointError: They are of another base.
        ConfigError: An exit is a ``block``.
    """

    def __init__(self, student: Student, folder: str | Path) -> None:
        self._exits = _numbers(student)
        _check(student, Path(folder), self._exits)
        self._paths = sorted(Path(folder).glob("*.safetensors"))

    def __len__(self) -> int:
        """Count the batches."""
        return len(self._paths)

    def __getitem__(self, place: int) -> dict[str, Any]:
        """Read one batch.

        Raises:
            InputError: Its shard is damaged.
        """
        path = self._paths[place]
        shard = _read(path)
        parts = [*(f"exit.{exit}" for exit in self._exits), "final", "tokens", "weights"]
        if missing := sorted(set(parts) - set(shard)):
            raise InputError(f"{path} is damaged (no {missing}); delete it and make it again")
        seen = Watched(
            states={exit: shard[f"exit.{exit}"] for exit in self._exits},
            head_input=shard["final"],
        )
        weights = shard["weights"]
        matter = torch.zeros(round(float(weights.sum())), dtype=torch.long)
        kept = Kept(seen=seen, tokens=shard["tokens"], weights=weights)
        # Trainer counts labels to learn how much each batch of a step counts.
        return {"kept": kept, "labels": matter, "shift_labels": matter}


def _check(student: Student, folder: Path, exits: list[int]) -> None:
    facts = _facts(folder)
    missing = sorted(set(exits) - set(facts["exits"]))
    if missing:
        raise InputError(f"{folder} holds no states of exits {missing}, only of {facts['exits']}")
    check_fingerprint(student.model, facts["fingerprint"], str(folder))


def _states(student: Student, batch: Mapping[str, Tensor], *, step: int) -> dict[str, Tensor]:
    with torch.no_grad():
        view, chosen = student.see(batch, step=step)
    states = {f"exit.{exit}": view.keep(view.seen.states[exit]) for exit in student.lesson.numbers}
    states["final"] = view.seen.finished()
    states["tokens"] = batch["shift_labels"][chosen]
    states["weights"] = position_weights(batch["shift_labels"] != NO_LABEL, chosen)
    return states


def _write(path: Path, states: Mapping[str, Tensor]) -> None:
    """Write a shard beside its place and move it there, so that it is never half there."""
    partial = path.with_suffix(".part")
    try:
        save_file({name: each.contiguous().cpu() for name, each in states.items()}, partial)
        partial.replace(path)
    except (SafetensorError, OSError) as error:
        partial.unlink(missing_ok=True)
        raise InputError(
            f"cannot write {path}: {first_line(error)}; free some space and run the same again: "
            "it goes on from there"
        ) from None


def _read(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except UNREADABLE_TENSORS as error:
        raise InputError(
            f"{path} is damaged ({first_line(error)}); delete it and make it again"
        ) from None
    return tensors


def _facts(folder: Path) -> dict[str, Any]:
    try:
        facts = json_of((folder / TABLE).read_text(encoding="utf-8"))
        return {name: facts[name] for name in ("exits", "share", "seed", "fingerprint")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder} holds no kept states ({first_line(error)}); make them by keep_states"
        ) from None


def _numbers(student: Student) -> list[int]:
    numbers = list(student.lesson.numbers)
    attached = dict(student.model.exits.items())
    for exit in numbers:
        if isinstance(attached.get(str(exit)), Block):
            raise ConfigError(
                f"exit {exit} is a 'block', which needs the states of every position; train it on "
                "the text"
            )
    return numbers


def _claim(folder: Path, student: Student, exits: list[int]) -> None:
    facts = {
        "exits": exits,
        "share": student.lesson.share,
        "seed": student.lesson.seed,
        "fingerprint": fingerprint_of(student.model),
    }
    table = folder / TABLE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not table.exists():
            write_text_whole(table, json.dumps(facts, indent=1) + "\n")
            return
    except OSError as error:
        raise InputError(
            f"cannot keep states in {folder}: {error.strerror or error}; name a folder that can be "
            "written"
        ) from None
    if _facts(folder) != facts:
        raise InputError(
            f"{folder} holds states of another base, other exits or positions; name another folder"
        )
