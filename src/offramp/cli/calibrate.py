"""``offramp calibrate``: thresholds that keep a promise, and the fastest settings here.

Only this module and what it imports first is read for ``--help``; torch and transformers come
with offramp.cli.calibrating.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from offramp.cli import options
from offramp.cli.evaluate import BlockSize, Limit, Split
from offramp.cli.generate import logs_disabled
from offramp.errors import ConfigError

EXAMPLE = "Example: offramp calibrate --data answers.jsonl --bound 0.05 --output my-exits"
TEXT, PROMISE, SPEED = "Text", "Early exit", "Speed on this machine"
SELF = "self"


class Rule(StrEnum):
    """Rules of ``EarlyExit`` whose confidence can be compared with a threshold."""

    gate = "gate"
    top_probability = "top_probability"
    top_gap = "top_gap"
    entropy = "entropy"
    saturation = "saturation"


class Metric(StrEnum):
    """What a risk is a loss in; the second and later ones are of offramp.evaluation.text_risk."""

    agreement = "agreement"
    rouge1 = "rouge1"
    rouge2 = "rouge2"
    rougeL = "rougeL"  # noqa: N815 - its name everywhere
    chrf = "chrf"
    exact_match = "exact_match"


Data = Annotated[
    str,
    typer.Option(
        metavar="SOURCE",
        help="Text that nothing was trained on: a file (.txt, .jsonl, .json, .parquet, .csv), a "
        "folder of them, a data set of the hub, or self: the model writes it into "
        "OUTPUT/calibration-text.jsonl. Of pairs, completions count.",
        rich_help_panel=TEXT,
    ),
]
SelfTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="With --data self: about how many tokens the model writes; by default 40000.",
        rich_help_panel=TEXT,
    ),
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="One prompt a line: answered with --data self, and the first eight to measure speed; "
        "by default prompts of the text.",
        rich_help_panel=TEXT,
    ),
]
HeldOut = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        help="Share of the texts that is kept back to see whether bounds hold.",
        rich_help_panel=TEXT,
    ),
]
Bound = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        help="Share of tokens that may differ from the whole model's, between 0 and 1; 0.1, 0.05 "
        "and 0.02 are always reported, too. With --metric what may be lost of it.",
        rich_help_panel=PROMISE,
    ),
]
MetricName = Annotated[
    Metric,
    typer.Option(
        metavar="NAME",
        help="What may be lost: agreement with the whole model, token by token; or rouge1, "
        "rouge2, rougeL, chrf or exact_match of whole texts against the completions, 0 to 1, for "
        "which the texts are written again with every threshold.",
        rich_help_panel=PROMISE,
    ),
]
Confidence = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        help="Probability, over the draw of texts, with which the bound holds.",
        rich_help_panel=PROMISE,
    ),
]
RuleName = Annotated[
    Rule,
    typer.Option(
        metavar="NAME",
        help="How sure an exit is: gate, top_probability, top_gap, entropy or saturation.",
        rich_help_panel=PROMISE,
    ),
]
Exits = Annotated[
    str | None,
    typer.Option(
        metavar="EXITS",
        help="Only these may answer, such as 20;24;28 (in quotes); choose them without the text. "
        "Each exit that is asked costs time. By default all that can.",
        rich_help_panel=PROMISE,
    ),
]
ContrastToo = Annotated[
    bool,
    typer.Option(
        "--contrast",
        help="Also look for the contrast under which the text is the most likely.",
        rich_help_panel=PROMISE,
    ),
]
Timing = Annotated[
    bool,
    typer.Option(
        "--timing/--no-timing",
        help="Measure early exit and self-speculation against plain decoding.",
        rich_help_panel=SPEED,
    ),
]
Rounds = Annotated[
    int,
    typer.Option(min=5, metavar="N", help="Times that each is measured.", rich_help_panel=SPEED),
]
NewTokens = Annotated[
    int,
    typer.Option(
        "--max-new-tokens",
        min=1,
        metavar="N",
        help="Longest text that is timed, or written for --metric.",
        rich_help_panel=SPEED,
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="N",
        help="Decides what is kept back and what the model writes.",
        rich_help_panel=TEXT,
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(min=1, metavar="N", help="Rows at a time.", rich_help_panel=options.MACHINE),
]
Output = Annotated[
    Path,
    typer.Option(
        metavar="FOLDER",
        help="Folder of these exits, which are copied there if it holds none; the result is its "
        "calibration.json.",
        rich_help_panel=options.RESULTS,
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="One JSON object instead of tables; shares are from 0 to 1.",
        rich_help_panel=options.RESULTS,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is calibrated, on which text; each field is the option of the same name."""

    model: str | None
    exits_from: str | None
    dtype: str
    device: str
    data: str
    split: str
    limit: int | None
    block_size: int | None
    self_tokens: int | None
    prompts: Path | None
    held_out: float
    bound: float
    confidence: float
    rule: str
    exits: str | None
    metric: str
    contrast: bool
    timing: bool
    rounds: int
    max_new_tokens: int
    batch_size: int
    seed: int
    output: Path
    json: bool
    verbose: bool

    def __post_init__(self) -> None:
        for name, value in (("--bound", self.bound), ("--confidence", self.confidence)):
            if not 0 < value < 1:
                raise ConfigError(
                    f"{name} must be more than 0 and less than 1, got {value}; try 0.05 and 0.95"
                )
        if not 0 <= self.held_out < 1:
            raise ConfigError(
                f"--held-out must be from 0 to below 1, got {self.held_out}; try 0.33"
            )
        if self.self_tokens is not None and self.data != SELF:
            raise ConfigError("--self-tokens belongs to --data self; add it")
        if self.metric != Metric.agreement and self.data == SELF:
            raise ConfigError(
                f"--metric {self.metric} needs pairs with completions of people, not --data self; "
                "leave it out for agreement with the whole model"
            )
        if self.contrast and self.data == SELF:
            raise ConfigError(
                "--contrast needs text of people, not --data self, under which the model's own "
                "scores are the best"
            )


