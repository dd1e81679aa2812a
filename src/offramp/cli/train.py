"""``offramp train``: exits that are trained, from one command, on one process or many.

Only this module and what it imports first is read for ``--help``; torch and transformers come
with offramp.cli.teach.
"""

import os
from pathlib import Path

import typer

from offramp.cli import lessons, material, options
from offramp.cli.generate import logs_disabled
from offramp.cli.prompts import read_prompts
from offramp.cli.training import Texts, Training
from offramp.errors import ConfigError, OfframpError

EXAMPLE = "Example: offramp train --output my-exits --data self --exits '6;12' --projection lens"


def train(  # noqa: PLR0913 - one parameter for each option
    *,
    output: material.Output,
    data: material.Data = None,
    split: material.Split = "train",
    text_column: material.TextColumn = "text",
    prompt_column: material.PromptColumn = "prompt",
    completion_column: material.CompletionColumn = "completion",
    streaming: material.Streaming = False,
    block_size: material.BlockSize = None,
    limit: material.Limit = None,
    held_out: material.HeldOut = None,
    held_out_split: material.HeldOutSplit = None,
    self_tokens: material.SelfTokens = None,
    prompts: material.Prompts = None,
    model: material.Model = None,
    exits: material.Exits = None,
    projection: material.ProjectionName = None,
    exit_weight: material.ExitWeight = None,
    recipe: lessons.RecipeName = None,
    objective: lessons.ObjectiveName = None,
    temperature: lessons.Temperature = None,
    distillation_share: lessons.DistillationShare = None,
    positions: lessons.Positions = None,
    candidates: lessons.CandidateCount = None,
    closed_form: lessons.ClosedForm = None,
    closed_form_tokens: lessons.ClosedFormTokens = None,
    fit_only: lessons.FitOnly = False,
    keep_states: lessons.KeepStates = None,
    learning_rate: lessons.LearningRate = None,
    schedule: lessons.ScheduleName = None,
    warmup: lessons.Warmup = None,
    epochs: lessons.Epochs = None,
    max_steps: lessons.MaxSteps = None,
    batch_size: lessons.BatchSize = None,
    accumulate: lessons.Accumulate = None,
    seed: lessons.Seed = None,
    unfreeze: lessons.Unfreeze = False,
    curriculum: lessons.CurriculumName = None,
    layer_dropout: lessons.LayerDropout = None,
    checkpointing: lessons.Checkpointing = False,
    gates: lessons.Gates = False,
    gate_precision: lessons.GatePrecision = None,
    gate_tokens: lessons.GateTokens = None,
    precision: lessons.PrecisionName = None,
    dtype: options.DtypeName = options.Dtype.float32,
    device: material.Device = "auto",
    overwrite: material.Overwrite = False,
    save_steps: lessons.SaveSteps = None,
    log_steps: lessons.LogSteps = None,
    keep: lessons.Keep = None,
    log_to: material.LogTo = material.Log.none,
    push_to_hub: material.PushToHub = None,
    json: material.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Train exits of a model, which itself stays as it is, and save them in a folder.

    Runs on one process, or on several under torchrun or accelerate launch.
    The same command goes on with a run that was stopped. Results go to
    stdout, everything else to stderr; offramp generate --exits-from FOLDER
    answers from the trained exits.
    """
    asked = {
        "objective": objective and objective.value,
        "temperature": temperature,
        "distillation_share": distillation_share,
        "exit_weights": _weights(exit_weight or []),
        "positions": positions,
        "candidates": candidates,
        "unfreeze": unfreeze or None,
        "curriculum": curriculum and curriculum.value,
        "layer_dropout": layer_dropout,
        "learning_rate": learning_rate,
        "schedule": schedule and schedule.value,
        "warmup": warmup,
        "epochs": epochs,
        "max_steps": max_steps,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "precision": precision and precision.value,
        "checkpointing": checkpointing or None,
        "save_steps": save_steps,
        "log_steps": log_steps,
        "keep": keep,
        "seed": seed,
    }
    try:
        settings = Training(
            model=model,
            exits=exits,
            projection=projection and projection.value,
            texts=Texts(
                data=tuple(data or ()),
                split=split,
                text_column=text_column,
                prompt_column=prompt_column,
                completion_column=completion_column,
                streaming=streaming,
                block_size=block_size,
                limit=limit,
                held_out=held_out,
                held_out_split=held_out_split,
                self_tokens=self_tokens,
                prompts=_prompts(prompts),
            ),
            given={name: value for name, value in asked.items() if value is not None},
            published=recipe is not None,
            closed_form=closed_form,
            closed_form_tokens=closed_form_tokens,
            fit_only=fit_only,
            gates=gates,
            gate_precision=gate_precision,
            gate_tokens=gate_tokens,
            keep_states=keep_states,
            dtype=dtype.value,
            device=device,
            output=output,
            overwrite=overwrite,
            log_to=log_to.value,
            push_to_hub=push_to_hub,
            json=json,
            verbose=verbose,
        )
    except OfframpError:
        if os.environ.get("RANK", "0") != "0":  # under torchrun the first process says it
            raise typer.Exit(2) from None
        raise
    material.check_installed("offramp train", log_to=settings.log_to)
    # --help and the errors above need no torch, which takes seconds to import.
    with logs_disabled(not verbose):
        from offramp.cli.teach import teach  # noqa: PLC0415

    teach(settings)


def _prompts(file: Path | None) -> tuple[str, ...] | None:
    if file is None:
        return None
    found = read_prompts(argument=None, file=file, jsonl=None, stdin=None)
    return tuple(str(each.content) for each in found)


def _weights(given: list[str]) -> dict[int, float] | None:
    """Read weights of exits.

    Raises:
        ConfigError: One is not ``EXIT=WEIGHT``, or an exit is named twice.
    """
    weights: dict[int, float] = {}
    for each in given:
        exit, _, weight = each.partition("=")
        try:
            number, value = int(exit), float(weight)
        except ValueError:
            raise ConfigError(f"--exit-weight must be EXIT=WEIGHT, got {each!r}; try 6=2") from None
        if number in weights:
            raise ConfigError(f"--exit-weight names exit {number} twice; keep one of them")
        weights[number] = value
    return weights or None
