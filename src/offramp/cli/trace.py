"""``offramp trace``: what every exit would have said about a text.

Only this module and what it imports first is read for ``--help``; torch and transformers come
with offramp.cli.tracing.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from offramp.cli import options, seq2seq_options
from offramp.cli.evaluate import Exits
from offramp.cli.generate import logs_disabled
from offramp.cli.output import check_output
from offramp.cli.prompts import read_prompts
from offramp.cli.seq2seq_settings import OnePassChoice
from offramp.cli.settings import Settings
from offramp.errors import ConfigError
from offramp.trace.record import SUFFIXES

EXAMPLE = (
    "Example: offramp trace 'The capital of Italy is' --contrast original:12 --max-new-tokens 8 "
    "--output trace.html"
)

MaxNewTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Go on with the text first, greedily by the same rule, and trace that too; an "
        "encoder-decoder writes one that is traced, 32 tokens by default.",
        rich_help_panel=options.TEXT,
    ),
]
Window = Annotated[
    str | None,
    typer.Option(
        metavar="FIRST:END",
        help="Only these positions, such as 100:140, -20: or 0: (all); without it a table shows "
        "the last 64, a file all.",
        rich_help_panel=options.EXITS,
    ),
]
Top = Annotated[
    int,
    typer.Option(
        min=1,
        max=100,
        metavar="N",
        help="Best tokens that are kept of each exit.",
        rich_help_panel=options.EXITS,
    ),
]
Measure = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="What colours the table: probability, entropy, divergence or agreement.",
        rich_help_panel=options.RESULTS,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write .html, .json, .svg or .png instead of the table; pictures need the extra eval.",
        rich_help_panel=options.RESULTS,
    ),
]
Load = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Show a trace that was saved as .json, without any model.",
        rich_help_panel=options.SOURCE,
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="The whole trace as one JSON object; with --output, one that sums it up.",
        rich_help_panel=options.RESULTS,
    ),
]
TracedChat = Annotated[
    bool,
    typer.Option(
        "--chat/--no-chat",
        help="Put the text into the chat template; off by default.",
        show_default=False,
        rich_help_panel=options.SOURCE,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Tracing:
    """What is traced and how it is shown; fields are options of the same names.

    Attributes:
        settings: Model, rule and chat template.
        text: The text; None shows what was saved.
    """

    settings: Settings
    text: str | None
    load: Path | None
    exits: str | None
    window: slice | None
    top: int
    max_new_tokens: int | None
    measure: str
    output: Path | None
    json: bool
    verbose: bool


def trace(  # noqa: PLR0913 - one parameter for each option
    prompt: options.PromptText = None,
    *,
    load: Load = None,
    chat: TracedChat = False,
    system: options.System = None,
    model: seq2seq_options.Model = None,
    exits_from: options.ExitsFrom = None,
    exits: Exits = None,
    window: Window = None,
    top: Top = 5,
    contrast: options.ContrastPair = None,
    alpha: options.Alpha = None,
    exit: options.Exit = None,
    dola: options.Dola = None,
    early_exit: options.EarlyExitRule = None,
    min_exit: options.MinExit = None,
    canvas_length: seq2seq_options.CanvasLength = None,
    max_new_tokens: MaxNewTokens = None,
    dtype: options.DtypeName = options.Dtype.auto,
    device: options.Device = "auto",
    measure: Measure = "probability",
    output: Output = None,
    json: Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Show what every exit would have said at every position of a text.

    The best token of each exit, how likely it is, where the last layer's answer settles, what the
    gates think, and what a contrast changes; of an ELMER model its canvas, layer by layer. Without
    PROMPT the text is standard input.
    """
    settings = Settings(
        model=model,
        exits_from=exits_from,
        dtype=dtype.value,
        device=device,
        contrast=contrast,
        alpha=alpha,
        exit=exit,
        dola=dola,
        early_exit=early_exit,
        one_pass=OnePassChoice(min_exit=min_exit, canvas_length=canvas_length),
        chat=chat or system is not None,
        system=system,
        max_new_tokens=max_new_tokens or 0,
        sampling={},
        batch_size=1,
        seed=None,
    )
    _check_output(output, load)
    tracing = Tracing(
        settings=settings,
        text=_text(prompt, load),
        load=load,
        exits=exits,
        window=None if window is None else window_of(window),
        top=top,
        max_new_tokens=max_new_tokens,
        measure=measure,
        output=output,
        json=json,
        verbose=verbose,
    )
    # --help and the errors above need no torch, which takes seconds to import.
    with logs_disabled(not verbose):
        from offramp.cli.tracing import run_trace  # noqa: PLC0415

    run_trace(tracing)


def window_of(text: str) -> slice:
    """Read ``--window``.

    Raises:
        ConfigError: It is no pair of numbers with a colon between.

    Example:
        >>> window_of("100:140"), window_of("-20:")
        (slice(100, 140, None), slice(-20, None, None))
    """
    first, colon, end = text.partition(":")
    try:
        if not colon:
            raise ValueError
        return slice(int(first) if first else None, int(end) if end else None)
    except ValueError:
        raise ConfigError(
            f"--window takes two positions with a colon between, got {text!r}; try 0:40 or -20:"
        ) from None


def _text(prompt: str | None, load: Path | None) -> str | None:
    """Read the text that is traced, unless a saved trace is shown."""
    if load is not None:
        if prompt is not None:
            raise ConfigError(f"--load {load} shows a saved trace; leave out the text")
        return None
    stdin = None if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read
    (found,) = read_prompts(argument=prompt, file=None, jsonl=None, stdin=stdin)
    return str(found.content)


def _check_output(output: Path | None, load: Path | None) -> None:
    if output is None:
        return
    if output.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"--output is one of {', '.join(SUFFIXES)}, got {str(output)!r}; try trace.html"
        )
    check_output(output, inputs=[] if load is None else [load])
