"""``offramp train`` as a user runs it: what it leaves, what it goes on with, what it refuses."""

import dataclasses
import hashlib
import inspect
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import typer
from transformers import AutoTokenizer

from offramp import AutoMultiExitModel, attach_exits
from offramp.cli import app
from offramp.cli.train import EXAMPLE
from offramp.training.settings import TrainSettings

TEXT = "A ferry carries people and cars across the water. " * 30
SPELLED_OTHERWISE = {"unfreeze", "checkpointing", "exit_weights"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of data sets that ends with the test, for this process and those it starts."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def text(write):
    return write("text.txt", TEXT)


@pytest.fixture
def output(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def train(offramp, folder, output):
    """Run ``offramp train`` on the tiny Llama, in rows of 32 tokens."""

    def run(*arguments, model=folder, to=output, rows=("--block-size", 32)):
        return offramp("train", "--model", model, "--output", to, *rows, *arguments)

    return run


def found(ran):
    assert ran.code == 0, ran
    (result,) = ran.results
    return result


def exits_of(model, folder):
    loaded = AutoMultiExitModel.from_pretrained(model, exits=folder)
    return {name: each.clone() for name, each in loaded.exits.state_dict().items()}


def hash_of(folder) -> str:
    return hashlib.sha256(Path(folder, "model.safetensors").read_bytes()).hexdigest()


def command(*arguments, launcher=()) -> subprocess.Popen:
    python = [sys.executable, *launcher] if launcher else [sys.executable]
    return subprocess.Popen(
        [*python, "-m", "offramp.cli", "train", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_trained_exits_load_with_their_base_which_keeps_its_bits(
    train, text, folder, output, generate
):
    before = hash_of(folder)

    result = found(train("--data", text, "--exits", "1;3", "--no-closed-form", "--json"))

    assert hash_of(folder) == before
    assert result["output"] == str(output)
    assert result["exits"] == {"1": "lens", "3": "lens"}
    assert (result["steps"], result["gates"]) == (6, None)
    assert result["tokens"] == len(TEXT)
    assert result["loss"] == pytest.approx(sum(result["exit_losses"].values()), rel=1e-4)
    assert exits_of(folder, output)["3.linear.weight"].abs().sum() > 0
    alone = generate("a", "--exit", 3, model=str(output))
    assert alone.code == 0
    assert generate("a", "--exit", 3, "--exits-from", output).out == alone.out


def test_the_table_has_a_row_for_each_exit_and_stderr_the_steps(train, text):
    ran = train("--data", text, "--exits", "1;3", "--log-steps", 3)

    assert ran.code == 0, ran.err
    assert [line.split()[:2] for line in ran.out.splitlines() if "lens" in line] == [
        ["1", "lens"],
        ["3", "lens"],
    ]
    assert "6 steps, loss" in ran.out
    assert re.search(r"^step 3 of 6: loss [\d.]+, exit 1 [\d.]+, exit 3 [\d.]+$", ran.err, re.M)


def test_every_even_block_gets_a_lens_unless_told(train, text):
    assert found(train("--data", text, "--fit-only", "--json"))["exits"] == {"2": "lens"}


def test_exits_that_a_model_brings_are_trained_on(train, text, folder, tmp_path, output):
    model = attach_exits(AutoMultiExitModel.from_pretrained(folder), (1,), "cast")
    with torch.no_grad():
        model.exits["1"].linear.weight.mul_(3.0)
    model.save_pretrained(tmp_path / "own")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "own")

    result = found(train("--data", text, "--json", "--max-steps", 1, model=tmp_path / "own"))

    assert (result["exits"], result["fitted"]) == ({"1": "cast"}, None)
    weight = exits_of(folder, output)["1.linear.weight"]
    assert (weight - model.exits["1"].linear.weight).abs().max() < 0.01


def test_the_fit_is_the_start_and_can_be_all(train, text, folder, output, tmp_path):
    fitted = found(train("--data", text, "--exits", "1;3", "--fit-only", "--json"))
    again = tmp_path / "again"
    started = train("--data", text, "--exits", "1;3", "--learning-rate", 1e-9, to=again)

    assert (fitted["steps"], fitted["fitted"]) == (None, len(TEXT) - 47)
    assert started.code == 0
    moved, start = exits_of(folder, again), exits_of(folder, output)
    assert all(torch.allclose(moved[name], start[name], atol=1e-6) for name in start)
    assert start["3.linear.weight"].abs().sum() > 0


def test_a_model_that_writes_its_own_text_learns_from_it(train, write, output):
    prompts = write("prompts.txt", "a ferry\nthe water\n")
    arguments = ("--data", "self", "--prompts", prompts, "--self-tokens", 400, "--json")

    result = found(train(*arguments, "--held-out", 0.2))
    lines = (output / "self.jsonl").read_text("utf-8")
    again = found(train(*arguments, "--overwrite", "--learning-rate", 0.01))
    reused = found(train("--data", output / "self.jsonl", "--json", to=output.parent / "two"))

    assert result["held_out_loss"] > 0
    assert result["tokens"] > 100
    assert (output / "self.jsonl").read_text("utf-8") == lines
    assert again["steps"] >= result["steps"]
    assert reused["tokens"] == again["tokens"]


def test_text_of_another_seed_is_not_gone_on_with(train, write, refused, output):
    prompts = write("prompts.txt", "a ferry\n")
    arguments = ("--data", "self", "--prompts", prompts, "--self-tokens", 400, "--fit-only")
    assert train(*arguments).code == 0
    lines = (output / "self.jsonl").read_text("utf-8")

    refused(train(*arguments, "--seed", 7), "self.jsonl was written", "--overwrite")
    assert train(*arguments, "--seed", 7, "--overwrite").code == 0

    assert (output / "self.jsonl").read_text("utf-8") != lines


def test_pairs_and_texts_are_mixed(train, write, text):
    pairs = [{"q": "a ferry ", "a": "carries cars"}, {"q": "the water ", "a": "is deep"}]
    data = write("pairs.jsonl", "\n".join(map(json.dumps, pairs)))
    columns = ("--prompt-column", "q", "--completion-column", "a")

    result = found(train("--data", data, "--data", text, *columns, "--json"))

    assert result["tokens"] > len(TEXT)


def test_another_split_of_the_same_data_is_held_out_with_its_columns(
    train, refused, tmp_path, output
):
    (tmp_path / "data").mkdir()
    for split, count in (("train", 9), ("test", 3)):
        pairs = [json.dumps({"q": f"ferry {n} ", "a": split * 3}) for n in range(count)]
        (tmp_path / "data" / f"{split}.jsonl").write_text("\n".join(pairs), "utf-8")
    fixed = ("--data", tmp_path / "data", "--prompt-column", "q", "--completion-column", "a")
    fixed += ("--held-out", tmp_path / "data", "--json")

    refused(train(*fixed), "split train of it is --data, too", "--held-out-split")
    first = found(train(*fixed, "--held-out-split", "test"))
    (tmp_path / "data" / "test.jsonl").write_text('{"q": "a ", "a": "b"}', "utf-8")

    refused(train(*fixed, "--held-out-split", "test"), "content of --held-out was")
    assert first["held_out_loss"] > 0


def test_a_stream_is_trained_on_for_so_many_steps(train, text, refused, tmp_path):
    refused(train("--data", text, "--streaming"), "--max-steps")

    result = found(train("--data", text, "--streaming", "--max-steps", 9, "--json"))

    assert result["steps"] == 9


def test_gates_come_last_and_can_be_added(train, text, folder, output):
    fixed = ("--data", text, "--exits", "1;3", "--json")
    plain = found(train(*fixed))

    gated = train(*fixed, "--gates", "--gate-precision", 0.5)

    assert "holds this training, whole" in gated.err
    (result,) = gated.results
    assert result["loss"] == plain["loss"]
    assert [each["exit"] for each in result["gates"]] == [1, 3]
    assert "1.gate.linear.weight" in exits_of(folder, output)
    assert "precise" in train(*fixed[:-1], "--gates", "--gate-precision", 0.5).out


def test_thresholds_of_gates_are_found_on_what_is_held_out(train, text, write):
    other = write("other.txt", "The quay is long and the tide is low. " * 10)
    fixed = ("--data", text, "--exits", 2, "--no-closed-form", "--gates", "--json")

    result = found(train(*fixed, "--held-out", other))

    positions = other.stat().st_size / 4  # a quarter of them is looked at
    assert result["gates"][0]["positions"] == pytest.approx(positions, rel=0.1)
    assert positions > 1.2 * len(TEXT) / 4 / 5


def test_kept_states_train_a_second_objective_without_the_text(
    train, text, refused, tmp_path, monkeypatch
):
    fixed = ("--exits", "1;3", "--keep-states", tmp_path / "states", "--no-closed-form", "--json")
    to = [tmp_path / name for name in "abc"]
    first = found(train(*fixed, "--data", text, "--positions", 0.5, to=to[0]))

    def sees(*_, **__):
        raise AssertionError("the base was run")

    monkeypatch.setattr("offramp.training.student.Student.see", sees)
    same = found(train(*fixed, "--data", text, "--positions", 0.5, to=to[1]))
    other = found(train(*fixed, "--objective", "next-token", to=to[2]))

    assert same["exit_losses"] == first["exit_losses"]
    assert other["loss"] != first["loss"]
    refused(train(*fixed, "--positions", 0.1, to=tmp_path / "d"), "positions was 0.5, now 0.1")
    changed = train(*fixed, "--data", text, "--limit", 99, to=tmp_path / "d")
    refused(changed, "limit was null, now 99", "--keep-states")


def test_states_of_a_file_that_changed_since_are_not_trained_on(
    train, text, refused, tmp_path, output
):
    fixed = ("--exits", 2, "--no-closed-form", "--keep-states", tmp_path / "states", "--data", text)
    assert train(*fixed).code == 0
    text.write_text(TEXT.replace("ferry", "barge"), "utf-8")

    ran = train(*fixed, to=tmp_path / "other")

    refused(ran, f"content of {text} was", "leave these options out", "another --keep-states")
    text.write_text(TEXT, "utf-8")  # at another time, but the same
    assert train(*fixed, to=tmp_path / "other").code == 0
    assert "whole" in train(*fixed).err


def test_states_of_text_that_the_model_wrote_with_another_seed_are_not_trained_on(
    train, write, refused, tmp_path
):
    prompts = write("prompts.txt", "a ferry\n")
    fixed = ("--data", "self", "--prompts", prompts, "--self-tokens", 300, "--no-closed-form")
    fixed += ("--keep-states", tmp_path / "states")
    assert train(*fixed).code == 0

    ran = train(*fixed, "--seed", 7, to=tmp_path / "other")

    refused(ran, 'seed of self was "0", now "7"', "another --keep-states")


def test_a_training_on_a_file_that_changed_since_is_not_taken_for_it(train, text, refused):
    fixed = ("--data", text, "--fit-only")
    assert train(*fixed).code == 0
    text.write_text(TEXT.replace("ferry", "barge"), "utf-8")

    refused(train(*fixed), f"content of {text} was", "--overwrite")
    assert train(*fixed, "--overwrite").code == 0


def test_the_published_recipe_is_head_exits_in_rows_of_512(
    train, text, refused, make_folder, folder
):
    wide = make_folder(max_position_embeddings=512)

    result = found(train("--data", text, "--recipe", "published", "--json", rows=(), model=wide))

    assert (result["exits"], result["steps"]) == ({"2": "head", "4": "head"}, 3)  # the last, too
    refused(train("--data", text, "--recipe", "published", rows=()), "context of 128")
    for option, value in (("--learning-rate", 0.1), ("--epochs", 1.0), ("--positions", 0.25)):
        ran = train("--data", text, "--recipe", "published", option, value, rows=(), model=wide)
        refused(ran, f"{option} {value} contradicts --recipe published")


def test_a_base_that_is_trained_too_is_saved_with_its_tokenizer(train, text, output, generate):
    arguments = ("--data", text, "--unfreeze", "--projection", "direct", "--exits", 2)

    result = found(train(*arguments, "--json", "--layer-dropout", 0.1))

    assert set(result["exit_losses"]) == {"2", "original"}
    assert generate("a", "--exit", 2, model=str(output)).code == 0
    assert train(*arguments, "--overwrite").code == 0


def test_ctrl_c_is_one_line_and_the_same_command_goes_on(text, folder, output, tmp_path, own_lines):
    fixed = ["--model", folder, "--data", text, "--exits", "1;3", "--block-size", 32, "--json"]
    fixed += ["--save-steps", 1, "--log-steps", 1, "--max-steps", 100, "--batch-size", 2]
    running = command("--output", output, *fixed)
    deadline = time.monotonic() + 240
    while not list(output.glob("checkpoint-*/trainer_state.json")):  # the newest two are kept
        assert time.monotonic() < deadline
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=120)

    assert (running.returncode, out) == (130, "")
    last = own_lines(err).splitlines()[-1]
    assert last.startswith("interrupted: the same command goes on from")
    assert "Traceback" not in err
    resumed = command("--output", output, *fixed)
    straight = command("--output", tmp_path / "straight", *fixed)
    (out, err), (expected, _) = resumed.communicate(timeout=240), straight.communicate(timeout=240)
    assert "goes on from step" in err
    assert json.loads(out)["exit_losses"] == json.loads(expected)["exit_losses"]
    assert json.loads(out)["tokens"] == json.loads(expected)["tokens"]


def test_two_processes_train_together_and_one_of_them_speaks(text, folder, output, write):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    prompts = write("prompts.txt", "a ferry\nthe water\n")
    both = ["--data", text, "--data", "self", "--prompts", prompts, "--self-tokens", 300]

    running = command(
        "--model", folder, "--output", output, *both, "--block-size", 32, "--json", "--gates",
        launcher=launcher,
    )  # fmt: skip
    out, err = running.communicate(timeout=300)

    assert running.returncode == 0, err
    result = json.loads(out)
    assert result["exits"] == {"2": "lens"}
    assert err.count(f"step {result['steps']} of") == 1
    assert result["gates"][0]["positions"] > 0
    assert "2.gate.linear.weight" in exits_of(folder, output)


def test_another_training_is_not_gone_on_with(train, text, refused, output):
    fixed = ("--data", text, "--exits", 2, "--max-steps", 5, "--json")
    first = found(train(*fixed))
    (output / "mine.txt").write_text("not yours")

    refused(
        train(*fixed, "--learning-rate", 0.1), "learning_rate was 0.001, now 0.1", "--overwrite"
    )
    refused(train(*fixed[:2], "--max-steps", 2, "--exits", "1;3"), "--overwrite")
    same = train(*fixed, "--log-steps", 1)
    anew = found(train(*fixed, "--learning-rate", 0.1, "--overwrite"))

    assert same.results[0]["loss"] == first["loss"]
    assert "whole" in same.err
    assert anew["loss"] != first["loss"]
    assert (output / "mine.txt").read_text() == "not yours"


def test_a_mistake_in_the_data_can_be_corrected_in_the_same_folder(train, text, refused, tmp_path):
    refused(train("--data", tmp_path / "nowhere.txt", "--exits", 2), "nowhere.txt")

    assert train("--data", text, "--exits", 2, "--max-steps", 1).code == 0


def test_folders_of_others_are_left_alone(train, text, refused, folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)

    refused(train("--data", text, "--overwrite", to=copy), "did not write", "--output")
    refused(train("--data", text, to=text), str(text))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("", ["nothing to train on", "--data self"]),
        ("--data {text} --exits 9", ["exit 9 does not exist", "4 blocks"]),
        ("--data {text} --projection direct", ["direct", "nothing to train"]),
        ("--data {text} --exit-weight 3=2 --exits 2", ["[3]"]),
        ("--data {text} --exit-weight 3", ["EXIT=WEIGHT", "'3'"]),
        ("--data {text} --self-tokens 9", ["--self-tokens belongs to --data self"]),
        ("--data {text} --epochs 2 --max-steps 2", ["exclude each other"]),
        ("--data {text} --fit-only --learning-rate 1", ["--learning-rate would change nothing"]),
        ("--data {text} --fit-only --no-closed-form", ["leaves nothing to fit"]),
        ("--data {text} --fit-only --projection head", ["only lens and cast"]),
        ("--data {text} --gate-precision 0.9", ["belong to --gates"]),
        ("--data {text} --curriculum none", ["belongs to --unfreeze"]),
        ("--data {text} --layer-dropout 0.1", ["unfreeze"]),
        ("--data {text} --positions 2", ["at most 1, got 2.0"]),
        ("--data {text} --held-out 0.0001", ["--held-out 0.0001", "rows"]),
        ("--data {text} --held-out 3", ["--held-out", "below 1"]),
        ("--data {text} --held-out nowhere.txt", ["nowhere.txt"]),
        ("--data {text} --held-out {text}", ["split train of it is --data, too", "0.02"]),
        ("--data {text} --held-out {text.parent}/./text.txt", ["is --data, too"]),
        ("--data {text} --held-out-split test", ["belongs to --held-out SOURCE"]),
        ("--data {text} --held-out 0.1 --held-out-split test", ["belongs to --held-out SOURCE"]),
        ("--data {text} --block-size 500", ["context of 128"]),
        ("--data {text} --device cuda:1", ["CUDA_VISIBLE_DEVICES"]),
        ("--data {text} --recipe published --projection lens", ["--projection lens contradicts"]),
        (
            "--data {text} --recipe published --temperature 5",
            ["--temperature 5.0 contradicts --recipe published, which has no distillation"],
        ),
        ("--data {text} --log-to tensorboard", ["tensorboard", "offramp[train]"]),
        ("--data self", ["template"]),
        ("--keep-states {folder}", ["--data"]),
        ("--data {text} --keep-states s --unfreeze", ["--unfreeze"]),
    ],
)
def test_what_cannot_be_trained_is_refused(
    train, text, refused, monkeypatch, tmp_path, options, words
):
    monkeypatch.setattr(
        "offramp.cli.material.find_spec", lambda name: name != "tensorboard" or None
    )
    given = options.format(text=text, folder=tmp_path / "states").split()

    refused(train(*given, rows=()), *words)


