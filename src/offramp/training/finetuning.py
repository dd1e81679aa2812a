"""Fine-tune an encoder-decoder on pairs of texts: ELMER, or any of transformers.

In:  a model, a tokenizer, pairs, settings. Out: the best checkpoint, and its numbers on pairs held
     out.
Law: texts written during the training are those that ``generate`` writes: no reference reaches
     them; killed and started again, or divided over processes, it gives the same weights
     (tests/training/test_finetuning.py).
Not here: metrics, which are given (offramp.evaluation.text_metrics); pre-training
     (offramp.training.pretraining).
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import DataCollatorForSeq2Seq, EarlyStoppingCallback, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from offramp.errors import ConfigError, InputError
from offramp.logits.labels import NO_LABEL
from offramp.models.context import context_of
from offramp.training.checkpoints import check_facts
from offramp.training.finetuning_settings import FinetuneSettings
from offramp.training.formats import Rows, columns_of
from offramp.training.room import REMEDY, have_room
from offramp.training.trainer import SafeTrainer, precision_arguments

_logger = logging.getLogger(__name__)

Metrics = Callable[[Sequence[str], Sequence[Sequence[str]]], Mapping[str, float]]
"""From texts and each one's references to numbers."""

WHEN_SAVED = ("architectures", "dtype", "transformers_version")
"""What saving a model writes into its configuration."""


@dataclass(frozen=True)
class Pair:
    """One pair of texts.

    Attributes:
        source: What is read.
        targets: What may be written; the first is learned.
    """

    source: str
    targets: tuple[str, ...]


def pairs_of(
    rows: Rows, *, source: str = "source", target: str = "target", name: str = "the data"
) -> list[Pair]:
    """Read pairs.

    Args:
        rows: Rows with the places they stand at.
        source: Column of sources.
        target: Column of targets. A column ``targets`` beside it holds all that are right.
        name: Of the rows, for messages.

    Raises:
        InputError: There are no rows, one has no such columns, or they hold no text.
    """
    pairs = []
    for place, row in rows:
        more = row.get("targets") or []
        given = [row.get(source), row.get(target), *(more if isinstance(more, list) else [None])]
        if not all(isinstance(each, str) and each.strip() for each in given):
            found = columns_of(row)
            raise InputError(
                f"{place}: a pair needs text in {source} and {target}, found columns {found}; name "
                "the columns to use, or mend the line"
            )
        pairs.append(Pair(str(given[0]), tuple(dict.fromkeys(map(str, given[1:])))))
    if not pairs:
        example = json.dumps({source: "a text", target: "its text"})
        raise InputError(f"{name} holds no pairs; give at least one, such as {example}")
    return pairs


def tokenised(
    pairs: Sequence[Pair],
    tokenizer: Any,
    settings: FinetuneSettings,
    *,
    config: Any = None,
    name: str = "pairs",
) -> tuple[list[dict[str, list[int]]], str]:
    """Turn pairs into tokens; those that nothing can be learned from are left out.

    Args:
        pairs: What is to be learned.
        tokenizer: Of the model.
        settings: The longest sources and targets.
        config: Of the model; an ELMER model with ``ctc`` or ``dag`` learns only targets that fit
            their canvas.
        name: Of the pairs, in the plural.

    Returns:
        Rows, and a line about what is missing or cut; empty if nothing is.

    Raises:
        InputError: All are left out.
    """
    longest = longest_source(settings, config)
    sources, shortened = _sources([each.source for each in pairs], tokenizer, longest)
    targets = tokenizer(text_target=[each.targets[0] for each in pairs])["input_ids"]
    rows = [
        {"input_ids": source, "labels": target}
        for source, target in zip(sources, targets, strict=True)
        if len(target) <= settings.max_target
    ]
    long = f"a target of more than {settings.max_target} tokens (raise max_target)"
    why, cut = {long: len(pairs) - len(rows)}, 0
    if getattr(config, "model_type", "") == "elmer":
        room = have_room(config, rows)
        if config.output_head == "plain":
            cut = room.count(False)
        else:
            why[f"a target that does not fit its canvas ({REMEDY})"] = room.count(False)
            rows = [row for row, fits in zip(rows, room, strict=True) if fits]
    told = ", ".join(f"{count} with {fault}" for fault, count in why.items() if count)
    lines = [f"{sum(why.values())} of {len(pairs)} {name} left out: {told}"] if told else []
    if not rows:
        raise InputError(lines[0])
    if shortened:
        more = longest_source(replace(settings, max_source=longest + 1), config) > longest
        remedy = "raise max_source" if more else "the model reads no more"
        lines.append(
            f"{shortened} of {len(pairs)} {name} with a source of more than {longest} tokens, "
            f"which is cut ({remedy})"
        )
    if cut:
        lines.append(
            f"{cut} of {len(pairs)} {name} with a target longer than the canvas that its source "
            f"gives, where the text will be cut ({REMEDY})"
        )
    return rows, "; ".join(lines)


