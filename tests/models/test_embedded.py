"""The embedded default comes with exits that were trained for it."""

import pytest
import torch

from offramp import Contrast, SelfSpeculation, load_default
from offramp.models.checkpoint import read_own
from offramp.models.embedded import SHIPPED, default_token_counts

MEGABYTE = 2**20
EXITS = tuple(range(2, 30, 2))


@pytest.fixture(scope="module")
def default():
    return load_default(show_progress=False)


def test_the_package_holds_at_most_16_megabytes_of_exits_and_10_of_a_drafter():
    sizes = {path.name: path.stat().st_size for path in SHIPPED.iterdir()}

    assert sizes.pop("drafter.safetensors") < 10 * MEGABYTE
    assert sum(sizes.values()) < 16 * MEGABYTE


def test_the_shipped_exits_are_casts_in_bf16_with_gates():
    stored = read_own(SHIPPED / "exits.json")

    assert {exit: mode.short for exit, mode in stored.projections.items()} == dict.fromkeys(
        EXITS, "cast"
    )
    assert {tensor.dtype for tensor in stored.tensors.values()} == {torch.bfloat16}
    assert all(f"{exit}.gate.threshold" in stored.tensors for exit in EXITS)


def test_token_counts_run_from_frequent_to_rare_and_name_each_token_once():
    tokens, counts = default_token_counts()

    assert len(tokens.unique()) == len(tokens) == len(counts)
    assert (counts.diff() <= 0).all()
    assert 0 <= tokens.min() <= tokens.max() < 49_152


@pytest.mark.real
def test_the_default_has_trained_exits_with_gates(default):
    model, _ = default

    assert model.exit_numbers == EXITS
    assert all(model.exits[str(exit)].gate is not None for exit in EXITS)
    assert {exit: model.exits[str(exit)].linear.weight.any().item() for exit in EXITS} == (
        dict.fromkeys(EXITS, True)
    )


@pytest.mark.real
def test_trained_exits_agree_with_the_last_layer_more_often_than_untrained(default):
    model, tokenizer = default
    question = [{"role": "user", "content": "How do I write a letter to a friend?"}]
    prompt = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    ids = model.generate(**prompt, max_new_tokens=60, do_sample=False)
    asked = slice(prompt["input_ids"].shape[1] - 1, -1)

    said = model.exit_logits(ids, exits=(20, 28))
    finals = ids[0, prompt["input_ids"].shape[1] :]
    plain = model.exit_logits(ids, exits=(19, 27))  # not attached, so read as 'direct'

    for trained, untrained in ((20, 19), (28, 27)):
        agreement = (said[trained][0, asked].argmax(-1) == finals).float().mean()
        without = (plain[untrained][0, asked].argmax(-1) == finals).float().mean()
        assert agreement > without + 0.1


@pytest.mark.real
@pytest.mark.parametrize("target", [None, Contrast(lower=12)], ids=["plain", "contrasted"])
def test_the_trained_drafter_is_often_right_and_never_changes_the_text(default, target):
    model, tokenizer = default
    question = [{"role": "user", "content": "How do I write a letter to a friend?"}]
    prompt = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    options = {"max_new_tokens": 40, "do_sample": False}

    plain = model.generate(**prompt, **options, decoding=target)
    drafted = model.generate(
        **prompt,
        **options,
        decoding=SelfSpeculation(draft_length=2, target=target),
        return_dict_in_generate=True,
    )

    assert drafted.sequences.tolist() == plain.tolist()
    assert int(drafted.accepted) >= (0.25 if target is None else 0.05) * int(drafted.drafted)


@pytest.mark.real
def test_the_shipped_thresholds_are_for_the_shipped_exits(default):
    model, _ = default

    thresholds = model.calibration.thresholds("gate")

    assert tuple(thresholds) == (20, 24, 28)
    assert all(0.5 < each < 1 for each in thresholds.values())
    assert [each.bound for each in model.calibration.early_exit] == [0.05, 0.1, 0.02]
    assert model.calibration.speculation is None
