"""``offramp evaluate`` shows what the library measures, and refuses the rest in one line."""

import json
import math
import sys
from dataclasses import replace
from functools import partial
from importlib.machinery import PathFinder

import pytest
import torch
from transformers import AutoTokenizer

from offramp import AutoMultiExitModel, Contrast, DoLa, FixedExit, attach_exits
from offramp.cli import table
from offramp.cli.evaluate import EXAMPLE
from offramp.evaluation.exits import measure_exits
from offramp.evaluation.report import GateReport

TEXT = "A ferry carries people and cars across the water. " * 6


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of data sets that ends with the test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def evaluate(offramp, folder):
    """Run ``offramp evaluate`` on the tiny Llama, whose context is 128."""

    def run(data, *arguments, model=folder):
        return offramp("evaluate", "--model", model, "--data", data, *arguments)

    return run


@pytest.fixture
def text(write):
    return write("held-out.txt", TEXT)


@pytest.fixture
def library(folder):
    """Measure the text by the library, in blocks of 128, one at a time."""
    model = attach_exits(AutoMultiExitModel.from_pretrained(folder), (1, 2, 3))
    ids = AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt")["input_ids"]
    batches = [
        {"input_ids": block, "attention_mask": torch.ones_like(block), "labels": block}
        for block in ids.split(128, dim=1)
    ]
    return partial(measure_exits, model, batches)


def found(ran):
    assert (ran.code, ran.err) == (0, ""), ran
    (result,) = ran.results
    return result


def test_json_is_what_the_library_measures(evaluate, text, library, folder):
    result = found(evaluate(text, "--json", "--batch-size", 1))

    facts = {"model": folder, "data": str(text), "split": "train", "dtype": "float32"}
    assert result == {**facts, **library().as_json()}
    assert result["rows"] == 3
    assert result["tokens"] == len(TEXT) - 3
    assert [each["exit"] for each in result["exits"]] == [1, 2, 3, "original"]


@pytest.mark.parametrize(
    ("options", "rule", "name"),
    [
        ("--contrast original:2", Contrast(lower=2), "contrast original:2 alpha 0.1"),
        (
            "--contrast 3:1 --alpha 0.01",
            Contrast(upper=3, lower=1, alpha=0.01),
            "contrast 3:1 alpha 0.01",
        ),
        ("--exit 3", FixedExit(exit=3), "exit 3"),
        ("--dola 1,3", DoLa(layers=(1, 3)), "dola 1,3"),
    ],
)
def test_ways_to_decode_get_their_perplexity(evaluate, text, library, options, rule, name):
    result = found(evaluate(text, "--json", "--batch-size", 1, *options.split()))

    expected = library(rules={name: rule}).as_json()
    assert result["rules"] == expected["rules"]
    assert result["rules"][0]["decoding"] == name


def test_only_completions_are_counted_and_by_the_models_own_answer(evaluate, write, folder):
    data = write("pair.jsonl", json.dumps({"prompt": "A ferry ", "completion": "carries cars."}))

    result = found(evaluate(data, "--json", "--contrast", "original:2"))

    model = attach_exits(AutoMultiExitModel.from_pretrained(folder), (2,))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [*tokenizer("A ferry carries cars.")["input_ids"], tokenizer.eos_token_id]
    scores = model(torch.tensor([ids]), decoding=Contrast(lower=2)).logits[0, :-1]
    losses = torch.nn.functional.cross_entropy(scores, torch.tensor(ids[1:]), reduction="none")
    counted = losses[len("A ferry ") - 1 :]  # one token a byte, and the one that ends the text
    assert result["tokens"] == len(counted)
    assert result["rules"][0]["perplexity"] == pytest.approx(counted.mean().exp().item(), rel=1e-4)


def test_a_table_names_every_exit_and_what_its_columns_mean(evaluate, text):
    ran = evaluate(text, "--contrast", "original:2")

    assert (ran.code, ran.err) == (0, "")
    first = [line.split()[0] for line in ran.out.splitlines() if line.split()]
    for exit in ("1", "2", "3", "original", "contrast"):
        assert exit in first
    for words in ("perplexity", "agrees", "ECE", "oracle depth", "next one of the text", "rows"):
        assert words in ran.out
    assert "gate" not in ran.out


def test_gates_get_columns_of_their_own(evaluate, text, monkeypatch):
    def show(report, *, title, real=table.show_report):
        gate = GateReport(threshold=0.5, precision=None, recall=0.5, stops=0.25)
        exits = (replace(report.exits[0], gate=gate), *report.exits[1:])
        real(replace(report, exits=exits), title=title)

    monkeypatch.setattr("offramp.cli.measure.show_report", show)

    ran = evaluate(text)

    assert (ran.code, ran.err) == (0, "")
    row = next(line for line in ran.out.splitlines() if line.split()[:1] == ["1"])
    assert row.split()[-2:] == ["25.0", "50.0"]
    assert "precise" in ran.out


