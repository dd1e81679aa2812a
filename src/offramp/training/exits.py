"""Train exits: one call around transformers' Trainer.

In:  a model with exits, rows of tokens, settings. Out: a folder with the trained exits, checkpoints
     on the way.
Law: a frozen base keeps its bits; killed at any moment and resumed, or divided over processes, the
     training ends with the same curve (tests/training/test_exits.py, test_killed.py,
     test_processes.py); divided, but for candidates and layer dropout, which are drawn by the
     batch. A training of nothing, or of the base by mistake, does not start.
Not here: losses (offramp.training.student), rows (offramp.training.data), closed forms
     (offramp.training.closed_form), gates (offramp.training.gates), files and the Trainer itself
     (offramp.training.checkpoints, offramp.training.trainer).

Work is divided by DDP. FSDP and DeepSpeed of accelerate are refused: accelerate ignores FSDP on a
CPU, so nobody has seen that their checkpoints are right. A ``Student`` of a loop of your own can be
sharded (offramp.training.weights). Where the rows do not divide evenly among the processes, the
last step of an epoch takes some rows from its beginning once more, as accelerate does.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from transformers import TrainerCallback

from offramp.errors import ConfigError
from offramp.training.checkpoints import check_facts, last_checkpoint
from offramp.training.positions import aligned
from offramp.training.settings import TrainSettings
from offramp.training.states import KeptStates
from offramp.training.student import Student
from offramp.training.trainer import ExitTrainer

_logger = logging.getLogger(__name__)

Rows = Any
"""A data set of rows with ``input_ids`` and ``labels``, as ``offramp.training.data`` gives them, or
the ``KeptStates`` of a folder, whose batches are what they were when they were kept."""


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
    model.calibration = None  # it was found for exits as they were
    student = Student(model, settings.lesson(numbers), frozen=not settings.unfreeze)
    if settings.checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if held_out is not None:
        arguments = {"eval_strategy": "steps", "eval_steps": settings.save_steps, **arguments}
    for name, some in (("train", rows), ("eval", held_out)):
        if isinstance(some, KeptStates):
            arguments = {f"per_device_{name}_batch_size": 1, **arguments}
    blocks = any(model.exits[str(exit)].mode.short == "block" for exit in numbers)
    arguments = {"ddp_find_unused_parameters": settings.unfreeze or blocks, **arguments}
    chosen = settings.arguments(output, **arguments)
    chosen._n_gpu = min(chosen.n_gpu, 1)  # several GPUs take several processes
    if isinstance(rows, IterableDataset):
        if chosen.max_steps < 1:
            raise ConfigError("a stream does not say when it ends; set max_steps")
        chosen.accelerator_config.dispatch_batches = False  # batches differ in width
    trainer = ExitTrainer(
        student,
        chosen,
        train_dataset=rows,
        eval_dataset=held_out,
        data_collator=shifted(collate, model),
        callbacks=list(callbacks),
    )
    if trainer.is_world_process_zero():
        _tell_of_few_bits(model, numbers)
    check_facts(output, facts_of(student, trainer), write=trainer.is_world_process_zero())
    trainer.accelerator.wait_for_everyone()
    result = trainer.train(resume_from_checkpoint=last_checkpoint(output))
    trainer.save_model(str(output))
    return result


def _tell_of_few_bits(model: Any, exits: Sequence[int]) -> None:
    """Say so where a small step would be rounded away."""
    weights = (each for exit in exits for each in model.exits[str(exit)].parameters())
    few = {each.dtype for each in weights if each.requires_grad} & {torch.bfloat16, torch.float16}
    for dtype in few:
        _logger.warning(
            f"the exits are trained in {str(dtype).removeprefix('torch.')}, where steps smaller "
            "than a few thousandths of a weight are lost; load the model in float32 (--dtype "
            "float32), and use precision='bfloat16' for speed"
        )


def facts_of(student: Student, trainer: ExitTrainer) -> dict[str, Any]:
    """Give what decides the course of a training, as JSON; how many processes do it does not."""
    chosen, rows = trainer.args, trainer.train_dataset
    lesson = asdict(student.lesson)
    weights = {str(exit): weight for exit, weight in lesson.pop("exit_weights").items()}
    return {
        **lesson,
        "exit_weights": weights,
        "unfreeze": not student.frozen,
        "learning_rate": chosen.learning_rate,
        "schedule": str(chosen.lr_scheduler_type.value),
        "data_seed": chosen.data_seed,
        "rows": len(rows) if hasattr(rows, "__len__") else None,
        "rows_per_step": trainer.get_total_train_batch_size(chosen),
    }


def trainable(model: Any, exits: Sequence[int] | None, *, unfreeze: bool) -> tuple[int, ...]:
    """Give the exits to train.

    Raises:
        ConfigError: None of them has a parameter, and the base is frozen.
        ExitNotFoundError: One is not attached.
    """
    asked = model.exit_numbers if exits is None else tuple(exits)
    numbers: tuple[int, ...] = model.check_exits(asked, attached_only=True)
    empty = [exit for exit in numbers if not _has_weights(model.exits[str(exit)])]
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


def _has_weights(projection: nn.Module) -> bool:
    return any(not name.startswith("gate.") for name, _ in projection.named_parameters())


def freeze_(model: Any, exits: Sequence[int], *, unfreeze: bool) -> None:
    """Let exactly the exits named, and with ``unfreeze`` the base, be trained; gates never are."""
    prefixes = tuple(f"exits.{exit}." for exit in exits)
    for name, parameter in model.named_parameters():
        of_exit = name.startswith("exits.")
        wanted = name.startswith(prefixes) and ".gate." not in name if of_exit else unfreeze
        parameter.requires_grad_(wanted and parameter.dtype.is_floating_point)


def shifted(
    collate: Callable[[Sequence[Any]], Mapping[str, Tensor]], model: Any
) -> Callable[[Sequence[Any]], dict[str, Any]]:
    """Let a collator also give what each position shall say; see ``aligned``.

    Kept states, which are batches already, come through as they are.
    """

    def batch_of(rows: Sequence[Any]) -> dict[str, Any]:
        if "kept" in rows[0]:
            return dict(rows[0])
        return aligned(collate(rows), model)

    return batch_of
