"""The options of ``offramp train`` that say what is learnt and how, with the help that each shows.

Those that are settings of a training have the names, defaults and texts of
``offramp.training.settings.TrainSettings`` (tests/cli/test_train.py compares them); None means that
the option was not given, which a recipe needs to know.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from offramp.cli.options import MACHINE, RESULTS

GOAL, STEPS, BASE, GATES = "What exits learn", "Steps", "Training the base, too", "Gates"


class Objective(StrEnum):
    """Names of ``offramp.training.objectives``."""

    distillation = "distillation"
    next_token = "next-token"
    mixed = "mixed"


class Schedule(StrEnum):
    """Learning rates over time."""

    linear = "linear"
    cosine = "cosine"
    constant = "constant"


class Precision(StrEnum):
    """Number formats of the computation."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Curriculum(StrEnum):
    """Which exits learn when."""

    none = "none"
    gradual = "gradual"
    rotating = "rotating"


class Recipe(StrEnum):
    """Settings that were published."""

    published = "published"


def option(
    text: str,
    panel: str,
    *,
    metavar: str | None = None,
    default: str | bool = True,
    least: int | None = None,
    name: str | None = None,
) -> Any:
    """Make an option.

    Args:
        text: Its help.
        panel: Where it stands in the help.
        metavar: What its value is called there.
        default: What the help says of its default; True: what the function's signature says.
        least: Lowest number allowed.
        name: Where the parameter's own name is not wanted.
    """
    named = () if name is None else (name,)
    return typer.Option(
        *named,
        help=text,
        rich_help_panel=panel,
        metavar=metavar,
        show_default=default,
        min=least,
    )


RecipeName = Annotated[
    Recipe | None,
    option(
        "published: next-token loss at all positions, head exits, AdamW 2e-4 linear, 3 epochs of "
        "16 rows of 512 tokens.",
        GOAL,
        metavar="NAME",
    ),
]
ObjectiveName = Annotated[
    Objective | None,
    option(
        "next-token (published), distillation from the last layer, or mixed.",
        GOAL,
        metavar="NAME",
        default="distillation",
    ),
]
Temperature = Annotated[
    float | None, option("Of a distillation; above 0.", GOAL, metavar="T", default="1.0")
]
DistillationShare = Annotated[
    float | None,
    option("Of the distillation in mixed, 0 to 1.", GOAL, metavar="SHARE", default="0.5"),
]
Positions = Annotated[
    float | None,
    option(
        "Share of the positions whose losses are computed, above 0, at most 1.",
        GOAL,
        metavar="SHARE",
        default="0.25",
    ),
]
CandidateCount = Annotated[
    int | None,
    option(
        "Score each position's likely tokens and this many others, in place of the whole "
        "vocabulary; 0 scores the whole vocabulary.",
        GOAL,
        metavar="N",
        default="0",
        least=0,
    ),
]
ClosedForm = Annotated[
    bool | None,
    option(
        "Start cast and lens exits from a least-squares fit; on for fresh ones that learn by "
        "distillation.",
        GOAL,
        name="--closed-form/--no-closed-form",
        default=False,
    ),
]
ClosedFormTokens = Annotated[
    int | None,
    option("Fit on about N tokens.", GOAL, metavar="N", default="100000", least=2),
]
FitOnly = Annotated[
    bool,
    option("Stop after the least-squares fit, without a gradient.", GOAL, name="--fit-only"),
]
KeepStates = Annotated[
    Path | None,
    option(
        "Keep the states that exits read in this folder, and train from them; once it is full, "
        "--data is not needed and the base is not run.",
        GOAL,
        metavar="FOLDER",
    ),
]
LearningRate = Annotated[
    float | None,
    option("Highest learning rate of AdamW.", STEPS, metavar="RATE", default="0.001"),
]
ScheduleName = Annotated[
    Schedule | None,
    option(
        "linear, cosine or constant, after the warm-up.", STEPS, metavar="NAME", default="cosine"
    ),
]
Warmup = Annotated[
    float | None,
    option(
        "Share of the steps with a rising learning rate, 0 to below 1.",
        STEPS,
        metavar="SHARE",
        default="0.03",
    ),
]
Epochs = Annotated[float | None, option("Passes over the data.", STEPS, metavar="N", default="1.0")]
MaxSteps = Annotated[
    int | None,
    option("Stop after so many steps; 0 goes by epochs.", STEPS, metavar="N", default="0", least=0),
]
BatchSize = Annotated[
    int | None,
    option("Rows at a time, on each process.", STEPS, metavar="N", default="8", least=1),
]
Accumulate = Annotated[
    int | None, option("Batches per step.", STEPS, metavar="N", default="1", least=1)
]
Seed = Annotated[
    int | None,
    option(
        "Decides order, positions and everything drawn.", STEPS, metavar="N", default="0", least=0
    ),
]
Unfreeze = Annotated[
    bool,
    option(
        "Train the base too, with the base's own head among the exits. LayerSkip has the objective "
        "next-token at all positions, and a learning rate for a whole model.",
        BASE,
        name="--unfreeze",
    ),
]
CurriculumName = Annotated[
    Curriculum | None,
    option(
        "Which exits learn when, with --unfreeze: none, gradual or rotating.",
        BASE,
        metavar="NAME",
        default="gradual",
    ),
]
LayerDropout = Annotated[
    float | None,
    option(
        "How often the last block is left out, with --unfreeze; 0 to below 1.",
        BASE,
        metavar="SHARE",
        default="0.0",
    ),
]
Checkpointing = Annotated[
    bool,
    option(
        "Recompute activations of the base in the backward pass, with --unfreeze.",
        BASE,
        name="--checkpointing",
    ),
]
Gates = Annotated[
    bool,
    option(
        "Afterwards, give each exit a gate that says when to stop. Thresholds are found on "
        "--held-out if it is given, else on text that the exits may have learned from.",
        GATES,
        name="--gates",
    ),
]
GatePrecision = Annotated[
    float | None,
    option(
        "Of the tokens at which a gate stops, this share shall agree with the last layer.",
        GATES,
        metavar="SHARE",
        default="0.95",
    ),
]
GateTokens = Annotated[
    int | None,
    option(
        "Train gates on about N tokens, a quarter of whose states are held in memory.",
        GATES,
        metavar="N",
        default="100000",
        least=40,
    ),
]
PrecisionName = Annotated[
    Precision | None,
    option(
        "float32, or mixed precision in bfloat16 or float16.",
        MACHINE,
        metavar="NAME",
        default="float32",
    ),
]
SaveSteps = Annotated[
    int | None,
    option("Steps between checkpoints.", RESULTS, metavar="N", default="200", least=1),
]
LogSteps = Annotated[
    int | None,
    option("Steps between lines of the log.", RESULTS, metavar="N", default="10", least=1),
]
Keep = Annotated[
    int | None,
    option("Checkpoints that are kept, the newest.", RESULTS, metavar="N", default="2", least=1),
]