def calibrate(  # noqa: PLR0913 - one parameter for each option
    named: options.Named = None,
    *,
    data: Data,
    output: Output,
    split: Split = "train",
    limit: Limit = None,
    block_size: BlockSize = None,
    self_tokens: SelfTokens = None,
    prompts: Prompts = None,
    held_out: HeldOut = 0.33,
    seed: Seed = 0,
    bound: Bound = 0.05,
    confidence: Confidence = 0.95,
    rule: RuleName = Rule.gate,
    exits: Exits = None,
    metric: MetricName = Metric.agreement,
    contrast: ContrastToo = False,
    model: options.Model = None,
    exits_from: options.ExitsFrom = None,
    timing: Timing = True,
    rounds: Rounds = 6,
    max_new_tokens: NewTokens = 64,
    batch_size: BatchSize = 8,
    dtype: options.DtypeName = options.Dtype.auto,
    device: options.Device = "auto",
    json: Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Find settings for these exits that keep a promise and save time here.

    Early exit gets thresholds with which, with the chosen confidence, fewer
    tokens than the bound differ from the whole model's; texts that were kept
    back show what they do. Self-speculation is timed against plain decoding. What
    was found is kept with the exits: EarlyExit() uses the thresholds,
    SelfSpeculation() the fastest settings. Speculation that is slower than
    plain decoding is reported, and not used. Results go to stdout.
    """
    wanted = Wanted(
        model=options.named_once(named, model),
        exits_from=exits_from,
        dtype=dtype.value,
        device=device,
        data=data,
        split=split,
        limit=limit,
        block_size=block_size,
        self_tokens=self_tokens,
        prompts=prompts,
        held_out=held_out,
        bound=bound,
        confidence=confidence,
        rule=rule.value,
        exits=exits,
        metric=metric.value,
        contrast=contrast,
        timing=timing,
        rounds=rounds,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        seed=seed,
        output=output,
        json=json,
        verbose=verbose,
    )
    # --help and the errors above need no torch, which takes seconds to import.
    with logs_disabled(not verbose):
        from offramp.cli.calibrating import run_calibration  # noqa: PLC0415

    run_calibration(wanted)