def _sources(texts: Sequence[str], tokenizer: Any, longest: int) -> tuple[list[list[int]], int]:
    """Turn sources into tokens, and count those that were cut."""
    found = tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]
    full = [text for text, ids in zip(texts, found, strict=True) if len(ids) == longest]
    whole = tokenizer(full, verbose=False)["input_ids"] if full else []
    return found, sum(len(ids) > longest for ids in whole)


def longest_source(settings: FinetuneSettings, config: Any) -> int:
    """Give the tokens that sources are cut to: what was asked for, or all that the model knows."""
    known = None if config is None else context_of(config)
    return min(settings.max_source, known or settings.max_source)


class ByLength(Sampler[int]):
    """Rows in random order, those of a step alike in length; one order for a seed and an epoch.

    transformers' own sampler draws from the global generator, so that a training which was resumed
    goes on in another order.

    Args:
        lengths: Of the rows.
        together: Rows of a step.
        seed: Decides the orders of all epochs.
    """

    def __init__(self, lengths: Sequence[int], together: int, seed: int) -> None:
        self._lengths, self._together, self._seed = list(lengths), together, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        return iter(get_length_grouped_indices(self._lengths, self._together, generator=generator))


class PairTrainer(SafeTrainer):
    """The trainer that survives being stopped, which also writes texts at each evaluation.

    Args:
        written: Pairs that texts are written for.
        longest: Tokens of a source; more are cut off, as in the training.
        metrics: Measures them.
        generate: Further arguments of ``generate``.
    """

    def __init__(
        self,
        *args: Any,
        written: Sequence[Pair] = (),
        longest: int,
        metrics: Metrics | None = None,
        generate: Mapping[str, Any] | None = None,
        **named: Any,
    ) -> None:
        super().__init__(*args, **named)
        self._written, self._longest, self._metrics = written, longest, metrics
        self._generate = dict(generate or {})

    def _get_train_sampler(self, train_dataset: Any = None) -> ByLength:
        rows = self.train_dataset if train_dataset is None else train_dataset
        batches = self.args.gradient_accumulation_steps * self.args.world_size
        together = self.args.train_batch_size * batches  # of a step, whoever does how many of them
        return ByLength([len(row["input_ids"]) for row in rows], together, self.args.seed)

    def evaluation_loop(self, *args: Any, **named: Any) -> Any:
        """Measure the loss, and the metrics of texts that are written."""
        output = super().evaluation_loop(*args, **named)
        if self._metrics is not None and self._written:
            texts = self.write([each.source for each in self._written])
            found = self._metrics(texts, [each.targets for each in self._written])
            output.metrics.update({f"eval_{name}": float(each) for name, each in found.items()})
        return output

    @torch.no_grad()
    def write(self, sources: Sequence[str]) -> list[str]:
        """Write a text for each source."""
        model, tokenizer = self.accelerator.unwrap_model(self.model), self.processing_class
        was = model.training
        model.eval()
        order = sorted(range(len(sources)), key=lambda place: -len(sources[place]))
        texts = [""] * len(sources)
        size = self.args.per_device_eval_batch_size
        for start in range(0, len(order), size):
            places = order[start : start + size]
            batch = tokenizer(
                [sources[place] for place in places],
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=self._longest,
            ).to(self.args.device)
            ids = model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                **self._generate,
            )
            said = tokenizer.batch_decode(ids, skip_special_tokens=True)
            for place, text in zip(places, said, strict=True):
                texts[place] = text
        model.train(was)
        return texts


