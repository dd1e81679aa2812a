"""What settings mean, and which are refused."""

import itertools

import pytest
import torch
from transformers import Trainer

import tiny
from offramp.errors import ConfigError
from offramp.training import finetuning, pretraining
from offramp.training.finetuning_settings import FinetuneSettings
from offramp.training.pretraining import PretrainSettings
from offramp.training.settings import PUBLISHED_BLOCK, TrainSettings, published_recipe


def test_the_published_recipe_has_the_published_numbers(tmp_path):
    settings = published_recipe(TrainSettings(precision="bfloat16", seed=7))

    arguments = settings.arguments(tmp_path, bf16=False)

    assert settings.objective == "next-token"
    assert (settings.positions, settings.candidates, settings.unfreeze) == (1.0, 0, False)
    assert arguments.learning_rate == 2e-4
    assert arguments.lr_scheduler_type == "linear"
    assert arguments.warmup_steps == 0
    assert arguments.num_train_epochs == 3
    assert arguments.per_device_train_batch_size == 16
    assert arguments.gradient_accumulation_steps == 1
    assert arguments.max_steps == -1
    assert arguments.weight_decay == 0
    assert "adamw" in arguments.optim.value
    assert (settings.precision, settings.seed) == ("bfloat16", 7)
    assert PUBLISHED_BLOCK == 512


def test_the_published_recipe_replaces_whatever_contradicts_it():
    other = TrainSettings(
        unfreeze=True, layer_dropout=0.2, checkpointing=True, accumulate=8, max_steps=5, warmup=0.5
    )

    assert published_recipe(other) == published_recipe(TrainSettings())


def test_every_setting_reaches_the_trainer(tmp_path):
    settings = TrainSettings(
        learning_rate=3e-4,
        schedule="constant",
        epochs=2.5,
        max_steps=77,
        batch_size=3,
        accumulate=5,
        save_steps=11,
        log_steps=4,
        keep=6,
        seed=9,
    )

    arguments = settings.arguments(tmp_path, run_name="mine")

    assert arguments.output_dir == str(tmp_path)
    assert arguments.learning_rate == 3e-4
    assert arguments.lr_scheduler_type == "constant"
    assert (arguments.num_train_epochs, arguments.max_steps) == (2.5, 77)
    assert arguments.per_device_train_batch_size == 3
    assert arguments.per_device_eval_batch_size == 3
    assert arguments.gradient_accumulation_steps == 5
    assert (arguments.save_steps, arguments.logging_steps) == (11, 4)
    assert arguments.save_total_limit == 6
    assert (arguments.seed, arguments.data_seed) == (9, 9)
    assert arguments.run_name == "mine"
    assert not arguments.gradient_checkpointing


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_the_warmup_is_a_share_of_the_steps(warmup, tmp_path):
    arguments = TrainSettings(warmup=warmup, max_steps=40).arguments(tmp_path, use_cpu=True)
    trainer = Trainer(model=tiny.model_of("llama"), args=arguments)

    trainer.create_optimizer_and_scheduler(num_training_steps=40)
    rates = []
    for _ in range(40):
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        rates.append(trainer.lr_scheduler.get_last_lr()[0])

    assert rates.index(max(rates)) + 1 == max(1, round(40 * warmup))
    assert sum(a < b for a, b in itertools.pairwise(rates)) == max(0, 40 * warmup - 1)


@pytest.mark.parametrize(
    ("precision", "flags"),
    [("float32", (False, False)), ("bfloat16", (True, False)), ("float16", (False, True))],
)
def test_the_precision_is_mixed_precision(precision, flags, tmp_path, monkeypatch):
    told = {}
    monkeypatch.setattr(
        "offramp.training.settings.TrainingArguments", lambda **named: told.update(named)
    )

    with pytest.raises(Exception, match="TrainingArguments"):  # the type check of tests
        TrainSettings(precision=precision).arguments(tmp_path)

    assert (told["bf16"], told["fp16"]) == flags


