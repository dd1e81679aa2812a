"""``offramp pretrain`` as a user runs it: what it leaves, what it goes on with, what it refuses."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, BartConfig, BartForConditionalGeneration

from offramp.cli import app
from offramp.cli.pretrain import EXAMPLE
from offramp.training.checkpoints import last_checkpoint
from small_pretraining import config_of, elmer_of, tokenizer_of
from small_training import curve

TEXT = "A ferry carries people across the water. It is slow! " * 16
SMALL = (
    *("--rows-per-step", 8, "--batch-size", 4, "--block-size", 48, "--workers", 0),
    *("--max-steps", 4, "--save-steps", 2, "--log-steps", 1, "--warmup", 0, "--device", "cpu"),
)

SIZES = {
    *("vocab_size", "d_model", "max_position_embeddings"),
    *(f"{part}_{what}" for part in ("encoder", "decoder") for what in ("layers", "ffn_dim")),
    *(f"{part}_attention_heads" for part in ("encoder", "decoder")),
    *(f"{name}_token_id" for name in ("bos", "pad", "eos")),
}
ACCELERATE = (
    *("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of data sets that ends with the test, for this process and those it starts."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A configuration and a tokenizer, without weights; no dropout, so that processes agree."""
    folder = tmp_path_factory.mktemp("bare")
    config_of(dropout=0.0).save_pretrained(folder)
    tokenizer_of().save_pretrained(folder)
    return folder


@pytest.fixture
def text(write):
    return write("text.txt", TEXT)


