"""``offramp evaluate --open-ended`` writes table, texts and picture, and goes on after a stop."""

import json

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from offramp.cli import open_ended
from offramp.evaluation.open_ended import Continuer

DOCUMENT = "A ferry carries people and cars across water number {0} where {0} gulls wait for bread"
QUICK = ("--prompt-words", 3, "--max-new-tokens", 6, "--samples", 100, "--batch-size", 4)
WAYS = "original;exit:2;contrast:original:2;dola:1"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of data sets that ends with the test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def text(write):
    return write("held-out.txt", "\n\n".join(f"{row} {DOCUMENT.format(row)}" for row in range(9)))


@pytest.fixture
def evaluate(offramp, folder, text):
    def run(*arguments, model=folder, data=text, embeddings="none"):
        fixed = ("--model", model, "--data", data, "--embeddings", embeddings)
        return offramp("evaluate", "--open-ended", *fixed, *QUICK, *arguments)

    return run


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, folder):
    """A tiny sentence-embedding model with the tiny Llama's tokenizer."""
    path = tmp_path_factory.mktemp("encoder")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = BertConfig(vocab_size=515, intermediate_size=16, max_position_embeddings=64, **sizes)
    BertModel(config).save_pretrained(path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(path)
    return str(path)


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_table_texts_and_picture_are_written(evaluate, encoder, tmp_path):
    out, drawn = tmp_path / "texts.jsonl", tmp_path / "ways.svg"
    options = ("--ways", WAYS, "--strategies", "greedy;top-p:0.9", "--limit", 7)

    ran = evaluate(*options, "--output", out, "--picture", drawn, embeddings=encoder)

    assert ran.code == 0, ran
    assert ran.err == f"56 texts in {out}, 56 of them new\n"
    for words in ("7 beginnings of 3 words", "top-p:0.9", "dola 1 less original", "coherence"):
        assert words in ran.out
    assert "contrast original:2" in drawn.read_text("utf-8")
    found = lines(out)
    assert [each["index"] for each in found] == list(range(56))
    assert {each["strategy"] for each in found} == {"greedy", "top-p:0.9"}
    assert found[0]["prompt"] == "0 A ferry"
    assert found[0]["reference"] == " carri"
    assert len(found[0]["tokens"]) <= 6


def test_json_gives_every_number(evaluate, folder):
    ran = evaluate("--json", "--strategies", "greedy", "--contrast", "original:2")

    assert (ran.code, ran.err) == (0, "")
    (result,) = ran.results
    assert (result["rows"], result["prompt_words"], result["model"]) == (9, 3, folder)
    first, other = result["ways"]
    assert (first["decoding"], other["decoding"]) == ("original", "contrast original:2 alpha 0.1")
    assert first["against_first"] is None
    assert set(other["against_first"]["diversity"]) == {"value", "low", "high", "p_value"}
    assert result["scores"]["diversity"]["flavour"]


def test_without_ways_one_of_each_kind_is_tried(evaluate):
    (result,) = evaluate("--json", "--strategies", "greedy", "--limit", 2).results

    names = [each["decoding"] for each in result["ways"]]
    assert names == ["original", "exit 3", "contrast original:2 alpha 0.1", "dola low"]


def test_a_stopped_run_goes_on_and_ends_like_one_that_never_was(evaluate, tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"
    ways = "original;exit:2"
    options = ("--json", "--ways", ways, "--strategies", "top-k:5;greedy", "--seed", 3)
    expected = evaluate(*options, "--output", whole)
    calls = []

    class Stopping(Continuer):
        def write(self, prompts, **more):
            calls.append(len(prompts))
            if len(calls) == 5:
                raise KeyboardInterrupt
            return super().write(prompts, **more)

    monkeypatch.setattr(open_ended, "Continuer", Stopping)
    ran = evaluate(*options, "--output", stopped)
    done = len(lines(stopped))
    with stopped.open("ab") as file:
        file.write(whole.read_bytes().splitlines()[done][:60])  # a line that was cut off
    again = evaluate(*options, "--output", stopped)

    assert ran.code == 130
    assert f"{done} of 36 texts are in {stopped}" in ran.err
    assert 0 < done < 36
    assert lines(stopped) == lines(whole)
    assert again.results == expected.results
    monkeypatch.undo()
    other = evaluate(*options[:-1], 4, "--output", stopped)
    assert other.code == 2
    assert "--overwrite" in other.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--ways original;original", ["name each once"]),
        ("--ways exit:9", ["exit 9 does not exist"]),
        ("--ways best", ["a way is original, exit:N", "'best'"]),
        ("--ways original --exit 2", ["exclude each other"]),
        ("--ways original --alpha 0.2", ["belongs to a contrast"]),
        ("--strategies greedy;best", ["a strategy is greedy", "'best'"]),
        ("--strategies ;", ["names nothing"]),
        ("--exits 2", ["does not go with --open-ended"]),
        ("--stemmer", ["belongs to --pairs"]),
        ("--overwrite", ["belongs to --output"]),
        ("--max-new-tokens 200", ["none of 9 documents"]),
        ("--picture out.gif", [".svg or .png"]),
        ("--embeddings nowhere-at-all", ["cannot load sentence embeddings"]),
    ],
)
def test_what_cannot_be_done_is_refused(evaluate, refused, options, words):
    refused(evaluate(*options.split()), *words)


def test_files_and_models_that_do_not_fit_are_refused(evaluate, refused, make_folder, write):
    long = write("long.txt", "word " * 200)
    refused(evaluate("--max-new-tokens", 120, data=long), "more than the model's context of 128")
    refused(evaluate(model=make_folder("t5")), "use a decoder")
    refused(evaluate(data=write("empty.txt", "")), "none of 0 documents")
    refused(evaluate(data="nowhere.txt"), "nowhere.txt")


def test_options_of_open_ended_texts_need_it(offramp, refused, folder, text):
    fixed = ("evaluate", "--model", folder, "--data", text)

    refused(offramp(*fixed, "--ways", "original"), "belongs to --open-ended")
    refused(offramp(*fixed, "--output", "x.jsonl"), "belongs to --pairs or --open-ended")
    refused(offramp("evaluate", "--open-ended"), "--data")
    refused(offramp("evaluate", "--open-ended", "--pairs", "p.jsonl"), "--open-ended", "--pairs")