@pytest.mark.parametrize(
    "arguments",
    [
        lambda folder: TrainSettings(precision="bfloat16").arguments(folder),
        lambda folder: finetuning.training_arguments(
            FinetuneSettings(precision="bfloat16"), folder
        ),
        lambda folder: pretraining.training_arguments(
            PretrainSettings(precision="bfloat16"), folder, streamed=False
        ),
    ],
)
def test_mixed_precision_needs_no_word_of_the_processor(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)

    given = arguments(tmp_path)

    assert given.bf16
    assert given.use_cpu


def test_a_lesson_has_the_weights_and_the_objective_asked_for():
    settings = TrainSettings(
        objective="mixed",
        temperature=2.0,
        distillation_share=0.3,
        exit_weights={2: 0.5},
        positions=0.1,
        candidates=100,
        seed=4,
    )

    lesson = settings.lesson((1, 2))

    assert lesson.exit_weights == {1: 1.0, 2: 0.5}
    assert (lesson.objective.name, lesson.objective.temperature) == ("mixed", 2.0)
    assert lesson.objective.share == 0.3
    assert (lesson.share, lesson.seed, lesson.candidates.others) == (0.1, 4, 100)
    assert lesson.curriculum is None


def test_unfrozen_the_bases_own_head_is_among_the_exits():
    lesson = TrainSettings(unfreeze=True, curriculum="rotating", layer_dropout=0.1).lesson((1,))

    assert tuple(lesson.exit_weights) == (1, "original")
    assert (lesson.curriculum, lesson.layer_dropout) == ("rotating", 0.1)


def test_a_weight_of_an_exit_that_is_not_trained_is_refused():
    with pytest.raises(ConfigError, match=r"exit_weights name \[3\]; the exits trained are \(1, 2"):
        TrainSettings(exit_weights={3: 1.0}).lesson((1, 2))


@pytest.mark.parametrize("name", ["batch_size", "accumulate", "save_steps", "log_steps", "keep"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name} must be at least 1, got 0"):
        TrainSettings(**{name: 0})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"learning_rate": 0.0}, "above 0, got 0.0 and 1.0"),
        ({"learning_rate": float("nan")}, "above 0, got nan and 1.0"),
        ({"epochs": -1.0}, "above 0, got 0.001 and -1.0"),
        ({"warmup": 1.0}, "warmup must be from 0 to below 1, got 1.0"),
        ({"warmup": -0.1}, "warmup must be from 0 to below 1, got -0.1"),
        ({"max_steps": -1}, "must be 0 or more, got -1 and 0"),
        ({"candidates": -1}, "must be 0 or more, got 0 and -1"),
        ({"layer_dropout": 0.1}, "the base is frozen; add unfreeze"),
        ({"checkpointing": True}, "the base is frozen; add unfreeze"),
        ({"layer_dropout": 1.0, "unfreeze": True}, "from 0 to below 1, got 1.0"),
        ({"positions": 0.0}, "above 0 and at most 1, got 0.0"),
        ({"positions": 2.0}, "above 0 and at most 1, got 2.0"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"distillation_share": -0.1}, "share must be from 0 to 1"),
        ({"exit_weights": {1: -1.0}}, "weights of 0 or more"),
        ({"objective": "next-token", "candidates": 5}, "next-token does not ask for"),
    ],
)
def test_values_out_of_range_are_refused_at_once(wrong, message):
    with pytest.raises(ConfigError, match=message):
        TrainSettings(**wrong)


@pytest.mark.parametrize("name", ["objective", "precision", "schedule", "curriculum"])
def test_unknown_names_are_refused(name):
    settings = TrainSettings()
    object.__setattr__(settings, name, "magic")  # tests check types at calls, users do not

    with pytest.raises(Exception, match="'magic'"):
        settings.__post_init__()


def test_the_defaults_are_allowed_and_run_in_float32(tmp_path):
    arguments = TrainSettings().arguments(tmp_path, use_cpu=True)

    assert not arguments.bf16
    assert torch.get_default_dtype() == torch.float32
