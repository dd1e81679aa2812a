"""The options of models that read a source and write a text, with the help that each shows.

Shared by ``offramp generate`` and ``offramp evaluate``; a text here is an option's only
description.
"""

from pathlib import Path
from typing import Annotated

import typer

from offramp.cli import options

ONE_PASS, PAIRS, SCORES, TEXT = "One pass (ELMER)", "Pairs", "Scores", "Text"

MinExit = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="EXIT",
        help="With --early-exit: no token leaves below this exit.",
        rich_help_panel=ONE_PASS,
    ),
]
CanvasLength = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Tokens that there is room for; without it what the model makes of the source.",
        rich_help_panel=ONE_PASS,
    ),
]
Lengths = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Try the N likeliest lengths and keep the surest text; the model needs a length "
        "predictor.",
        rich_help_panel=ONE_PASS,
    ),
]
RefineSteps = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="Mask the least sure tokens and write them again, N times.",
        rich_help_panel=ONE_PASS,
    ),
]
ReadingPath = Annotated[
    str | None,
    typer.Option(
        "--path",
        metavar="NAME",
        help="How a directed acyclic decoder is read: lookahead (default), greedy, viterbi or beam."
        " Beam takes many times as long. viterbi:1.3 and beam:1.3 set a length penalty, by "
        "default 1: more for longer texts.",
        rich_help_panel=ONE_PASS,
    ),
]
CollapseRepeats = Annotated[
    bool,
    typer.Option(
        "--collapse-repeats",
        help="Drop a token that repeats the one before it.",
        rich_help_panel=ONE_PASS,
    ),
]

Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Folder or hub name; without it the embedded SmolLM2-135M-Instruct. A plain "
        "checkpoint gets a direct exit after every block, one with exits keeps its own. elmer:NAME "
        "reads weights in BART's format as an ELMER model.",
        rich_help_panel=options.EXITS,
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Folder or hub name; without it the embedded SmolLM2-135M-Instruct. A plain "
        "checkpoint gets a direct exit after every block, one with exits keeps its own. With "
        "--pairs an encoder-decoder, and several of them: the first is what others are compared "
        "with; elmer:NAME reads weights in BART's format as an ELMER model.",
        rich_help_panel=options.EXITS,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Stop reading after about N tokens, with --pairs after N pairs, with --open-ended "
        "after N beginnings; all by default.",
        rich_help_panel=TEXT,
    ),
]
PairsFile = Annotated[
    Path | None,
    typer.Option(
        "--pairs",
        metavar="FILE",
        help='Instead of --data: JSON lines with "source" and "target", more references as '
        '"targets". Each source is answered by an encoder-decoder and scored.',
        rich_help_panel=PAIRS,
    ),
]
MaxSourceTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Cut longer sources there; without it what a model cannot read is refused.",
        rich_help_panel=PAIRS,
    ),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Longest text; by default 128, for ELMER what its canvas has room for, with "
        "--open-ended 100.",
        rich_help_panel=PAIRS,
    ),
]
Beams = Annotated[
    int | None,
    typer.Option(
        "--num-beams",
        "--beams",
        min=1,
        metavar="N",
        help="Beams of models that write token by token; by default 1, the likeliest token.",
        rich_help_panel=PAIRS,
    ),
]
LengthPenalty = Annotated[
    float | None,
    typer.Option(
        metavar="L",
        help="With --num-beams: above 0 for longer texts, below for shorter ones.",
        rich_help_panel=PAIRS,
    ),
]
NoRepeatNgramSize = Annotated[
    int | None,
    typer.Option(
        min=0, metavar="N", help="No run of N tokens twice; 0 is off.", rich_help_panel=PAIRS
    ),
]
EarlyExitRule = Annotated[
    str | None,
    typer.Option(
        "--early-exit",
        metavar="RULE[:VALUE]",
        help="Each token leaves at the first exit that is sure: entropy:0.9, top_probability:0.9, "
        "top_gap:0.9, saturation:0.99, patience:2 or gate.",
        rich_help_panel=ONE_PASS,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "--out",
        metavar="FILE",
        help="With --pairs or --open-ended: write the texts there as JSON lines; the same command "
        "continues a run that was stopped, whatever stopped it.",
        rich_help_panel=options.RESULTS,
    ),
]
Time = Annotated[
    int | None,
    typer.Option(
        "--time",
        min=5,
        metavar="N",
        help="Time N sources one by one, and five full batches; models take turns.",
        rich_help_panel=PAIRS,
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Of rouge, bleu, chrf, errors (exact match, token errors) and diversity (repetition, "
        "distinct words, lengths), with commas; by default all. Needs the extra eval.",
        rich_help_panel=SCORES,
    ),
]
Stemmer = Annotated[
    bool | None,
    typer.Option(
        "--stemmer/--no-stemmer",
        help="Cut words to their stems for ROUGE; on by default.",
        show_default=False,
        rich_help_panel=SCORES,
    ),
]
BleuTokenizer = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Of sacreBLEU: 13a (default), intl, char, zh or none.",
        rich_help_panel=SCORES,
    ),
]
Lowercase = Annotated[
    bool,
    typer.Option(
        "--lowercase",
        help="BLEU and chrF do not tell letters' cases apart.",
        rich_help_panel=SCORES,
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="Draws for the 95 % intervals; by default 1000, 0 shows none.",
        rich_help_panel=SCORES,
    ),
]
