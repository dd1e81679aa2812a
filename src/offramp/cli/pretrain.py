"""``offramp pretrain``: an ELMER model learns to undo noise, on one process or many.

Only this module and what it imports first is read for ``--help``; torch and transformers come with
offramp.cli.pretraining.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from offramp.cli import lessons, material, options
from offramp.cli.flags import with_settings
from offramp.cli.generate import logs_disabled
from offramp.cli.lessons import STEPS, option
from offramp.cli.material import TEXT
from offramp.cli.options import MACHINE, RESULTS
from offramp.cli.settings import flag
from offramp.cli.show import remark
from offramp.cli.training import SELF, Texts
from offramp.errors import ConfigError, OfframpError
from offramp.training.pretraining_settings import (
    PUBLISHED,
    PretrainSettings,
    published_pretraining,
)

EXAMPLE = "Example: offramp pretrain --model my-elmer --text books.jsonl --out my-pretrained"
NOISE = "Noise"
PANELS = {
    **dict.fromkeys(("mask_ratio", "mean_span", "random_share", "permute"), NOISE),
    **dict.fromkeys(("precision", "workers"), MACHINE),
    **dict.fromkeys(("save_steps", "log_steps", "keep"), RESULTS),
}


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """What was asked for; each field is the option of the same name."""

    model: str
    texts: Texts
    mix: bool
    settings: PretrainSettings
    device: str
    output: Path
    overwrite: bool
    log_to: str
    push_to_hub: str | None
    json: bool
    verbose: bool

    def __post_init__(self) -> None:
        if SELF in self.texts.data:
            raise ConfigError("--text self is for offramp train; name files, folders or data sets")
        if self.texts.streaming and not self.settings.max_steps:
            raise ConfigError("--streaming has no end that is known; add --max-steps 1000")
        self.settings.accumulate(processes=int(os.environ.get("WORLD_SIZE", "1")))
        if self.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(
                f"--device must be auto, cpu or cuda, got {self.device}; choose one of several "
                "GPUs by CUDA_VISIBLE_DEVICES"
            )


@with_settings(PretrainSettings, panels=PANELS, panel=STEPS)
def pretrain(  # noqa: PLR0913 - one parameter for each option
    *,
    model: Annotated[
        str,
        option(
            "Folder or hub name of an ELMER model, or of a BART, which is read as one: config.json "
            "and tokenizer, and the weights to start from; without weights it starts from random "
            "ones.",
            "Model",
            metavar="NAME",
        ),
    ],
    text: Annotated[
        list[str],
        typer.Option(
            "--text",
            "--data",
            help="What to train on: a file (.txt, .jsonl, .json, .parquet, .csv), a folder of "
            "them, or a data set of the hub. Several are mixed.",
            rich_help_panel=TEXT,
            metavar="SOURCE",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--out",
            "--output",
            help="Folder for the model, checkpoints and logs; the same command goes on with a run "
            "that was stopped.",
            rich_help_panel=RESULTS,
            metavar="FOLDER",
        ),
    ],
    split: material.Split = "train",
    text_column: material.TextColumn = "text",
    streaming: material.Streaming = False,
    block_size: material.BlockSize = None,
    mix: Annotated[
        bool,
        option(
            "Put several documents into a row where they fit; else each begins one.",
            TEXT,
            name="--mix/--no-mix",
        ),
    ] = True,
    limit: material.Limit = None,
    held_out: material.HeldOut = None,
    held_out_split: material.HeldOutSplit = None,
    recipe: Annotated[
        lessons.Recipe | None,
        option(
            "published: Adam 2e-5 constant, no warm-up, 4,096 rows a step, gradients up to 2; how "
            "long is yours to say.",
            STEPS,
            metavar="NAME",
        ),
    ] = None,
    settings: Any = None,
    device: material.Device = "auto",
    overwrite: Annotated[
        bool,
        option(
            "Start the folder anew; deletes what this command wrote there.",
            RESULTS,
            name="--overwrite",
        ),
    ] = False,
    log_to: material.LogTo = material.Log.none,
    push_to_hub: material.PushToHub = None,
    json: Annotated[
        bool,
        option(
            "One JSON object instead of a line: output, model, random_start, rows, steps, loss, "
            "held_out_loss, tokens, seconds.",
            RESULTS,
            name="--json",
        ),
    ] = False,
    verbose: options.Verbose = False,
) -> None:
    """Pre-train an ELMER model on plain text: it learns to undo noise in one pass.

    Spans of words are masked and sentences permuted, in each epoch anew, and
    the exit of each target token is drawn. Runs on one process, or on several
    under torchrun or accelerate launch. The same command goes on with a run
    that was stopped. Results go to stdout, everything else to stderr; offramp
    finetune --model FOLDER goes on from the result.
    """
    try:
        asked = Pretraining(
            model=model,
            texts=Texts(
                data=tuple(text),
                split=split,
                text_column=text_column,
                prompt_column="prompt",
                completion_column="completion",
                streaming=streaming,
                block_size=block_size,
                limit=limit,
                held_out=held_out,
                held_out_split=held_out_split,
                self_tokens=None,
                prompts=None,
            ),
            mix=mix,
            settings=settings if recipe is None else _published(settings),
            device=device,
            output=output,
            overwrite=overwrite,
            log_to=log_to.value,
            push_to_hub=push_to_hub,
            json=json,
            verbose=verbose,
        )
        material.check_installed("offramp pretrain", log_to=asked.log_to)
    except OfframpError:
        if os.environ.get("RANK", "0") != "0":  # under torchrun the first process says it
            raise typer.Exit(2) from None
        raise
    # --help and the errors above need no torch, which takes seconds to import.
    with logs_disabled(not verbose):
        from offramp.cli.pretraining import run  # noqa: PLC0415

    run(asked)


def _published(settings: PretrainSettings) -> PretrainSettings:
    """Give the published settings, with those that they leave free as they were given.

    Raises:
        ConfigError: One that was given contradicts them.
    """
    usual = PretrainSettings()
    for name, own in PUBLISHED.items():
        value = getattr(settings, name)
        if value not in (own, getattr(usual, name)):
            raise ConfigError(
                f"{flag(name)} {value} contradicts --recipe published, which has {own}; leave one "
                "of them out"
            )
    if os.environ.get("RANK", "0") == "0":
        told = ", ".join(f"{flag(name)} {own}" for name, own in PUBLISHED.items())
        remark(f"--recipe published: {told}")
    return published_pretraining(settings)
