"""Fine-tune an encoder-decoder on pairs of texts: ELMER, or any of transformers.

In:  a model, a tokenizer, pairs, settings. Out: the best checkpoint, and its numbers on pairs held
     out.
Law: texts written during the training are those that ``generate`` writes: no reference reaches
     them; killed and started again, or divided over processes, it gives the same weights
     (tests/training/test_finetuning.py).
Not here: pairs and their tokens (offramp.training.pairs); metrics, which are given
     (offramp.evaluation.text_metrics); pre-training (offramp.training.pretraining).
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import DataCollatorForSeq2Seq, EarlyStoppingCallback, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from offramp.errors import ConfigError
from offramp.logits.labels import NO_LABEL
from offramp.training.checkpoints import check_facts
from offramp.training.finetuning_settings import FinetuneSettings
from offramp.training.pairs import Pair, evenly, longest_source, tokenised
from offramp.training.trainer import SafeTrainer, precision_arguments

_logger = logging.getLogger(__name__)

Metrics = Callable[[Sequence[str], Sequence[Sequence[str]]], Mapping[str, float]]
"""From texts and each one's references to numbers."""

WHEN_SAVED = ("architectures", "dtype", "transformers_version")
"""What saving a model writes into its configuration."""


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
        data_collator=DataCollatorForSeq2Seq(
            tokenizer,
            model=None if one_pass else model,  # smoothing takes labels away: what is shown is made
            label_pad_token_id=NO_LABEL,
        ),
        processing_class=tokenizer,
        callbacks=stopping,
        written=evenly(held_out, settings.eval_rows),
        longest=longest_source(settings.max_source, config),
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
