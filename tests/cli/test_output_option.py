"""``--output``: results in a file, and which runs may continue it."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM


def test_results_go_to_the_file_and_a_line_says_so(generate, file, tmp_path):
    path = tmp_path / "out.jsonl"
    expected = generate("--file", file, "--json").results

    ran = generate("--file", file, "--output", path)

    written = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert ran.code == 0
    assert ran.out == ""
    assert ran.err == f"5 results in {path}, 5 of them new\n"
    for each in (*written, *expected):
        each.pop("seconds")
        each.pop("key", None)
    assert written == expected


def test_a_file_is_summed_up_as_json(generate, file, tmp_path):
    path = tmp_path / "out.jsonl"
    generate("--file", file, "--output", path)

    ran = generate("--file", file, "--output", path, "--json")

    assert ran.results == [{"output": str(path), "results": 5, "new": 0}]
    assert ran.err == ""


@pytest.mark.parametrize(
    "other",
    [
        "--exit 2",
        "--alpha 0.2",
        "--max-new-tokens 5",
        "--no-chat",
        "--system s",
        "--num-beams 2",
        "--dtype bfloat16",
        "--do-sample",
        "--do-sample --seed 1",
    ],
)
def test_a_file_of_other_settings_is_refused_and_left_alone(
    generate, refused, file, tmp_path, other
):
    path = tmp_path / "out.jsonl"
    base = () if "--exit" in other else ("--contrast", "original:2")
    generate("--file", file, "--output", path, *base)
    before = path.read_bytes()

    ran = generate("--file", file, "--output", path, *base, *other.split())

    refused(ran, "out.jsonl, line 1", "other settings", "add --overwrite")
    assert path.read_bytes() == before


@pytest.mark.parametrize("other", ["--batch-size 2", "--device cpu", "--seed 3", "--verbose"])
def test_settings_that_change_no_text_continue_a_file(generate, file, tmp_path, other):
    path = tmp_path / "out.jsonl"
    generate("--file", file, "--output", path)

    ran = generate("--file", file, "--output", path, *other.split())

    assert ran.code == 0
    assert "0 of them new" in ran.err


def test_another_prompt_or_another_model_is_refused(
    generate, refused, make_folder, file, prompts, write, tmp_path
):
    path, folder = tmp_path / "out.jsonl", make_folder()
    generate("--file", file, "--output", path, model=folder)
    changed = write("changed.txt", "\n".join(["a ferry", "another", *prompts[2:]]))
    fewer = write("fewer.txt", "\n".join(prompts[:3]))

    refused(generate("--file", changed, "--output", path, model=folder), "line 2", "other")
    refused(generate("--file", fewer, "--output", path, model=folder), "prompt 3, but now there")
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    model.save_pretrained(folder)
    refused(generate("--file", file, "--output", path, model=folder), "line 1", "other settings")


def test_overwrite_starts_a_file_anew(generate, file, write):
    path = write("out.jsonl", "my notes")

    ran = generate("--file", file, "--output", path, "--overwrite")

    assert ran.code == 0
    assert len(path.read_text("utf-8").splitlines()) == 5


def test_an_output_that_cannot_be_is_refused_before_the_model_is_loaded(
    generate, refused, write, tmp_path
):
    jsonl = write("prompts.jsonl", '{"prompt": "a"}')

    missing = generate("a", "--output", tmp_path / "no" / "out.jsonl", model="no/such-model")
    itself = generate("--jsonl", jsonl, "--output", jsonl, "--overwrite", model="no/such-model")

    refused(missing, "there is no folder", "make it first")
    refused(itself, "is the file of prompts")
    assert jsonl.read_text() == '{"prompt": "a"}'