def finetune(
    model: Any,
    tokenizer: Any,
    *,
    pairs: Sequence[Pair],
    held_out: Sequence[Pair],
    output: str | Path,
    settings: FinetuneSettings,
    metrics: Metrics | None = None,
    **more: Any,
) -> PairTrainer:
    """Fine-tune a model in place; the best weights are in it afterwards.

    A training that was stopped goes on from its last whole checkpoint in ``output``.

    Args:
        model: ELMER, or any encoder-decoder of transformers.
        tokenizer: Its own; it ends texts with the end token.
        pairs: To train on.
        held_out: To measure with.
        output: Folder of checkpoints.
        settings: How.
        metrics: Measures the texts written at each evaluation; its names, such as ``errors``, may
            be ``settings.metric``.
        **more: Further arguments of transformers' ``TrainingArguments``.

    Returns:
        The trainer, which has written its state to ``output``.

    Raises:
        ConfigError: A setting does not fit the model.
        InputError: No pair can be used.
    """
    one_pass = getattr(model.config, "model_type", "") == "elmer"  # its canvas says where to end
    if settings.label_smoothing and one_pass:
        raise ConfigError("label_smoothing is not for ELMER models; leave it at 0")
    config = model.config
    tokenizer = deepcopy(tokenizer)  # it keeps how it cut and padded last, and would save that
    rows, lost = tokenised(pairs, tokenizer, settings, config=config)
    kept_back, lost_back = tokenised(
        held_out, tokenizer, settings, config=config, name="held-out pairs"
    )
    stopping = [EarlyStoppingCallback(settings.patience)] if settings.patience else []
    trainer = PairTrainer(
        model,
        training_arguments(settings, output, **more),
        train_dataset=rows,
        eval_dataset=kept_back,
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=NO_LABEL),
        processing_class=tokenizer,
        callbacks=stopping,
        written=evenly(held_out, settings.eval_rows),
        longest=longest_source(settings, config),
        metrics=metrics,
        generate={} if one_pass else {"max_new_tokens": settings.max_target},
    )
    for line in filter(None, (lost, lost_back)):
        if trainer.is_world_process_zero():
            _logger.warning(line)
    facts = {
        **asdict(settings),
        "pairs": _hash(map(asdict, pairs)),
        "held_out": _hash(map(asdict, held_out)),
        "model": config.model_type,
        "config": _hash([_lasting(config)]),
    }
    check_facts(output, facts, write=trainer.is_world_process_zero(), exits=False)
    trainer.accelerator.wait_for_everyone()
    trainer.train(resume_from_checkpoint=trainer.last_checkpoint())
    return trainer


def _lasting(config: Any) -> dict[str, Any]:
    """Give what a configuration says of the model, and not of how it was last saved."""
    facts = config.to_diff_dict().items()
    return {name: value for name, value in facts if name not in WHEN_SAVED}


def _hash(facts: Iterable[Mapping[str, Any]]) -> str:
    """Tell trainings apart by what they read, without keeping it."""
    digest = sha256()
    for each in facts:
        digest.update(json.dumps(each, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()[:16]


def evenly(pairs: Sequence[Pair], count: int) -> Sequence[Pair]:
    """Give at most so many pairs, at equal distances: a file in alphabetical order begins with A.

    Example:
        >>> [pair.source for pair in evenly([Pair(each, ("",)) for each in "abcdef"], 3)]
        ['a', 'c', 'e']
    """
    most = min(count, len(pairs))
    return [pairs[number * len(pairs) // most] for number in range(most)]


def training_arguments(
    settings: FinetuneSettings, output: str | Path, **more: Any
) -> TrainingArguments:
    """Give transformers' arguments.

    Args:
        settings: How it is trained.
        output: Folder of checkpoints and logs.
        **more: Further arguments of transformers, such as ``report_to``.
    """
    precision = precision_arguments(settings.precision, use_cpu=more.get("use_cpu"))
    given: dict[str, Any] = {
        "output_dir": str(output),
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.schedule,
        "warmup_steps": settings.warmup,
        "weight_decay": settings.weight_decay,
        "label_smoothing_factor": settings.label_smoothing,
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps or -1,
        "per_device_train_batch_size": settings.batch_size,
        "per_device_eval_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.accumulate,
        **precision,
        "dataloader_pin_memory": not precision["use_cpu"],
        "eval_strategy": "steps",
        "eval_steps": settings.eval_steps,
        "save_steps": settings.eval_steps,
        "logging_steps": settings.log_steps,
        "save_total_limit": settings.keep,
        "load_best_model_at_end": True,
        "metric_for_best_model": settings.metric.lstrip("-"),
        "greater_is_better": not settings.metric.startswith("-"),
        "seed": settings.seed,
        "data_seed": settings.seed,
        "prediction_loss_only": True,
        "remove_unused_columns": False,
        "report_to": "none",
    }
    return TrainingArguments(**{**given, **more})