def test_an_encoder_decoder_learns_from_pairs_and_from_its_own_answers(
    train, make_folder, refused, text, write, output, generate
):
    folder = make_folder("t5")
    rows = [{"prompt": f"say {n}", "completion": "ferry " * 3} for n in range(24)]
    pairs = write("pairs.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    prompts = write("prompts.txt", "one\ntwo\n")

    result = found(train("--data", pairs, "--exits", "1;3", "--gates", "--json", model=folder))

    assert result["tokens"] == sum(len(row["prompt"]) for row in rows)
    assert set(result["exit_losses"]) == {"1", "3"}
    assert generate("say 1", "--exit", 3, model=str(output)).code == 0
    own = ("--data", "self", "--prompts", prompts, "--self-tokens", 60, "--max-steps", 2)
    assert found(train(*own, "--json", model=folder, to=output / "own"))["steps"] == 2
    refused(train("--data", text, model=folder, to=output / "text"), "learns from pairs")
    refused(train("--data", "self", model=folder, to=output / "alone"), "give prompts")


def test_a_foreign_tokenizer_is_refused(train, make_folder, refused, text):
    refused(train("--data", text, model=make_folder(vocab_size=40)), "its model knows 40 tokens")


def test_a_hub_that_cannot_be_reached_keeps_the_result(train, text, output):
    ran = train("--data", text, "--fit-only", "--json", "--push-to-hub", "me/exits")

    assert ran.code == 2
    assert ran.results[0]["output"] == str(output)
    assert ran.err.startswith("error: cannot push")
    assert ran.err.count("\n") == 1


def test_settings_have_the_defaults_and_texts_of_the_library(offramp):
    documented = dict(
        re.findall(r"^    (\w+): (.+?)(?=\n    \w+: |\Z)", _attributes(), flags=re.M | re.S)
    )
    options = {each.name: each for each in typer.main.get_command(app).commands["train"].params}

    for field in dataclasses.fields(TrainSettings):
        if field.name in ("exits", "exit_weights"):
            continue
        option = options[field.name]
        said = " ".join(documented[field.name].replace("`", "").split())
        assert option.help == said.replace("with unfreeze", "with --unfreeze").split(" Needed")[0]
        if field.name not in SPELLED_OTHERWISE:
            assert option.show_default == str(field.default)
            assert option.default is None


def _attributes() -> str:
    text = inspect.cleandoc(TrainSettings.__doc__ or "")
    return text.partition("Attributes:\n")[2].partition("\n\nRaises:")[0]


def test_help_has_an_example_and_every_option_a_text(offramp):
    out = offramp("train", "--help").out

    params = typer.main.get_command(app).commands["train"].params
    assert EXAMPLE.startswith("Example: offramp train")
    assert [option.name for option in params if not option.help] == []
    assert [name for option in params for name in option.opts if f" {name} " not in out] == []
