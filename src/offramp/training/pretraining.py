"""Pre-train a model that writes every token at once: one call around transformers' Trainer.

In:  an ELMER model and its tokenizer, rows of text, settings. Out: a folder with the trained model,
     checkpoints on the way.
Law: killed at any moment and resumed, or divided over processes, the training ends with the same
     curve and weights; every epoch corrupts the text anew (tests/training/test_pretraining.py).
Not here: noise (offramp.training.noise), rows (offramp.training.pretraining_text and
     .pretraining_data), the loss (offramp.models.elmer), the Trainer (offramp.training.trainer).
Source: Li et al. 2022, "ELMER", arXiv:2210.13304, section 3.4, "layer permutation language
     modeling": the exit of each target token is drawn, and its state is copied upward from there.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset
from transformers import TrainerCallback, TrainingArguments

from offramp.errors import ConfigError, InputError
from offramp.training.checkpoints import check_facts
from offramp.training.pretraining_data import ExerciseCollator, corrupted, corruptor_for
from offramp.training.pretraining_settings import PretrainSettings
from offramp.training.room import REMEDY, have_room
from offramp.training.trainer import SafeTrainer, precision_arguments

_logger = logging.getLogger(__name__)

LOOKED_AT = 256
"""Rows that are tried before the first step."""

FREE = ("batch_size", "workers", "save_steps", "log_steps", "keep")
"""Settings that change nothing that is learned."""
HELD_OUT_SEED = 1 << 62
"""Added to the seed, so that held-out rows are corrupted otherwise than the others."""


def pretrain(
    model: Any,
    rows: Any,
    *,
    tokenizer: Any,
    output: str | Path,
    settings: PretrainSettings,
    held_out: Any = None,
    callbacks: Sequence[TrainerCallback] = (),
    **arguments: Any,
) -> Any:
    """Pre-train a model, and save it in a folder.

    Run under ``accelerate launch`` or torchrun it divides the work. A folder that holds checkpoints
    of the same training is gone on with.

    Args:
        model: ``ElmerForConditionalGeneration``, trained in place.
        rows: With ``input_ids``, text without special tokens around it; see ``load_blocks``.
        tokenizer: Of the model.
        output: Folder for the result, checkpoints and logs.
        settings: How.
        held_out: Rows whose loss is computed at every checkpoint, corrupted alike each time.
        callbacks: Of transformers, for progress.
        **arguments: Of transformers' ``TrainingArguments``.

    Returns:
        transformers' ``TrainOutput``.

    Raises:
        ConfigError: Settings contradict each other, or the number of processes.
        InputError: No row fits its canvas.
        CheckpointError: The disk is full, a checkpoint is of another training, or the tokenizer is
            not the model's own.

    Example:
        >>> settings = PretrainSettings(rows_per_step=16)
        >>> pretrain(  # doctest: +SKIP
        ...     model, rows, tokenizer=tokenizer, output="out", settings=settings
        ... )
    """
    if held_out is not None:
        arguments = {"eval_strategy": "steps", "eval_steps": settings.save_steps, **arguments}
    gated = model.config.gates or model.config.encoder_layerdrop or model.config.decoder_layerdrop
    chosen = training_arguments(
        settings,
        output,
        streamed=isinstance(rows, IterableDataset),
        **{"ddp_find_unused_parameters": bool(gated), **arguments},
    )
    train, other = (
        corruptor_for(model.config, tokenizer, noise=settings, seed=seed)
        for seed in (settings.seed, settings.seed + HELD_OUT_SEED)
    )
    trainer = SafeTrainer(
        model,
        chosen,
        train_dataset=corrupted(rows, train),
        eval_dataset=None if held_out is None else corrupted(held_out, other),
        data_collator=ExerciseCollator(tokenizer),
        callbacks=list(callbacks),
    )
    if trainer.is_world_process_zero() and model.config.output_head != "plain":
        _check_room(model.config, trainer.train_dataset)
    facts = facts_of(settings, rows=len(rows) if hasattr(rows, "__len__") else None)
    check_facts(output, facts, write=trainer.is_world_process_zero(), exits=False)
    trainer.accelerator.wait_for_everyone()
    result = trainer.train(resume_from_checkpoint=trainer.last_checkpoint())
    trainer.save_model(str(output))
    return result


def _check_room(config: Any, exercises: Any) -> None:
    """Look at the first exercises: a target that its canvas does not hold teaches nothing.

    Raises:
        InputError: None of them is held.
    """
    first = list(islice(exercises, LOOKED_AT))
    lost = have_room(config, first).count(False)
    if lost == len(first):
        raise InputError(f"none of the first {lost} rows fits its canvas; {REMEDY}")
    if lost:
        _logger.warning(
            f"{lost} of the first {len(first)} rows do not fit their canvas and teach nothing "
            f"({REMEDY})"
        )


def facts_of(settings: PretrainSettings, *, rows: int | None) -> dict[str, Any]:
    """Give what decides the course of a training, as JSON; how many processes do it does not."""
    decided = {name: value for name, value in asdict(settings).items() if name not in FREE}
    return {**decided, "rows": rows}


def training_arguments(
    settings: PretrainSettings, output: str | Path, *, streamed: bool, **more: Any
) -> TrainingArguments:
    """Give transformers' arguments.

    Args:
        settings: Of the pre-training.
        output: Folder of checkpoints and logs.
        streamed: Whether the rows have an end that is known only when it is reached.
        **more: Further arguments of transformers, such as ``report_to`` or ``use_cpu``.

    Raises:
        ConfigError: A stream without ``max_steps``, or rows that do not divide evenly.
    """
    if streamed and not settings.max_steps:
        raise ConfigError("a stream does not say when it ends; set max_steps")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    precision = precision_arguments(settings.precision, use_cpu=more.get("use_cpu"))
    held = settings.schedule == "constant" and settings.warmup > 0
    given: dict[str, Any] = {
        "output_dir": str(output),
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "constant_with_warmup" if held else settings.schedule,
        "warmup_steps": settings.warmup,
        "weight_decay": settings.weight_decay,
        "adam_beta2": settings.beta2,
        "max_grad_norm": settings.clip,
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps or -1,
        "per_device_train_batch_size": settings.batch_size,
        "per_device_eval_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.accumulate(processes=processes),
        **precision,
        "dataloader_num_workers": min(settings.workers, 1) if streamed else settings.workers,
        "dataloader_pin_memory": not precision["use_cpu"],
        "save_steps": settings.save_steps,
        "logging_steps": settings.log_steps,
        "save_total_limit": settings.keep,
        "seed": settings.seed,
        "data_seed": settings.seed,
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "prediction_loss_only": True,
        "disable_tqdm": False,
        "report_to": "none",
    }
    chosen = TrainingArguments(**{**given, **more})
    chosen._n_gpu = min(chosen.n_gpu, 1)  # several GPUs take several processes
    if streamed:
        chosen.accelerator_config.dispatch_batches = False  # batches differ in width
    return chosen