@pytest.fixture
def output(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def pretrain(offramp, bare, text, output):
    """Run ``offramp pretrain`` on a few rows."""

    def run(*arguments, model=bare, data=text, to=output, small=SMALL):
        return offramp(
            "pretrain", "--model", model, "--text", data, "--out", to, *small, *arguments
        )

    return run


def found(ran):
    assert ran.code == 0, ran
    (result,) = ran.results
    return result


def weights_of(folder):
    return AutoModelForSeq2SeqLM.from_pretrained(folder).state_dict()


def same_weights(one, other):
    left, right = weights_of(one), weights_of(other)
    return all(torch.equal(left[name], right[name]) for name in left)


def command(*arguments, launcher=()) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "offramp.cli", "pretrain", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_without_weights_it_starts_from_random_ones_and_says_so(pretrain, bare, output):
    ran = pretrain("--json")

    result = found(ran)
    assert f"{bare} holds no weights: starts from random ones, seed 0\n" in ran.err
    assert re.search(r"^step 3 of 4: loss [\d.]+$", ran.err, re.M)
    assert (result["random_start"], result["steps"]) == (True, 4)
    assert (result["output"], result["model"]) == (str(output), str(bare))
    assert result["loss"] > 0
    assert result["tokens"] > 100
    assert result["rows"] > 8
    assert result["held_out_loss"] is None


def test_the_result_is_a_model_that_a_second_training_starts_from(pretrain, offramp, tmp_path):
    found(pretrain("--json", to=tmp_path / "one"))

    again = pretrain("--json", model=tmp_path / "one", to=tmp_path / "two")

    assert found(again)["random_start"] is False
    assert "random" not in again.err
    written = offramp("generate", "--model", tmp_path / "two", "A ferry", "--json")
    assert written.code == 0, written


def test_one_line_tells_what_was_reached(pretrain, output):
    ran = pretrain("--held-out", 0.2)

    assert re.fullmatch(
        rf"{re.escape(str(output))}: 4 steps, loss [\d.]+, held-out loss [\d.]+\n", ran.out
    )


def test_the_same_command_again_shows_what_was_reached_and_another_is_refused(
    pretrain, refused, output
):
    first = found(pretrain("--json"))
    before = weights_of(output)

    again = pretrain("--json")

    assert again.err == f"{output} holds this training, whole\n"
    assert found(again) == {**first, "seconds": again.results[0]["seconds"]}
    refused(pretrain("--mask-ratio", 0.5), "mask_ratio was 0.3, now 0.5", "--overwrite")
    found(pretrain("--json", "--mask-ratio", 0.5, "--overwrite"))
    assert any(not torch.equal(each, before[name]) for name, each in weights_of(output).items())


def test_a_training_on_a_file_that_changed_since_is_not_taken_for_it(pretrain, text, refused):
    found(pretrain("--json"))
    text.write_text(TEXT.replace("ferry", "barge"), "utf-8")

    refused(pretrain("--json"), f"content of {text} was", "--overwrite")


def test_ctrl_c_is_one_line_and_the_same_command_goes_on(pretrain, output, tmp_path, monkeypatch):
    def stop(self, args, state, control, **_):
        if state.global_step == 3:
            raise KeyboardInterrupt

    found(pretrain("--json", to=tmp_path / "whole"))
    with monkeypatch.context() as during:
        during.setattr("offramp.cli.steps.Steps.on_step_begin", stop)
        stopped = pretrain("--json")

    assert (stopped.code, stopped.out) == (130, "")
    told = f"interrupted: the same command goes on from {output / 'checkpoint-2'}"
    assert stopped.err.splitlines()[-1] == told
    assert "goes on from step 2 of 4" in pretrain("--json").err
    assert same_weights(tmp_path / "whole", output)
    assert curve(tmp_path / "whole") == curve(output)


def test_a_killed_run_goes_on_by_the_same_command(pretrain, bare, text, output, tmp_path):
    long = (*SMALL, "--max-steps", 40, "--save-steps", 4)
    found(pretrain("--json", small=long, to=tmp_path / "whole"))

    running = command("--model", bare, "--text", text, "--out", output, *long)
    end = time.monotonic() + 200
    while not (output / "checkpoint-8").exists():
        assert running.poll() is None, running.communicate()[1][-2000:]
        assert time.monotonic() < end
        time.sleep(0.001)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert 0 < int(last_checkpoint(output, exits=False).rpartition("-")[2]) < 40

    again = pretrain("--json", small=long)

    assert "goes on from step" in again.err
    assert "random" not in again.err
    assert found(again)["steps"] == 40
    assert same_weights(tmp_path / "whole", output)
    assert curve(tmp_path / "whole") == curve(output)


def test_accelerate_divides_it_among_processes(pretrain, bare, text, output, tmp_path):
    alone = found(pretrain("--json", to=tmp_path / "alone"))
    launched = command(
        *("--model", bare, "--text", text, "--out", output, "--json", *SMALL, "--batch-size", 2),
        launcher=ACCELERATE,
    )
    out, err = launched.communicate(timeout=400)

    assert launched.returncode == 0, err[-3000:]
    (line,) = [each for each in out.splitlines() if each.startswith("{")]
    assert json.loads(line)["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    for one, two in zip(curve(tmp_path / "alone"), curve(output), strict=True):
        assert one == pytest.approx(two, rel=1e-5)
    assert err.count("step 2 of 4") == 1
    one, two = weights_of(tmp_path / "alone"), weights_of(output)
    torch.testing.assert_close(two, one, rtol=0, atol=1e-5)


def test_a_stream_is_trained_on(pretrain, output):
    result = found(pretrain("--streaming", "--json"))

    assert (result["steps"], result["rows"]) == (4, None)
    assert result["loss"] > 0


def test_several_sources_are_mixed_and_a_share_is_held_out(pretrain, write):
    lines = "".join(json.dumps({"body": f"Line {n} of it."}) + "\n" for n in range(30))
    more = write("more.jsonl", lines)

    result = found(
        pretrain("--text", more, "--text-column", "body", "--held-out", 0.1, "--json", data=more)
    )

    assert result["held_out_loss"] > 0
    assert result["rows"] > 8


def test_another_source_is_held_out_with_the_column_of_the_text(pretrain, write, refused):
    lines = [json.dumps({"body": f"Line {n} of it."}) + "\n" for n in range(40)]
    one, two = write("one.jsonl", "".join(lines[:30])), write("two.jsonl", "".join(lines[30:]))
    fixed = ("--text-column", "body", "--json")

    refused(pretrain(*fixed, "--held-out", one, data=one), "split train of it is --data, too")
    result = found(pretrain(*fixed, "--held-out", two, data=one))

    assert result["held_out_loss"] > 0


def test_a_hub_that_cannot_be_reached_keeps_the_result_and_losses_are_written(pretrain, output):
    ran = pretrain("--log-to", "tensorboard", "--push-to-hub", "me/elmer", "--json")

    assert ran.code == 2
    assert ran.results[0]["output"] == str(output)
    assert ran.err.splitlines()[-1].startswith(f"error: cannot push {output} to me/elmer")
    assert list(output.glob("runs/**/events*"))


def test_documents_can_be_kept_apart(pretrain, write):
    lines = "".join(json.dumps({"text": f"Line {n}."}) + "\n" for n in range(30))

    result = found(pretrain("--no-mix", "--json", data=write("lines.jsonl", lines)))

    assert result["rows"] == 30


@pytest.fixture
def other(tmp_path):
    """Folders of models that cannot be used."""

    def make(kind):
        folder = tmp_path / kind
        if kind == "llama":
            config = {"model_type": "llama"}
        elif kind == "t5":
            config = {"model_type": "t5"}
        else:
            config = {**config_of().to_dict(), "vocab_size": 200, "mask_token_id": 3}
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config), "utf-8")
        tokenizer_of().save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--text self", ["--text self is for offramp train"]),
        ("--streaming --max-steps 0", ["--streaming", "--max-steps 1000"]),
        ("--streaming --held-out 0.1", ["cannot be a share of a stream"]),
        ("--device cuda:1", ["CUDA_VISIBLE_DEVICES"]),
        ("--device cuda", ["--device cuda cannot be used here"]),
        ("--mask-ratio 1", ["mask_ratio must be from 0 to below 1, got 1.0"]),
        ("--clip 0", ["clip must be above 0"]),
        ("--schedule up", ["--schedule", "'up'"]),
        ("--batch-size 3", ["rows_per_step must be a multiple", "got 8"]),
        ("--block-size 500", ["context of 64"]),
        ("--block-size 2", ["leaves no room"]),
        ("--text nowhere.txt", ["cannot read nowhere.txt"]),
        ("--text-column body --text {odd}", ["odd.jsonl, line 1: no column body, found text"]),
        ("--text {broken}", ["broken.jsonl, line 2: not JSON"]),
        ("--recipe published --clip 1.5", ["--clip 1.5 contradicts --recipe published", "2.0"]),
        ("--recipe published --rows-per-step 8", ["--rows-per-step 8 contradicts"]),
        ("--model {nowhere}", ["is no folder"]),
        ("--model {llama}", ["decoder only"]),
        ("--model {t5}", ["is a t5, which cannot be read as ELMER"]),
        ("--model {small}", ["the tokenizer knows 260 tokens, the model 200"]),
    ],
)
def test_what_cannot_be_trained_is_refused(pretrain, refused, write, other, options, words):
    places = {
        "odd": write("odd.jsonl", '{"text": "a"}\n'),
        "broken": write("broken.jsonl", '{"text": "a"}\n{"text"\n'),
        "nowhere": "/no/where",
    }
    places |= {kind: other(kind) for kind in ("llama", "t5", "small") if kind in options}

    refused(pretrain(*options.format(**places).split()), *words)


