"""Fine-tune an encoder-decoder on pairs of texts: ELMER, or any of transformers.

In:  a model, a tokenizer, pairs, settings. Out: the best checkpoint, and its numbers on pairs held
     out.
Law: texts written during the training are those that ``generate`` writes: no reference reaches
     them; killed and started again it gives the same weights
     (tests/training/test_finetuning.py).
Not here: metrics, which are given (offramp.evaluation.text_metrics); pre-training
     (offramp.training.pretraining).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import DataCollatorForSeq2Seq, EarlyStoppingCallback, Trainer, TrainingArguments

from offramp.errors import ConfigError, InputError
from offramp.training.formats import Rows
from offramp.training.positions import NO_LABEL
from offramp.training.settings import Precision, Schedule

Metrics = Callable[[Sequence[str], Sequence[Sequence[str]]], Mapping[str, float]]
"""From texts and each one's references to numbers."""


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """How an encoder-decoder is fine-tuned.

    Attributes:
        learning_rate: Highest learning rate of AdamW.
        schedule: linear, cosine or constant, after the warm-up.
        warmup: Share of the steps with a rising learning rate, 0 to below 1.
        weight_decay: Of AdamW.
        label_smoothing: Share of the target's probability that is spread, 0 to below 1; not for
            ELMER models, whose losses are their own.
        epochs: Passes over the pairs.
        max_steps: Stop after so many steps; 0 goes by epochs.
        batch_size: Pairs at a time, on each process.
        accumulate: Batches per step.
        precision: float32, or mixed precision in bfloat16 or float16.
        eval_steps: Steps between checkpoints, each with an evaluation by writing.
        eval_rows: Pairs held out that are written for, the first ones.
        metric: Which number decides which checkpoint is the best; its sign tells the direction:
            ``-errors`` is better when lower.
        patience: Stop after so many evaluations without a better one; 0 never.
        max_source: Tokens of a source, more are cut.
        max_target: Tokens of a target, pairs with more are left out of the training.
        log_steps: Steps between lines of the log.
        keep: Checkpoints that are kept, the best beside them.
        seed: Decides order, dropout and everything drawn.

    Raises:
        ConfigError: A value is out of its range.
    """

    learning_rate: float = 5e-4
    schedule: Schedule = "linear"
    warmup: float = 0.05
    weight_decay: float = 0.01
    label_smoothing: float = 0.0
    epochs: float = 10.0
    max_steps: int = 0
    batch_size: int = 64
    accumulate: int = 1
    precision: Precision = "float32"
    eval_steps: int = 500
    eval_rows: int = 500
    metric: str = "-loss"
    patience: int = 0
    max_source: int = 256
    max_target: int = 128
    log_steps: int = 50
    keep: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        least_one = ("batch_size", "accumulate", "eval_steps", "max_source", "max_target", "keep")
        for name in (*least_one, "log_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("max_steps", "eval_rows", "patience", "weight_decay"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not self.learning_rate > 0 or not self.epochs > 0:
            raise ConfigError(
                "learning_rate and epochs must be above 0, got "
                f"{self.learning_rate} and {self.epochs}"
            )
        for name in ("warmup", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be from 0 to below 1, got {getattr(self, name)}")

    def arguments(self, output: str | Path, **more: Any) -> TrainingArguments:
        """Give transformers' arguments.

        Args:
            output: Folder of checkpoints and logs.
            **more: Further arguments of transformers, such as ``report_to``.
        """
        given: dict[str, Any] = {
            "output_dir": str(output),
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": self.schedule,
            "warmup_steps": self.warmup,
            "weight_decay": self.weight_decay,
            "label_smoothing_factor": self.label_smoothing,
            "num_train_epochs": self.epochs,
            "max_steps": self.max_steps or -1,
            "per_device_train_batch_size": self.batch_size,
            "per_device_eval_batch_size": self.batch_size,
            "gradient_accumulation_steps": self.accumulate,
            "bf16": self.precision == "bfloat16",
            "fp16": self.precision == "float16",
            "eval_strategy": "steps",
            "eval_steps": self.eval_steps,
            "save_steps": self.eval_steps,
            "logging_steps": self.log_steps,
            "save_total_limit": self.keep,
            "load_best_model_at_end": True,
            "metric_for_best_model": self.metric.lstrip("-"),
            "greater_is_better": not self.metric.startswith("-"),
            "train_sampling_strategy": "group_by_length",
            "seed": self.seed,
            "data_seed": self.seed,
            "prediction_loss_only": True,
            "remove_unused_columns": False,
            "report_to": "none",
        }
        return TrainingArguments(**{**given, **more})


@dataclass(frozen=True)
class Pair:
    """One pair of texts.

    Attributes:
        source: What is read.
        targets: What may be written; the first is learned.
    """

    source: str
    targets: tuple[str, ...]


def pairs_of(rows: Rows, *, source: str = "source", target: str = "target") -> list[Pair]:
    """Read pairs.

    Args:
        rows: Rows with the places they stand at.
        source: Column of sources.
        target: Column of targets. A column ``targets`` beside it holds all that are right.

    Raises:
        InputError: A row has no such columns, or they hold no text.
    """
    pairs = []
    for place, row in rows:
        given = [row.get(source), row.get(target), *(row.get("targets") or ())]
        if not all(isinstance(each, str) and each.strip() for each in given):
            found = ", ".join(sorted(map(str, row))) or "none"
            raise InputError(
                f"{place}: a pair needs text in {source} and {target}, found columns {found}; name "
                "the columns to use, or mend the line"
            )
        pairs.append(Pair(str(given[0]), tuple(dict.fromkeys(map(str, given[1:])))))
    if not pairs:
        raise InputError("there are no pairs; give at least one")
    return pairs


def tokenised(
    pairs: Sequence[Pair], tokenizer: Any, settings: FinetuneSettings
) -> list[dict[str, list[int]]]:
    """Turn pairs into tokens; those whose target is too long are left out.

    Raises:
        InputError: None is short enough.
    """
    sources = tokenizer(
        [each.source for each in pairs], truncation=True, max_length=settings.max_source
    )["input_ids"]
    targets = tokenizer(text_target=[each.targets[0] for each in pairs])["input_ids"]
    rows = [
        {"input_ids": source, "labels": target}
        for source, target in zip(sources, targets, strict=True)
        if len(target) <= settings.max_target
    ]
    if not rows:
        raise InputError(f"no target has {settings.max_target} tokens or fewer; raise max_target")
    return rows


class PairTrainer(Trainer):  # type: ignore[misc]
    """transformers' Trainer, which also writes texts at each evaluation.

    Args:
        written: Pairs that texts are written for.
        metrics: Measures them.
        generate: Further arguments of ``generate``.
    """

    def __init__(
        self,
        *args: Any,
        written: Sequence[Pair] = (),
        metrics: Metrics | None = None,
        generate: Mapping[str, Any] | None = None,
        **named: Any,
    ) -> None:
        super().__init__(*args, **named)
        self._written, self._metrics = written, metrics
        self._generate = dict(generate or {})

    def evaluate(self, *args: Any, **named: Any) -> dict[str, float]:
        """Give the loss, and the metrics of texts that are written."""
        numbers: dict[str, float] = super().evaluate(*args, **named)
        if self._metrics is not None and self._written:
            texts = self.write([each.source for each in self._written])
            found = self._metrics(texts, [each.targets for each in self._written])
            own = {f"eval_{name}": float(value) for name, value in found.items()}
            self.log(own)
            numbers |= own
        return numbers

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
                [sources[place] for place in places], return_tensors="pt", padding=True
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
    callbacks: Iterable[Any] = (),
    resume: str | None = None,
    **more: Any,
) -> PairTrainer:
    """Fine-tune a model in place; the best weights are in it afterwards.

    Args:
        model: ELMER, or any encoder-decoder of transformers.
        tokenizer: Its own; it ends texts with the end token.
        pairs: To train on.
        held_out: To measure with.
        output: Folder of checkpoints.
        settings: How.
        metrics: Measures the texts written at each evaluation; its names, such as ``errors``, may
            be ``settings.metric``.
        callbacks: Of transformers.
        resume: A checkpoint to go on from.
        **more: Further arguments of transformers' ``TrainingArguments``.

    Returns:
        The trainer, which has written its state to ``output``.

    Raises:
        ConfigError: A setting does not fit the model.
        InputError: No pair can be used.
    """
    if settings.label_smoothing and getattr(model.config, "model_type", "") == "elmer":
        raise ConfigError("label_smoothing is not for ELMER models; leave it at 0")
    stopping = [EarlyStoppingCallback(settings.patience)] if settings.patience else []
    trainer = PairTrainer(
        model,
        settings.arguments(output, **more),
        train_dataset=tokenised(pairs, tokenizer, settings),
        eval_dataset=tokenised(held_out, tokenizer, settings),
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=NO_LABEL),
        processing_class=tokenizer,
        callbacks=[*stopping, *callbacks],
        written=list(islice(held_out, settings.eval_rows)),
        metrics=metrics,
        generate={"max_new_tokens": settings.max_target},
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer
