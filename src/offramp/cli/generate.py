"""``offramp generate``: prompts in, texts out.

Only this module and what it imports first is read for ``--help``; torch and transformers come
with offramp.cli.run.
"""

import logging
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from offramp.cli import options, seq2seq_options, spreading
from offramp.cli.output import check_output
from offramp.cli.prompts import Prompt, PromptFile, read_prompts
from offramp.cli.seq2seq_settings import OnePassChoice
from offramp.cli.settings import Display, Settings
from offramp.errors import ConfigError

EXAMPLE = "Example: offramp generate 'What is a ferry?' --contrast original:12 --max-new-tokens 40"


def generate(  # noqa: PLR0913 - one parameter for each option
    prompt: options.PromptText = None,
    *,
    file: options.PromptFile = None,
    jsonl: options.PromptJsonl = None,
    parquet: options.PromptParquet = None,
    chat: options.Chat = None,
    system: options.System = None,
    model: seq2seq_options.Model = None,
    exits_from: options.ExitsFrom = None,
    contrast: options.ContrastPair = None,
    alpha: options.Alpha = None,
    exit: options.Exit = None,
    dola: options.Dola = None,
    early_exit: options.EarlyExitRule = None,
    exits: options.EarlyExits = None,
    min_exit: options.MinExit = None,
    cache: options.StateCache = None,
    speculate: options.Speculate = None,
    draft_length: options.DraftLength = None,
    lookup: options.Lookup = None,
    runtime: options.Runtime = None,
    canvas_length: seq2seq_options.CanvasLength = None,
    lengths: seq2seq_options.Lengths = None,
    refine_steps: seq2seq_options.RefineSteps = None,
    path: seq2seq_options.ReadingPath = None,
    collapse_repeats: seq2seq_options.CollapseRepeats = False,
    max_new_tokens: options.MaxNewTokens = 128,
    do_sample: options.DoSample = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    num_beams: options.NumBeams = None,
    repetition_penalty: options.RepetitionPenalty = None,
    no_repeat_ngram_size: options.NoRepeatNgramSize = None,
    seed: options.Seed = None,
    batch_size: options.BatchSize = 1,
    dtype: options.DtypeName = options.Dtype.auto,
    device: options.Device = "auto",
    engine: spreading.EngineName = spreading.Engine.here,
    ray_address: spreading.RayAddress = None,
    workers: spreading.Workers = None,
    worker_cpus: spreading.WorkerCpus = None,
    worker_gpus: spreading.WorkerGpus = None,
    stream: options.Stream = False,
    output: options.Output = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Write a text for each prompt, from any exit of a model or by contrast between exits.

    An encoder-decoder reads the prompt and writes another text; ELMER does so in one pass. Results
    go to stdout, everything else to stderr.
    """
    sampling = {
        "do_sample": do_sample,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "num_beams": num_beams,
        "repetition_penalty": repetition_penalty,
        "no_repeat_ngram_size": no_repeat_ngram_size,
    }
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
        exits=exits,
        cache=cache,
        speculate=speculate,
        draft_length=draft_length,
        lookup=lookup,
        runtime=runtime,
        one_pass=OnePassChoice(
            min_exit=min_exit,
            canvas_length=canvas_length,
            lengths=lengths,
            refine_steps=refine_steps,
            path=path,
            collapse_repeats=collapse_repeats,
        ),
        chat=chat,
        system=system,
        max_new_tokens=max_new_tokens,
        sampling={name: value for name, value in sampling.items() if value is not None},
        batch_size=batch_size,
        seed=seed,
    )
    display = Display(stream=stream, json=json, output=output, overwrite=overwrite, verbose=verbose)
    spread = spreading.Spread(
        engine=engine.value,
        ray_address=ray_address,
        workers=workers,
        worker_cpus=worker_cpus,
        worker_gpus=worker_gpus,
    )
    files = {"file": file, "jsonl": jsonl, "parquet": parquet}
    if output is not None:
        check_output(output, inputs=[each for each in files.values() if each is not None])
    prompts = _prompts(prompt, files, again=spread.on_ray)
    if stream and (len(prompts) > 1 or spread.on_ray):
        told = "--engine ray" if spread.on_ray else f"{len(prompts)} prompts"
        raise ConfigError(f"--stream shows one text, got {told}; use --output")
    # --help and the errors above need no torch, which takes seconds to import.
    with logs_disabled(not verbose):
        from offramp.cli.run import run  # noqa: PLC0415

    run(settings, prompts, display, spread=spread)


def _prompts(
    prompt: str | None, files: Mapping[str, Path | None], *, again: bool
) -> Collection[Prompt]:
    """Read the prompts, or make what reads a file of them again and again."""
    given = [name for name, path in files.items() if path is not None]
    if again and prompt is None and len(given) == 1:
        return PromptFile(**files)
    stdin = None if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read
    return read_prompts(argument=prompt, stdin=stdin, **files)


@contextmanager
def logs_disabled(wanted: bool) -> Iterator[None]:
    """Drop what libraries log while they are imported, such as torchao about its missing parts."""
    before = logging.root.manager.disable
    if wanted:
        logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
