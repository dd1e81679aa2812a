"""Run ``offramp finetune``: load, read, train, and show what was reached.

In:  checked options. Out: a folder with the best model, and a line or JSON on stdout.
Law: what can be refused is refused before the first step; a run that is stopped is gone on with by
     the same command (tests/cli/test_finetune.py).
Not here: training (offramp.training.finetuning), scores (offramp.evaluation.text_metrics).
"""

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

from offramp.cli.finetune import Finetuning
from offramp.cli.finetuning_gates import check_gates, give_gates, show_gates
from offramp.cli.loading import device_of
from offramp.cli.output import Interrupted
from offramp.cli.publish import push
from offramp.cli.quiet import data_bars_on_terminals_only, memory_named, quiet
from offramp.cli.seq2seq_loading import bare_name, find_source
from offramp.cli.show import remark, show_json, show_text
from offramp.errors import CheckpointError, ConfigError, InputError, first_line
from offramp.evaluation.seq2seq import WriteSettings
from offramp.evaluation.text_metrics import measures
from offramp.models.files import moved_whole
from offramp.training.checkpoints import last_checkpoint
from offramp.training.finetuning import PairTrainer, finetune
from offramp.training.formats import Rows
from offramp.training.pairs import Pair, pairs_of
from offramp.training.sources import open_source
from offramp.training.trainer import writable


def run(asked: Finetuning) -> None:
    """Fine-tune, save, and show the result.

    Raises:
        OfframpError: Something was asked for that cannot be done.
        Interrupted: Ctrl-C.
    """
    memory = memory_named(device=asked.device, batch_size=asked.settings.batch_size)
    with quiet(verbose=asked.verbose), memory, data_bars_on_terminals_only():
        training, held_out = _pairs(asked)
        model, tokenizer = _loaded(asked)
        check_gates(asked, model)
        try:
            trainer = None
            if asked.gates_only:
                model.to(device_of(asked.device))
            else:
                trainer = _tuned(asked, model, tokenizer, pairs=training, held_out=held_out)
            if trainer is not None and not trainer.is_world_process_zero():
                return
            gates = give_gates(asked, model, tokenizer, pairs=training, held_out=held_out)
            _save(asked, model, tokenizer)
        except KeyboardInterrupt:
            raise Interrupted(_told(asked.output)) from None
        _show(asked, _result(asked, trainer, pairs=len(training), gates=gates))
        push(asked.output, asked.push_to_hub)


def _tuned(
    asked: Finetuning,
    model: Any,
    tokenizer: Any,
    *,
    pairs: Sequence[Pair],
    held_out: Sequence[Pair],
) -> PairTrainer:
    """Fine-tune, and leave the best weights in the model.

    Raises:
        ConfigError: It ended before its first evaluation.
    """
    trainer = finetune(
        model,
        tokenizer,
        pairs=pairs,
        held_out=held_out,
        output=asked.output,
        settings=asked.settings,
        metrics=measures(asked.metrics) if asked.metrics else None,
        use_cpu=device_of(asked.device).type == "cpu",
        report_to=asked.log_to,
    )
    if trainer.state.best_metric is None:
        raise ConfigError("the training ended before its first evaluation; lower --eval-steps")
    return trainer


def _save(asked: Finetuning, model: Any, tokenizer: Any) -> None:
    with writable(asked.output), moved_whole(asked.output) as stage:
        model.save_pretrained(stage)
        tokenizer.save_pretrained(stage)


def _pairs(asked: Finetuning) -> tuple[list[Pair], list[Pair]]:
    names = {"source": asked.source_column, "target": asked.target_column}
    if asked.target_files:
        files = zip((*asked.pairs, asked.held_out), asked.target_files, strict=True)
        rows = [_aligned(Path(ours), theirs, asked) for ours, theirs in files]
    else:
        parts = [(each, asked.split) for each in asked.pairs]
        parts.append((asked.held_out, asked.held_out_split))
        rows = [open_source(each, split=part, streaming=False).rows("text") for each, part in parts]
    return (
        pairs_of(chain(*rows[:-1]), **names, name=" and ".join(asked.pairs)),
        pairs_of(rows[-1], **names, name=asked.held_out),
    )


