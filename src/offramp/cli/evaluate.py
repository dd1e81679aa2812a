"""``offramp evaluate``: how good every exit is, how a model goes on, encoder-decoders on pairs.

Only this module and what it imports first is read for ``--help``; torch and transformers come
with offramp.cli.measure, offramp.cli.open_ended and offramp.cli.seq2seq_measure.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from offramp.cli import open_ended_options, options, seq2seq_options, spreading
from offramp.cli.generate import logs_disabled
from offramp.cli.open_ended_options import OpenEndedEvaluation
from offramp.cli.seq2seq_settings import OnePassChoice, PairsEvaluation, refuse
from offramp.cli.settings import ExitChoice
from offramp.errors import ConfigError

EXAMPLE = (
    "Example: offramp evaluate --data held-out.txt --limit 20000 --picture exits.svg, or offramp "
    "evaluate --pairs test.jsonl --model my-bart --model my-elmer"
)
TEXT = "Text"
TRAIN = "train"
"""The part of a data set that is read where none is named."""

Data = Annotated[
    str | None,
    typer.Option(
        metavar="SOURCE",
        help="Text that nothing was trained on: a file (.txt, .jsonl, .json, .parquet, .csv), a "
        "folder of them, or a data set of the hub.",
        rich_help_panel=TEXT,
    ),
]
Split = Annotated[
    str,
    typer.Option(metavar="NAME", help="Part of a data set or of a folder.", rich_help_panel=TEXT),
]
Limit = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Stop reading after about N tokens; all by default.",
        rich_help_panel=TEXT,
    ),
]
BlockSize = Annotated[
    int | None,
    typer.Option(
        min=2,
        metavar="N",
        help="Longest row, in tokens; by default 512, or the model's context if that is shorter.",
        rich_help_panel=TEXT,
    ),
]
Exits = Annotated[
    str | None,
    typer.Option(
        metavar="EXITS",
        help="Measure these exits only, such as 6;12 (in quotes); one that is not attached is read "
        "directly.",
        rich_help_panel=options.EXITS,
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(
        "--batch-size",
        "--batch",
        min=1,
        metavar="N",
        help="Rows at a time.",
        rich_help_panel=options.MACHINE,
    ),
]
Picture = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Draw agreement and perplexity by exit: an .svg or .png file. Needs the extra eval.",
        rich_help_panel=options.RESULTS,
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="One JSON object instead of the table; shares are from 0 to 1, infinite is null.",
        rich_help_panel=options.RESULTS,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Evaluation(ExitChoice):
    """What is measured on which text; each field is the option of the same name."""

    data: str
    split: str
    limit: int | None
    block_size: int | None
    exits: str | None
    batch_size: int
    picture: Path | None
    json: bool
    verbose: bool
    spread: spreading.Spread = field(default_factory=spreading.Spread)


def evaluate(  # noqa: PLR0913 - one parameter for each option
    *,
    data: Data = None,
    split: Split = TRAIN,
    limit: seq2seq_options.Limit = None,
    block_size: BlockSize = None,
    pairs: seq2seq_options.PairsFile = None,
    max_source_tokens: seq2seq_options.MaxSourceTokens = None,
    max_new_tokens: seq2seq_options.MaxNewTokens = None,
    num_beams: seq2seq_options.Beams = None,
    length_penalty: seq2seq_options.LengthPenalty = None,
    no_repeat_ngram_size: seq2seq_options.NoRepeatNgramSize = None,
    time: seq2seq_options.Time = None,
    early_exit: seq2seq_options.EarlyExitRule = None,
    min_exit: seq2seq_options.MinExit = None,
    canvas_length: seq2seq_options.CanvasLength = None,
    lengths: seq2seq_options.Lengths = None,
    refine_steps: seq2seq_options.RefineSteps = None,
    path: seq2seq_options.ReadingPath = None,
    collapse_repeats: seq2seq_options.CollapseRepeats = False,
    metrics: seq2seq_options.Metrics = None,
    stemmer: seq2seq_options.Stemmer = None,
    bleu_tokenizer: seq2seq_options.BleuTokenizer = None,
    lowercase: seq2seq_options.Lowercase = False,
    samples: seq2seq_options.Samples = None,
    open_ended: open_ended_options.OpenEnded = False,
    ways: open_ended_options.Ways = None,
    strategies: open_ended_options.Strategies = None,
    prompt_words: open_ended_options.PromptWords = None,
    embeddings: open_ended_options.Embeddings = None,
    seed: open_ended_options.Seed = None,
    model: seq2seq_options.Models = None,
    exits_from: options.ExitsFrom = None,
    exits: Exits = None,
    contrast: options.ContrastPair = None,
    alpha: options.Alpha = None,
    exit: options.Exit = None,
    dola: options.Dola = None,
    batch_size: BatchSize = 8,
    dtype: options.DtypeName = options.Dtype.auto,
    device: options.Device = "auto",
    engine: spreading.EngineName = spreading.Engine.here,
    ray_address: spreading.RayAddress = None,
    workers: spreading.Workers = None,
    worker_cpus: spreading.WorkerCpus = None,
    worker_gpus: spreading.WorkerGpus = None,
    picture: Picture = None,
    output: seq2seq_options.Output = None,
    overwrite: options.Overwrite = False,
    json: Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Measure every exit on held-out text, texts that go on, or encoder-decoders on pairs.

    With --data, in one pass of the model, for each exit: cross-entropy and
    perplexity, agreement with the last layer, KL(last || exit), calibration
    (its best token's probability against being the next token of the text),
    and the share of tokens at which it is the first whose answer stays.
    --contrast, --exit and --dola add the perplexity of that way to decode.
    With --data and --open-ended, for each way to go on with a text: repetition,
    diversity, coherence and MAUVE, with 95 % intervals, and the difference from
    the first way.
    With --pairs, for each --model: ROUGE, BLEU, chrF, errors and repetition of
    what it writes for the sources, with 95 % intervals, the difference from
    the first model, times, and the exits of ELMER. Results go to stdout.
    """
    one_pass = OnePassChoice(
        min_exit=min_exit,
        canvas_length=canvas_length,
        lengths=lengths,
        refine_steps=refine_steps,
        path=path,
        collapse_repeats=collapse_repeats,
    )
    of_pairs: dict[str, Any] = {
        "max_source_tokens": max_source_tokens,
        "num_beams": num_beams,
        "length_penalty": length_penalty,
        "no_repeat_ngram_size": no_repeat_ngram_size,
        "time": time,
        "early_exit": early_exit,
        "metrics": metrics,
        "stemmer": stemmer,
        "bleu_tokenizer": bleu_tokenizer,
        "lowercase": lowercase,
    }
    of_texts: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "samples": samples,
        "output": output,
        "overwrite": overwrite,
    }
    of_openings: dict[str, Any] = {
        "ways": ways,
        "strategies": strategies,
        "prompt_words": prompt_words,
        "embeddings": embeddings,
        "seed": seed,
    }
    of_rows: dict[str, Any] = {"block_size": block_size, "exits": exits}
    of_exits: dict[str, Any] = {
        "exits_from": exits_from,
        "contrast": contrast,
        "alpha": alpha,
        "exit": exit,
        "dola": dola,
        "picture": picture,
    }
    of_both: dict[str, Any] = {
        "dtype": dtype.value,
        "device": device,
        "limit": limit,
        "batch_size": batch_size,
        "json": json,
        "verbose": verbose,
    }
    spread = spreading.Spread(
        engine=engine.value,
        ray_address=ray_address,
        workers=workers,
        worker_cpus=worker_cpus,
        worker_gpus=worker_gpus,
    )
    if spread.on_ray and open_ended:
        raise ConfigError("--engine ray does not go with --open-ended; leave one of them out")
    if not open_ended:
        refuse(of_openings, "belongs to --open-ended; add it")
    if pairs is not None:
        other: dict[str, Any] = {"data": data, "split": None if split == TRAIN else split}
        other |= {"open_ended": open_ended, **of_rows, **of_exits}
        refuse(other, "does not go with --pairs; leave one of them out")
        chosen = {**of_pairs, **of_texts, **of_both, "one_pass": one_pass, "spread": spread}
        _evaluate_pairs(PairsEvaluation(pairs=pairs, model=tuple(model or ()), **chosen))
        return
    refuse({**of_pairs, **one_pass.given}, "belongs to --pairs; add --pairs pairs.jsonl")
    of_both |= {"data": _named(data), "split": split, "model": _only(model), **of_exits}
    if open_ended:
        refuse(of_rows, "does not go with --open-ended; leave one of them out")
        _evaluate_openings(OpenEndedEvaluation(**of_openings, **of_texts, **of_both))
        return
    refuse(of_texts, "belongs to --pairs or --open-ended; add one of them")
    _evaluate_exits(Evaluation(**of_rows, **of_both, spread=spread))


def _evaluate_exits(settings: Evaluation) -> None:
    # --help and the errors above need no torch, which takes seconds to import.
    with logs_disabled(not settings.verbose):
        from offramp.cli.measure import measure  # noqa: PLC0415

    measure(settings)


def _evaluate_openings(settings: OpenEndedEvaluation) -> None:
    with logs_disabled(not settings.verbose):
        from offramp.cli.open_ended import go_on  # noqa: PLC0415 - needs torch

    go_on(settings)


def _evaluate_pairs(settings: PairsEvaluation) -> None:
    with logs_disabled(not settings.verbose):
        from offramp.cli.seq2seq_measure import measure_pairs  # noqa: PLC0415 - needs torch

    measure_pairs(settings)


def _named(data: str | None) -> str:
    if data is None:
        raise ConfigError(
            "nothing to measure on; name a text by --data, or pairs for encoder-decoders by --pairs"
        )
    return data


def _only(models: list[str] | None) -> str | None:
    if models and len(models) > 1:
        raise ConfigError(
            f"got {len(models)} models ({', '.join(models)}); --data measures the exits of one, "
            "--pairs compares several"
        )
    return models[0] if models else None
