"""Train exits: one call around transformers' Trainer.

In:  a model with exits, rows of tokens, settings. Out: a folder with the trained exits, checkpoints
     on the way.
Law: a frozen base keeps its bits; killed at any moment and resumed, or divided over processes, the
     training ends with the same curve (tests/training/test_exits.py, test_killed.py,
     test_processes.py). A training of nothing, or of the base by mistake, does not start.
Not here: losses (offramp.training.student), rows (offramp.training.data), closed forms
     (offramp.training.closed_form), gates (offramp.training.gates).
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from offramp.errors import CheckpointError, ConfigError, first_line
from offramp.models.checkpoint import TABLE, TENSORS, read_own
from offramp.models.fingerprint import check_fingerprint
from offramp.models.storage import save_beside, save_exits
from offramp.training.settings import TrainSettings
from offramp.training.student import Student

Rows = Any
"""A data set of rows with ``input_ids`` and ``labels``, as ``offramp.training.data`` gives them."""


def train_exits(
    model: Any,
    rows: Rows,
    output: str | Path,
    settings: TrainSettings,
    *,
    collate: Callable[[Sequence[Any]], Mapping[str, Tensor]],
    held_out: Rows | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **arguments: Any,
) -> Any:
    """Train the exits of a model, and save them in a folder.

    Run under ``accelerate launch`` or torchrun it divides the work. A folder that holds checkpoints
    of the same training is gone on with.

    Args:
        model: A model with exits attached, trained in place.
        rows: What to train on.
        output: Folder for the result, checkpoints and logs.
        settings: How.
        collate: Makes a batch of rows: ``input_ids``, ``attention_mask``, ``labels``.
        held_out: Rows whose loss is computed at every checkpoint.
        callbacks: Of transformers, for progress.
        **arguments: Of transformers' ``TrainingArguments``.

    Returns:
        transformers' ``TrainOutput``.

    Raises:
        ConfigError: Nothing would be trained.
        CheckpointError: The disk is full, or a checkpoint is of another training.

    Example:
        >>> train_exits(model, rows, "out", TrainSettings(), collate=collate)  # doctest: +SKIP
    """
    numbers = trainable(model, settings.exits, unfreeze=settings.unfreeze)
    freeze_(model, numbers, unfreeze=settings.unfreeze)
    student = Student(model, settings.lesson(numbers), frozen=not settings.unfreeze)
    if settings.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if held_out is not None:
        arguments = {"eval_strategy": "steps", "eval_steps": settings.save_steps, **arguments}
    trainer = ExitTrainer(
        student,
        settings.arguments(output, **arguments),
        train_dataset=rows,
        eval_dataset=held_out,
        data_collator=shifted(collate, model),
        callbacks=list(callbacks),
    )
    result = trainer.train(resume_from_checkpoint=last_checkpoint(output))
    trainer.save_model(str(output))
    return result


def trainable(model: Any, exits: Sequence[int] | None, *, unfreeze: bool) -> tuple[int, ...]:
    """Give the exits to train.

    Raises:
        ConfigError: None of them has a parameter, and the base is frozen.
        ExitNotFoundError: One is not attached.
    """
    asked = model.exit_numbers if exits is None else tuple(exits)
    numbers: tuple[int, ...] = model.check_exits(asked, attached_only=True)
    empty = [exit for exit in numbers if not any(True for _ in model.exits[str(exit)].parameters())]
    if not unfreeze and exits is None:
        numbers = tuple(exit for exit in numbers if exit not in empty)
    elif not unfreeze and empty:
        raise ConfigError(
            f"exits {empty} are 'direct' and have nothing to train; attach 'lens', 'cast', 'head' "
            "or 'block' exits, or leave these out"
        )
    if not numbers:
        raise ConfigError(
            "nothing to train: the model has no exits with parameters; attach some, such as "
            "attach_exits(model, (6, 12), 'lens')"
        )
    return numbers


def freeze_(model: Any, exits: Sequence[int], *, unfreeze: bool) -> None:
    """Let exactly the exits named, and with ``unfreeze`` the base, be trained; gates never are."""
    prefixes = tuple(f"exits.{exit}." for exit in exits)
    for name, parameter in model.named_parameters():
        of_exit = name.startswith("exits.")
        wanted = name.startswith(prefixes) and ".gate." not in name if of_exit else unfreeze
        parameter.requires_grad_(wanted and parameter.dtype.is_floating_point)


def shifted(
    collate: Callable[[Sequence[Any]], Mapping[str, Tensor]], model: Any
) -> Callable[[Sequence[Any]], dict[str, Tensor]]:
    """Let a collator also give what each position shall say, as ``shift_labels``.

    An encoder-decoder reads what has no label, and writes the rest.
    """
    if model.config.is_encoder_decoder:
        raise ConfigError(
            "training reads decoder-only models so far; encoder-decoders can use exits trained "
            "elsewhere"
        )

    def batch_of(rows: Sequence[Any]) -> dict[str, Tensor]:
        batch = dict(collate(rows))
        labels = batch["labels"]
        last = labels.new_full((len(labels), 1), -100)
        return {**batch, "shift_labels": torch.cat((labels[:, 1:], last), dim=-1)}

    return batch_of


class ExitTrainer(Trainer):  # type: ignore[misc]
    """transformers' Trainer, for a ``Student``: it saves exits, and logs the loss of each."""

    def __init__(self, student: Student, *args: Any, **named: Any) -> None:
        super().__init__(student, *args, **named)
        self._exit_losses: list[Tensor] = []

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Tell the student how far the training is, and keep the exits' losses for the log."""
        progress = self.state.global_step / max(self.state.max_steps, 1)
        told = {**inputs, "step": self.state.global_step, "progress": progress}
        loss, outputs = super().compute_loss(
            model, told, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        if model.training:
            scale = self.accelerator.num_processes if num_items_in_batch is not None else 1
            self._exit_losses.append(outputs["exit_losses"].detach() * scale)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean loss of each exit since the last line."""
        if "loss" in logs and self._exit_losses:
            steps = len(self._exit_losses) / self.args.gradient_accumulation_steps
            means = torch.stack(self._exit_losses).sum(0) / steps
            exits = self._student.lesson.exit_weights
            logs |= {f"exit_{exit}": float(mean) for exit, mean in zip(exits, means, strict=True)}
            self._exit_losses.clear()
        super().log(logs, start_time)

    @property
    def _student(self) -> Student:
        return self.accelerator.unwrap_model(self.model)  # type: ignore[no-any-return]

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the exits alone, or with a base that is trained too."""
        folder = output_dir or self.args.output_dir
        model = self._student.model
        state = state_dict and {key.removeprefix("model."): state_dict[key] for key in state_dict}
        if self._student.frozen:
            save_exits(model, folder, state_dict=state)
        else:
            save_beside(model, folder, state_dict=state)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Put the checkpoint's exits, and a base that is trained too, into the model."""
        student = self._student
        load_checkpoint_(student.model, resume_from_checkpoint, base=not student.frozen)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint, or say why not and leave the last good one as it is."""
        folder = Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, CheckpointError) as error:
            if self.args.should_save:
                shutil.rmtree(folder, ignore_errors=True)
            last = last_checkpoint(self.args.output_dir)
            raise CheckpointError(
                f"cannot write {folder}: {first_line(error)}; free some space and run the same "
                f"command again: it goes on from {last or 'the start'}"
            ) from None


def load_checkpoint_(model: Any, folder: str | Path, *, base: bool) -> None:
    """Put the weights of a checkpoint into a model.

    Args:
        model: With the same exits attached.
        folder: A checkpoint that a training left.
        base: Whether the base was trained too.

    Raises:
        CheckpointError: It holds other exits, or was made with another base.
    """
    stored = read_own(Path(folder, TABLE))
    missing = sorted(set(stored.projections) ^ set(model.exit_numbers))
    if missing:
        raise CheckpointError(
            f"{folder} holds exits {sorted(stored.projections)}, the model has "
            f"{list(model.exit_numbers)}; attach the same, or name another output folder"
        )
    if base:
        plain = type(model).base_class.from_pretrained(folder, dtype=model.dtype)
        weights = plain.state_dict()
        model.load_state_dict(weights, strict=False)
    elif stored.fingerprint:
        check_fingerprint(model, dict(stored.fingerprint), str(folder))
    stored.fill_(model.exits)


def last_checkpoint(output: str | Path) -> str | None:
    """Give the newest whole checkpoint in a folder; one that was cut off is passed over."""
    found: list[tuple[int, Path]] = []
    for path in _checkpoints(Path(output)):
        files = (TENSORS, TABLE, "optimizer.pt", "scheduler.pt")
        if all((path / name).is_file() for name in files) and _has_state(path):
            found.append((int(path.name.rpartition("-")[2]), path))
    return str(max(found)[1]) if found else None


def _checkpoints(output: Path) -> Iterator[Path]:
    if output.is_dir():
        for name in os.listdir(output):
            start, _, number = name.rpartition("-")
            if start == "checkpoint" and number.isdecimal():
                yield output / name


def _has_state(path: Path) -> bool:
    """Tell whether the file that is written last is whole."""
    try:
        json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
