"""The embedded default model answers from the command line."""

import pytest

pytestmark = pytest.mark.real

QUESTION = "What is the capital of France? Answer in one word."


def test_the_embedded_model_answers_a_question(offramp):
    ran = offramp("generate", QUESTION, "--max-new-tokens", 8, "--json")

    (result,) = ran.results
    assert ran.err == ""
    assert "Paris" in result["text"]
    assert result["model"] == "smollm2-135m-instruct-1"


def test_the_embedded_model_answers_by_contrast_and_continues_a_file(offramp, write, tmp_path):
    prompts, path = write("prompts.txt", f"{QUESTION}\nName a ferry.\n"), tmp_path / "out.jsonl"
    run = ("generate", "--file", prompts, "--contrast", "original:12", "--max-new-tokens", 8)

    first, second = (offramp(*run, "--output", path, "--batch-size", 2) for _ in range(2))

    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert "2 of them new" in first.err
    assert "0 of them new" in second.err