def test_exits_limit_and_block_size_choose_what_is_measured(evaluate, text):
    result = found(evaluate(text, "--json", "--exits", "2;4", "--limit", 40, "--block-size", 20))

    assert [each["exit"] for each in result["exits"]] == [2, 4, "original"]
    assert result["rows"] == 2
    assert result["tokens"] == 38
    assert result["exits"][1]["agreement"] == 1
    assert result["exits"][1]["divergence"] == pytest.approx(0, abs=1e-6)


def test_the_picture_is_drawn_beside_the_table(evaluate, text, tmp_path):
    ran = evaluate(text, "--picture", tmp_path / "out.svg", "--contrast", "original:2")

    assert (ran.code, ran.err) == (0, "")
    assert "contrast original:2" in (tmp_path / "out.svg").read_text("utf-8")


def test_a_bar_is_shown_on_a_terminal(evaluate, text, terminal, monkeypatch):
    read, screen = terminal
    monkeypatch.setattr(sys, "stderr", screen)

    evaluate(text)

    shown = read()
    assert "rows" in shown
    assert "3/3" in shown


def test_help_has_an_example_and_every_option_a_text(offramp):
    out = offramp("evaluate", "--help").out

    assert "offramp evaluate --data" in out
    assert EXAMPLE.startswith("Example: offramp evaluate")
    for option in ("--data", "--limit", "--block-size", "--exits", "--picture", "--json"):
        assert option in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--exits 9", ["exit 9 does not exist", "4 blocks"]),
        ("--exits 6,12", ["an exit is a number", "6,12"]),
        ("--exit 9", ["exit 9 does not exist"]),
        ("--contrast original:9", ["exit 9 does not exist"]),
        ("--exit 2 --dola low", ["exclude each other"]),
        ("--alpha 0.2", ["belongs to --contrast"]),
        ("--block-size 500", ["context of 128", "--block-size 128"]),
        ("--picture out.gif", [".svg or .png"]),
        ("--device abacus", ["--device abacus"]),
    ],
)
def test_what_cannot_be_measured_is_refused(evaluate, text, refused, options, words):
    refused(evaluate(text, *options.split()), *words)


def test_a_wrong_or_empty_file_is_refused(evaluate, refused, write, tmp_path):
    refused(evaluate(tmp_path / "nowhere.txt"), "nowhere.txt")
    refused(evaluate(write("empty.txt", "")), "empty.txt")
    refused(evaluate(write("what.bin", b"\x00\x01")), "what.bin")
    refused(evaluate(write("one.txt", "a")), "one.txt")
    refused(evaluate(write("broken.jsonl", "{")), "broken.jsonl")


def test_an_encoder_decoder_is_measured_on_pairs(evaluate, make_folder, refused, text, write):
    folder = make_folder("t5")
    pair = json.dumps({"prompt": "one", "completion": "uno"})

    result = found(evaluate(write("pairs.jsonl", pair), "--json", model=folder))

    assert (result["rows"], result["tokens"]) == (1, len("uno") + 1)
    refused(evaluate(text, model=folder), "learns from pairs")


def test_data_is_needed(offramp, refused):
    refused(offramp("evaluate"), "--data")


def test_a_tokenizer_of_another_model_is_refused(evaluate, make_folder, refused, text):
    refused(evaluate(text, model=make_folder(vocab_size=40)), "its model knows 40 tokens")


def test_missing_datasets_says_what_to_install(evaluate, text, refused, monkeypatch):
    def find(name, *rest, real=PathFinder.find_spec):
        return None if name == "datasets" else real(name, *rest)

    monkeypatch.delitem(sys.modules, "datasets", raising=False)
    monkeypatch.setattr(PathFinder, "find_spec", find)

    refused(evaluate(text), "pip install 'offramp[eval]'")


def test_a_model_with_trained_exits_keeps_its_own(evaluate, text, folder, tmp_path):
    model = attach_exits(AutoMultiExitModel.from_pretrained(folder), (2,), "lens")
    model.save_pretrained(tmp_path / "own")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "own")

    result = found(evaluate(text, "--json", model=tmp_path / "own"))

    read = [(each["exit"], each["projection"]) for each in result["exits"]]
    assert read == [(2, "lens"), ("original", None)]
    assert math.isfinite(result["exits"][0]["perplexity"])