def _aligned(sources: Path, targets: Path, asked: Finetuning) -> Rows:
    """Put the lines of two files side by side.

    Raises:
        InputError: A file cannot be read, or one ends before the other.
    """
    for number, (ours, theirs) in enumerate(zip_longest(_lines(sources), _lines(targets)), start=1):
        if ours is None or theirs is None:
            longer, other = (targets, sources) if ours is None else (sources, targets)
            raise InputError(
                f"{longer}, line {number} has no line beside it in {other}; both files need "
                "equally many lines"
            )
        yield f"{sources}, line {number}", {asked.source_column: ours, asked.target_column: theirs}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read {path}: {first_line(error)}; name a file of text, one a line"
        ) from None


def _loaded(asked: Finetuning) -> tuple[Any, Any]:
    """Load what is trained, or make it with random weights.

    Raises:
        CheckpointError: There is no such model, or it cannot be read.
        ConfigError: ``elmer:`` says whose weights they are, and none shall be read.
    """
    if asked.from_scratch and bare_name(asked.model) != asked.model:
        raise ConfigError(
            f"--model {asked.model} says how weights are read, --from-scratch reads none; write "
            '"model_type": "elmer" into the config.json instead'
        )
    if not asked.from_scratch:
        folder = Path(bare_name(asked.model))
        weights = (*folder.glob("*.safetensors*"), *folder.glob("*.bin*"))
        if (folder / "config.json").is_file() and not weights:
            raise CheckpointError(
                f"{asked.model} holds a configuration and no weights; add --from-scratch to begin "
                "with random ones"
            )
        source = find_source(asked.model)
        writer = source.load(WriteSettings(), dtype="float32", device="cpu")
        return writer.model, writer.tokenizer
    try:
        config = AutoConfig.from_pretrained(asked.model)
        tokenizer = AutoTokenizer.from_pretrained(asked.model)
        with torch.random.fork_rng():
            torch.manual_seed(asked.settings.seed)
            return AutoModelForSeq2SeqLM.from_config(config), tokenizer
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"cannot make a model of {asked.model!r}: {first_line(error)}; name a folder with the "
            "config.json of an encoder-decoder and a tokenizer"
        ) from None


def _told(output: Path) -> str:
    last = last_checkpoint(output, exits=False)
    return f"interrupted: the same command goes on from {last or 'the start'}"


def _result(
    asked: Finetuning,
    trainer: PairTrainer | None,
    *,
    pairs: int,
    gates: list[dict[str, Any]] | None,
) -> dict[str, Any]:
    state = None if trainer is None else trainer.state
    history = state.log_history if state else ()
    return {
        "output": str(asked.output),
        "pairs": pairs,
        "steps": state.global_step if state else 0,
        "metric": asked.settings.metric.lstrip("-") if state else None,
        "best": state.best_metric if state else None,
        "checkpoint": state.best_model_checkpoint if state else None,
        "evaluations": [
            {name.removeprefix("eval_"): value for name, value in each.items()}
            for each in history
            if any(name.startswith("eval_") for name in each)
        ],
        "gates": gates,
    }


def _show(asked: Finetuning, result: Mapping[str, Any]) -> None:
    if asked.json:
        show_json(result)
        return
    reached = (
        ""
        if result["best"] is None
        else f", {result['steps']} steps, best {result['metric']} {result['best']:.4g} at "
        f"{Path(str(result['checkpoint'])).name}"
    )
    show_text(f"{asked.output}: {result['pairs']} pairs{reached}")
    if result["gates"] is not None:
        show_gates(result["gates"], output=str(asked.output))
    remark(f"write with it: offramp generate --model {asked.output} 'a source'")
