"""The options of trainings that name texts, exits and results, with the help of each.

How exits learn: offramp.cli.lessons.
"""

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from offramp.cli.lessons import option
from offramp.cli.options import MACHINE, RESULTS
from offramp.errors import ConfigError

TEXT, EXITS = "Text", "Exits"


class Projection(StrEnum):
    """Short names of ``offramp.config.VocabularyProjectionMode``."""

    lens = "lens"
    cast = "cast"
    head = "head"
    block = "block"
    direct = "direct"


class Log(StrEnum):
    """Where losses go besides standard error."""

    none = "none"
    tensorboard = "tensorboard"


Data = Annotated[
    list[str] | None,
    option(
        "What to train on: a file (.txt, .jsonl, .json, .parquet, .csv), a folder of them, a data "
        "set of the hub, or self: the model writes it into OUTPUT/self.jsonl. Several are mixed.",
        TEXT,
        metavar="SOURCE",
    ),
]
Split = Annotated[str, option("Part of a data set or of a folder.", TEXT, metavar="NAME")]
TextColumn = Annotated[str, option("Column of documents.", TEXT, metavar="NAME")]
PromptColumn = Annotated[str, option("Column of prompts.", TEXT, metavar="NAME")]
CompletionColumn = Annotated[
    str, option("Column of what is learned after each prompt.", TEXT, metavar="NAME")
]
Streaming = Annotated[
    bool,
    option(
        "Read while training, for sources larger than the disk; needs --max-steps.",
        TEXT,
        name="--streaming",
    ),
]
BlockSize = Annotated[
    int | None,
    option(
        "Longest row, in tokens; by default 512, or the model's context if that is shorter.",
        TEXT,
        metavar="N",
        least=2,
    ),
]
Limit = Annotated[
    int | None,
    option("Read about N tokens of each source; all by default.", TEXT, metavar="N", least=1),
]
HeldOut = Annotated[
    str | None,
    option(
        "Another source whose loss is computed at every checkpoint, or a share of the rows to keep "
        "back for it, such as 0.02.",
        TEXT,
        metavar="SOURCE",
    ),
]
HeldOutSplit = Annotated[
    str | None,
    option(
        "Part of --held-out SOURCE; its columns are those of the text that is trained on.",
        TEXT,
        metavar="NAME",
        default="train",
    ),
]
SelfTokens = Annotated[
    int | None,
    option(
        "With --data self: about how many tokens the model writes.",
        TEXT,
        metavar="N",
        default="1000000",
        least=1,
    ),
]
Prompts = Annotated[
    Path | None,
    option(
        "With --data self: answer these prompts, one a line; by default the model writes the "
        "user's part as well.",
        TEXT,
        metavar="FILE",
    ),
]
Model = Annotated[
    str | None,
    option(
        "Folder or hub name; without it the embedded SmolLM2-135M-Instruct.", EXITS, metavar="NAME"
    ),
]
Exits = Annotated[
    str | None,
    option(
        "Attach fresh exits here, such as 6;12 (in quotes); by default every even block but the "
        "last, which --recipe published has, too. With neither --exits nor --projection, exits "
        "that the model brings are trained on.",
        EXITS,
        metavar="EXITS",
    ),
]
ProjectionName = Annotated[
    Projection | None,
    option(
        "How fresh exits read their state: lens, cast, head, block or direct.",
        EXITS,
        metavar="NAME",
        default="lens",
    ),
]
ExitWeight = Annotated[
    list[str] | None,
    option(
        "What an exit's loss counts, such as 6=2; exits that are not named count 1. With "
        "--unfreeze it is multiplied by what --curriculum gives the exit.",
        EXITS,
        metavar="EXIT=WEIGHT",
    ),
]
Device = Annotated[
    str, option("cpu, cuda, or auto, which is cuda where there is one.", MACHINE, metavar="NAME")
]
Output = Annotated[
    Path,
    option(
        "Folder for the exits, checkpoints and logs; the same command goes on with a run that was "
        "stopped.",
        RESULTS,
        metavar="FOLDER",
    ),
]
Overwrite = Annotated[
    bool,
    option(
        "Start --output anew; deletes what this command wrote there, but not the text that the "
        "same model wrote.",
        RESULTS,
        name="--overwrite",
    ),
]
LogTo = Annotated[
    Log,
    option("tensorboard: write losses to OUTPUT/runs, too.", RESULTS, metavar="NAME"),
]
PushToHub = Annotated[
    str | None,
    option("Upload the result to this repository of the hub.", RESULTS, metavar="NAME"),
]
Json = Annotated[
    bool,
    option(
        "One JSON object instead of a table: output, exits, steps, loss, exit_losses, tokens, "
        "seconds, gates.",
        RESULTS,
        name="--json",
    ),
]


def check_installed(command: str, *, log_to: str) -> None:
    """See that what a training needs is there.

    Raises:
        ConfigError: It is not.
    """
    for name, wanted in {"datasets": True, "tensorboard": log_to == Log.tensorboard}.items():
        if wanted and find_spec(name) is None:
            raise ConfigError(
                f"{command} needs {name}, which is not installed; run pip install 'offramp[train]'"
            )
