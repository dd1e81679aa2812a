"""``offramp generate`` writes what the library writes, however it is asked for."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from offramp import (
    AutoMultiExitModel,
    Contrast,
    DoLa,
    EarlyExit,
    FixedExit,
    attach_exits,
)


@pytest.fixture(scope="module")
def library(folder):
    """Generate by the library: text and number of new tokens."""
    model = attach_exits(AutoMultiExitModel.from_pretrained(folder), (1, 2, 3))
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def generate(prompt, *, max_new_tokens=8, **options):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        made = model.generate(ids, max_new_tokens=max_new_tokens, **options)[0, ids.shape[1] :]
        return tokenizer.decode(made, skip_special_tokens=True), len(made)

    return generate


def told(ran):
    assert (ran.code, ran.err) == (0, ""), ran
    (result,) = ran.results
    return result["text"], result["new_tokens"]


@pytest.mark.parametrize(
    ("options", "decoding", "name"),
    [
        ("", None, "original"),
        ("--exit 3", FixedExit(exit=3), "exit 3"),
        ("--exit original", FixedExit(exit="original"), "exit original"),
        ("--contrast original:2", Contrast(lower=2), "contrast original:2 alpha 0.1"),
        (
            "--contrast 3:1 --alpha 0.01",
            Contrast(upper=3, lower=1, alpha=0.01),
            "contrast 3:1 alpha 0.01",
        ),
        ("--dola low", DoLa(layers="low"), "dola low"),
        ("--dola high", DoLa(layers="high"), "dola high"),
        ("--dola 3,1", DoLa(layers=(3, 1)), "dola 3,1"),
        (
            "--early-exit top_gap:0.4",
            EarlyExit(rule="top_gap", threshold=0.4),
            "early exit top_gap:0.4 of original",
        ),
        (
            "--early-exit fixed:3 --cache copy --contrast original:1 --alpha 0.5",
            EarlyExit(rule="fixed", exits=(3,), cache="copy", lower=1, alpha=0.5),
            "early exit fixed:3 cache copy of contrast original:1 alpha 0.5",
        ),
        (
            "--early-exit patience:2",
            EarlyExit(rule="patience", threshold=2),
            "early exit patience:2 of original",
        ),
        (
            "--early-exit top_gap:0.001 --exits 1;3 --min-exit 2",
            EarlyExit(rule="top_gap", threshold=0.001, exits=(1, 3), min_exit=2),
            "early exit top_gap:0.001 exits 1;3 min exit 2 of original",
        ),
        (
            "--early-exit schedule:0=3;4=1",
            EarlyExit(rule="schedule", schedule=((0, 3), (4, 1))),
            "early exit schedule:0=3;4=1 of original",
        ),
    ],
)
def test_every_way_to_decode_is_the_librarys(generate, library, folder, options, decoding, name):
    ran = generate("a ferry", "--no-chat", "--json", *options.split())

    assert told(ran) == library("a ferry", decoding=decoding)
    (result,) = ran.results
    assert result["decoding"] == name
    assert result["model"] == folder
    assert result["prompt"] == "a ferry"
    assert result["index"] == 0
    assert result["seconds"] > 0


@pytest.mark.parametrize(
    "target", ["", "--contrast original:2", "--exit 3", "--do-sample --seed 4"]
)
@pytest.mark.parametrize(
    "draft", ["2 --draft-length 2", "1 --draft-length 4", "2 --lookup 3 --draft-length 1"]
)
def test_speculation_writes_the_same_text_under_the_same_name(generate, target, draft):
    plain = generate("a ferry", "--no-chat", "--json", *target.split())
    drafted = generate(
        "a ferry", "--no-chat", "--json", "--speculate", *draft.split(), *target.split()
    )

    assert told(drafted) == told(plain)
    assert drafted.results[0]["decoding"] == plain.results[0]["decoding"]
    assert plain.results[0]["acceptance_rate"] is None
    assert 0 <= drafted.results[0]["acceptance_rate"] <= 1


@pytest.mark.parametrize("runtime", ["auto", "packed", "family"])
@pytest.mark.parametrize(
    "way", ["", "--contrast original:2", "--speculate 2", "--early-exit fixed:2"]
)
def test_what_runs_the_blocks_changes_no_text(generate, way, runtime):
    plain = generate("a ferry", "--no-chat", "--json", *way.split())

    other = generate("a ferry", "--no-chat", "--json", *way.split(), "--runtime", runtime)

    assert told(other) == told(plain)
    assert other.results[0]["decoding"] == plain.results[0]["decoding"]


def test_the_mean_exit_of_a_text_is_told(generate):
    (whole,) = generate("a", "--no-chat", "--json").results
    (early,) = generate("a", "--no-chat", "--json", "--early-exit", "fixed:2").results

    assert whole["mean_exit"] is None
    assert early["mean_exit"] == pytest.approx(2 + 2 / early["new_tokens"], abs=0.01)


def test_the_ways_to_decode_differ_on_this_model(generate):
    ways = ["--exit 3", "--exit 1", "--contrast original:2", "--dola low", "--exit original"]

    texts = {generate("a ferry", "--no-chat", *way.split()).out for way in ways}

    assert len(texts) == len(ways)


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ("--num-beams 3", {"num_beams": 3}),
        ("--repetition-penalty 1.5", {"repetition_penalty": 1.5}),
        ("--no-repeat-ngram-size 2", {"no_repeat_ngram_size": 2}),
        ("--max-new-tokens 30", {"max_new_tokens": 30}),
        ("--no-do-sample", {"do_sample": False}),
    ],
)
def test_options_of_generation_are_those_of_transformers(generate, library, options, arguments):
    ran = generate("aaaa", "--no-chat", "--json", *options.split())

    assert told(ran) == library("aaaa", **arguments)


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ("", {}),
        ("--temperature 3 --top-k 5 --top-p 0.8", {"temperature": 3.0, "top_k": 5, "top_p": 0.8}),
    ],
)
def test_a_seed_is_that_of_transformers_and_repeats_a_text(generate, library, options, arguments):
    run = ("a ferry", "--no-chat", "--json", "--do-sample", "--seed", 7, *options.split())

    first, second = told(generate(*run)), told(generate(*run))

    set_seed(7)
    assert first == second == library("a ferry", do_sample=True, **arguments)


def test_without_a_seed_two_runs_differ(generate):
    run = ("a ferry", "--no-chat", "--do-sample", "--temperature", 5.0)

    assert generate(*run).out != generate(*run).out


def test_every_prompt_of_a_file_has_random_numbers_of_its_own(generate, write):
    file = write("prompts.txt", "a ferry\na ferry\n")

    texts = generate("--file", file, "--json", "--do-sample", "--seed", 1).texts

    assert texts[0] != texts[1]


def test_batches_do_not_change_texts(generate, file, prompts):
    one_by_one = generate("--file", file, "--json", "--no-chat", "--contrast", "original:2")
    by_three = generate(
        *("--file", file, "--json", "--no-chat", "--contrast", "original:2", "--batch-size", 3)
    )

    assert by_three.texts == one_by_one.texts
    assert [result["index"] for result in by_three.results] == [0, 1, 2, 3, 4]
    assert [result["prompt"] for result in by_three.results] == list(prompts)


def test_a_text_ends_with_the_token_that_ends_it(generate, make_folder, write):
    folder = make_folder()
    model = AutoModelForCausalLM.from_pretrained(folder)
    made = model.generate(torch.tensor([[40]]), max_new_tokens=8)[0, 1:].tolist()
    model.generation_config.eos_token_id = [299, made[3]]
    model.save_pretrained(folder)
    letter = AutoTokenizer.from_pretrained(folder).decode([40])
    prompts = write("prompts.txt", f"{letter}\nanother, which goes on\n")

    ran = generate(
        *("--file", prompts, "--no-chat", "--json", "--batch-size", 2), model=folder, tokens=8
    )

    expected = made.index(made[3]) + 1
    assert ran.results[0]["new_tokens"] == expected
    assert ran.results[1]["new_tokens"] == 8


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16", "float16"])
def test_every_dtype_answers_with_exits(generate, dtype):
    ran = generate("a ferry", "--dtype", dtype, "--contrast", "original:2")

    assert (ran.code, ran.err) == (0, "")


def test_a_rule_that_nobody_calibrated_asks_for_its_threshold(generate, refused):
    refused(generate("a", "--early-exit", "top_gap"), "rule 'top_gap' needs a threshold", "try 0.9")