def test_the_published_recipe_takes_4096_rows_a_step(pretrain, text, output):
    free = (*("--batch-size", 1024, "--block-size", 48, "--workers", 0), *SMALL[6 + 2 :])
    ran = pretrain("--recipe", "published", "--json", "--max-steps", 1, small=free)
    result = found(ran)

    assert result["steps"] == 1
    assert "--recipe published: --mask-ratio 0.3," in ran.err
    known = json.loads((output / "training.json").read_text("utf-8"))
    assert (known["rows_per_step"], known["clip"], known["learning_rate"]) == (4096, 2.0, 2e-5)
    assert (known["schedule"], known["weight_decay"]) == ("constant", 0.0)


def test_weights_that_are_there_are_the_start(pretrain, output, tmp_path):
    elmer_of(seed=5).save_pretrained(tmp_path / "start")
    tokenizer_of().save_pretrained(tmp_path / "start")

    result = found(pretrain("--json", "--learning-rate", 1e-12, model=tmp_path / "start"))

    assert result["random_start"] is False
    start, end = weights_of(tmp_path / "start"), weights_of(output)
    assert all(torch.allclose(end[name], start[name], atol=1e-8) for name in start)


@pytest.mark.parametrize("weights", [True, False])
def test_a_bart_is_read_as_a_start_for_elmer(pretrain, output, tmp_path, weights):
    kept = {name: each for name, each in config_of().to_dict().items() if name in SIZES}
    bart = BartForConditionalGeneration(BartConfig(**kept))
    (bart if weights else bart.config).save_pretrained(tmp_path / "bart")
    tokenizer_of().save_pretrained(tmp_path / "bart")

    result = found(pretrain("--json", "--learning-rate", 1e-12, model=tmp_path / "bart"))

    assert result["random_start"] is not weights
    saved = json.loads((output / "config.json").read_text("utf-8"))
    assert (saved["model_type"], saved["canvas_slack"]) == ("elmer", True)
    assert saved["mask_token_id"] == tokenizer_of().mask_token_id
    if weights:
        learned = load_file(output / "model.safetensors")
        start = bart.state_dict()
        assert all(torch.allclose(learned[name], start[name], atol=1e-8) for name in learned)


def test_help_has_an_example_and_every_option_a_text(offramp):
    out = offramp("pretrain", "--help").out

    params = typer.main.get_command(app).commands["pretrain"].params
    assert EXAMPLE.startswith("Example: offramp pretrain")
    assert [option.name for option in params if not option.help] == []
    assert [name for option in params for name in option.opts if name not in out] == []
