"""Run ``offramp pretrain``: load or make the model, read, train, and show what was reached.

In:  checked options. Out: a folder with the model, and a line or JSON on stdout.
Law: what can be refused is refused before the first step; only the first process writes and speaks;
     a run that is stopped is gone on with by the same command (tests/cli/test_pretrain.py).
Not here: training (offramp.training.pretraining).
"""

import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import typer
from accelerate import PartialState
from transformers import AutoConfig, AutoTokenizer

from offramp.cli.encoding import block_size_of
from offramp.cli.journal import Journal
from offramp.cli.loading import Loaded, weights_hash
from offramp.cli.output import Interrupted
from offramp.cli.pretrain import Pretraining
from offramp.cli.publish import push
from offramp.cli.quiet import quiet
from offramp.cli.rows import Reader, content_of
from offramp.cli.seq2seq_loading import find_source
from offramp.cli.show import remark, show_json, show_text
from offramp.cli.steps import Steps
from offramp.cli.teach import INTERRUPTED, join_processes
from offramp.errors import CheckpointError, ConfigError, first_line
from offramp.evaluation.seq2seq import WriteSettings
from offramp.models.checkpoint import find_file
from offramp.models.elmer import ElmerForConditionalGeneration
from offramp.models.elmer.published import published_config
from offramp.models.files import moved_whole
from offramp.training.checkpoints import last_checkpoint
from offramp.training.pretraining import FREE, pretrain
from offramp.training.pretraining_data import corruptor_for
from offramp.training.pretraining_text import load_blocks
from offramp.training.trainer import writable

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
REACHED = ("rows", "steps", "loss", "held_out_loss", "tokens")


def run(asked: Pretraining) -> None:
    """Pre-train, save, and show the result.

    Raises:
        OfframpError: Something was asked for that cannot be done.
        Interrupted: Ctrl-C.
    """
    with quiet(verbose=asked.verbose):
        state = join_processes(asked.device)
        try:
            results = _train(asked, state)
        except torch.OutOfMemoryError:
            raise ConfigError(
                f"out of memory with --device {asked.device}; try a smaller --batch-size, a "
                "smaller --block-size or --precision bfloat16"
            ) from None
        except KeyboardInterrupt:
            if not state.is_main_process:
                raise typer.Exit(INTERRUPTED) from None
            last = last_checkpoint(asked.output, exits=False)
            raise Interrupted(
                f"interrupted: the same command goes on from {last or 'the start'}"
            ) from None
        if state.is_main_process:
            _show(results, as_json=asked.json)
            push(asked.output, asked.push_to_hub)
        state.wait_for_everyone()
        state.destroy_process_group()


def _train(asked: Pretraining, state: PartialState) -> dict[str, Any]:
    """Train, unless it was done, and give what was reached."""
    start, first = time.perf_counter(), bool(state.is_main_process)
    with state.main_process_first():
        loaded, is_random = load_or_make(asked.model, seed=asked.settings.seed)
        corruptor_for(loaded.model.config, loaded.tokenizer, noise=asked.settings, seed=0)
        reader = _reader(asked, loaded)
        named = reader.named()
        rows, held_out = reader.divided(reader.mixed(named, Path()))
        journal = Journal(
            asked.output,
            _facts(asked, reader, content=reader.contents(named)),
            writer=None,
            overwrite=asked.overwrite and first,
            writing=first,
        )
    state.wait_for_everyone()
    if journal.results.get("trained"):
        if first:
            remark(f"{asked.output} holds this training, whole")
    else:
        if first and is_random and last_checkpoint(asked.output, exits=False) is None:
            remark(
                f"{asked.model} holds no weights: starts from random ones, seed "
                f"{asked.settings.seed}"
            )
        reached = _learn(asked, loaded, (rows, held_out), state)
        if first:
            with writable(asked.output), moved_whole(asked.output) as stage:
                loaded.tokenizer.save_pretrained(stage)
            count = len(rows) if hasattr(rows, "__len__") else None
            journal.note(**reached, rows=count, trained=True)
    return {
        "output": str(asked.output),
        "model": asked.model,
        "random_start": is_random,
        **{name: journal.results.get(name) for name in REACHED},
        "seconds": round(time.perf_counter() - start, 3),
    }


def load_or_make(name: str, *, seed: int) -> tuple[Loaded, bool]:
    """Load an ELMER model, or make one of a configuration that has no weights beside it.

    A BART is read as one: nothing tells ELMER's published pre-trained weights from it, and it is a
    start for ELMER as well.

    Args:
        name: Folder or hub name.
        seed: Of random weights.

    Returns:
        The model with its tokenizer, on the CPU, and whether its weights are random.

    Raises:
        CheckpointError: There is no such model, or it cannot be read.
        ConfigError: It is another kind of model.
    """
    source = find_source(name, as_elmer=True)
    if any(find_file(source.place, each, {}) is not None for each in WEIGHTS):
        writer = source.load(WriteSettings(), dtype="float32", device="cpu")
        return Loaded(model=writer.model, tokenizer=writer.tokenizer, name=name), False
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.place)
        config = published_config(source.place, {}, mask=tokenizer.mask_token_id)
        config = config or AutoConfig.from_pretrained(source.place)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"cannot make a model of {name!r}: {first_line(error)}; name a folder with the "
            "config.json of an ELMER model and a tokenizer"
        ) from None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ElmerForConditionalGeneration(config)
    return Loaded(model=model, tokenizer=tokenizer, name=name), True


def _reader(asked: Pretraining, loaded: Loaded) -> Reader:
    return Reader(
        texts=asked.texts,
        loaded=loaded,
        seed=asked.settings.seed,
        block_size=block_size_of(loaded, asked.texts.block_size),
        load=partial(load_blocks, mix=asked.mix),
    )


def _facts(asked: Pretraining, reader: Reader, *, content: Mapping[str, Any]) -> dict[str, Any]:
    """Name all that decides the training."""
    settings = asdict(asked.settings)
    text = {**asdict(asked.texts), "block_size": reader.block_size, "content": content}
    return {
        "model": asked.model,
        "weights": weights_hash(reader.loaded.model),
        "text": {**text, "mix": asked.mix},
        "content of --held-out": content_of(reader.held_out),
        "settings": {name: settings[name] for name in settings if name not in FREE},
    }


def _learn(
    asked: Pretraining, loaded: Loaded, rows: tuple[Any, Any], state: PartialState
) -> dict[str, Any]:
    """Train, and give what was reached."""
    on_cpu = state.device.type == "cpu"
    training, held_out = rows
    with Steps(first=bool(state.is_main_process), held_out=held_out is not None) as steps:
        pretrain(
            loaded.model,
            training,
            tokenizer=loaded.tokenizer,
            output=asked.output,
            settings=asked.settings,
            held_out=held_out,
            callbacks=[steps],
            disable_tqdm=True,
            use_cpu=on_cpu,
            report_to=asked.log_to,
            include_num_input_tokens_seen="non_padding",
        )
    return steps.reached


def _show(results: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(results)
        return
    told = f"{results['output']}: {results['steps']} steps, loss {results['loss']:.4g}"
    held_out = results["held_out_loss"]
    show_text(told + ("" if held_out is None else f", held-out loss {held_out:.4g}"))
