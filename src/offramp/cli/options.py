"""The options of ``offramp generate``, with the help that each shows.

A text here is an option's only description.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from offramp.errors import ConfigError

SOURCE, EXITS, RESULTS = "Prompts", "Which exits answer", "Results"
SPEED = "Speed"
TEXT, MACHINE = "Text (names of transformers)", "Computation"


class Dtype(StrEnum):
    """Number formats that ``--dtype`` takes."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


PromptText = Annotated[
    str | None,
    typer.Argument(metavar="PROMPT", help="The prompt; without one, all of standard input."),
]
PromptFile = Annotated[
    Path | None,
    typer.Option("--file", metavar="FILE", help="One prompt a line.", rich_help_panel=SOURCE),
]
PromptJsonl = Annotated[
    Path | None,
    typer.Option(
        "--jsonl",
        metavar="FILE",
        help='One JSON object a line, with a "prompt" or the "messages" of a conversation; other '
        "keys are ignored.",
        rich_help_panel=SOURCE,
    ),
]
PromptParquet = Annotated[
    Path | None,
    typer.Option(
        "--parquet",
        metavar="FILE",
        help='A file of Parquet with a column "prompt" or "messages". Needs the extra ray or eval.',
        rich_help_panel=SOURCE,
    ),
]
Chat = Annotated[
    bool | None,
    typer.Option(
        "--chat/--no-chat",
        help="Put prompts into the chat template; on where the tokenizer has one.",
        show_default=False,
        rich_help_panel=SOURCE,
    ),
]
System = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="System message for prompts that bring none.",
        rich_help_panel=SOURCE,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Folder or hub name; without it the embedded SmolLM2-135M-Instruct. A plain "
        "checkpoint gets a direct exit after every block, one with exits keeps its own.",
        rich_help_panel=EXITS,
    ),
]
Named = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", help="The same as --model.", show_default=False),
]
ExitsFrom = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Folder or hub name of exits, as offramp train makes them, for --model or the "
        "embedded model.",
        rich_help_panel=EXITS,
    ),
]
ContrastPair = Annotated[
    str | None,
    typer.Option(
        metavar="UPPER:LOWER",
        help="Auto-contrastive decoding between two exits, such as original:12.",
        rich_help_panel=EXITS,
    ),
]
Alpha = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="With --contrast: only tokens from this share of the best probability on are "
        "contrasted; above 0 to 1, by default 0.1.",
        rich_help_panel=EXITS,
    ),
]
Exit = Annotated[
    str | None,
    typer.Option(
        metavar="EXIT",
        help="Answer from one exit, a number of blocks; the blocks above are not run.",
        rich_help_panel=EXITS,
    ),
]
Dola = Annotated[
    str | None,
    typer.Option(
        metavar="LAYERS",
        help="DoLa: low, high, or exit numbers such as 2,4,6.",
        rich_help_panel=EXITS,
    ),
]
EarlyExitRule = Annotated[
    str | None,
    typer.Option(
        "--early-exit",
        metavar="RULE[:VALUE]",
        help="Leave each token's blocks at the first exit that is sure: gate, top_probability:0.9, "
        "top_gap:0.9, entropy:0.95, saturation:0.99, patience:3, fixed:12, or, by new token, "
        "schedule:0=24;50=12 (in quotes). With --contrast the exit that answers is contrasted with "
        "the lower one.",
        rich_help_panel=SPEED,
    ),
]
EarlyExits = Annotated[
    str | None,
    typer.Option(
        "--exits",
        metavar="EXITS",
        help="With --early-exit: only these may answer, such as 16;22;28 (in quotes).",
        rich_help_panel=SPEED,
    ),
]
MinExit = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="EXIT",
        help="With --early-exit: no token leaves below this exit.",
        rich_help_panel=SPEED,
    ),
]
StateCache = Annotated[
    str | None,
    typer.Option(
        "--cache",
        metavar="HOW",
        help="With --early-exit: defer fills skipped blocks later, exactly (default); copy lets "
        "them remember the exit's state.",
        rich_help_panel=SPEED,
    ),
]
Speculate = Annotated[
    str | None,
    typer.Option(
        metavar="DRAFTER",
        help="The same text, sooner: drafted by an exit, such as 12, or by the model's trained "
        "drafter (drafter), and checked by the rest. With --contrast, --exit or --dola their text.",
        rich_help_panel=SPEED,
    ),
]
DraftLength = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="With --speculate: tokens of a draft; without it as many as are likely right.",
        rich_help_panel=SPEED,
    ),
]
Lookup = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="With --speculate: copy up to N tokens from the text where its last three stood.",
        rich_help_panel=SPEED,
    ),
]
RUNTIMES = "auto, plain, packed, family, onnxruntime, onnxruntime-int8, onnxruntime-int4"
Runtime = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"What runs the blocks: {RUNTIMES}. Without it transformers' own generate, or auto "
        "with --early-exit and --speculate.",
        rich_help_panel=SPEED,
    ),
]
MaxNewTokens = Annotated[
    int, typer.Option(min=1, metavar="N", help="Longest text.", rich_help_panel=TEXT)
]
DoSample = Annotated[
    bool | None,
    typer.Option(
        "--do-sample/--no-do-sample",
        help="Draw tokens at random; as the model's generation configuration says.",
        show_default=False,
        rich_help_panel=TEXT,
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(metavar="T", help="Above 0; with --do-sample.", rich_help_panel=TEXT),
]
TopK = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="K",
        help="Draw from the K best; 0 is all; with --do-sample.",
        rich_help_panel=TEXT,
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        help="Draw from the best that make up this probability, above 0 to 1; with --do-sample.",
        rich_help_panel=TEXT,
    ),
]
NumBeams = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Beam search.", rich_help_panel=TEXT)
]
RepetitionPenalty = Annotated[
    float | None,
    typer.Option(metavar="R", help="Above 1 avoids tokens that were there.", rich_help_panel=TEXT),
]
NoRepeatNgramSize = Annotated[
    int | None,
    typer.Option(
        min=0, metavar="N", help="No run of N tokens twice; 0 is off.", rich_help_panel=TEXT
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="Makes --do-sample repeatable; later batches get seeds made from it.",
        rich_help_panel=TEXT,
    ),
]
BatchSize = Annotated[
    int, typer.Option(min=1, metavar="N", help="Prompts at a time.", rich_help_panel=MACHINE)
]
DtypeName = Annotated[
    Dtype,
    typer.Option(
        "--dtype",
        metavar="NAME",
        help="Of the weights: float32, bfloat16, float16, or auto, which is the checkpoint's own "
        "(float32 for the embedded model).",
        rich_help_panel=MACHINE,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="cpu, cuda, cuda:1, ...; auto is cuda where there is one.",
        rich_help_panel=MACHINE,
    ),
]
Stream = Annotated[
    bool,
    typer.Option(
        "--stream", help="Show the text of one prompt as it is made.", rich_help_panel=RESULTS
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write JSON lines there instead of to stdout (Parquet if it ends in .parquet); "
        "the same command continues a run that was stopped, whatever stopped it.",
        rich_help_panel=RESULTS,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Start --output anew, whatever is there.", rich_help_panel=RESULTS
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="One JSON object a result: index, prompt, text, new_tokens, seconds (of a batch, "
        "shared evenly), decoding, model. With --output, one object that sums it up.",
        rich_help_panel=RESULTS,
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        help="Show warnings and logs of transformers on stderr.",
        rich_help_panel=RESULTS,
    ),
]


def named_once(named: str | None, model: str | None) -> str | None:
    """Give the model that was named as an argument or by ``--model``; None is neither.

    Raises:
        ConfigError: Both were given.
    """
    if named is not None and model is not None:
        raise ConfigError(f"the model is named twice, {named} and --model {model}; name it once")
    return model if named is None else named
