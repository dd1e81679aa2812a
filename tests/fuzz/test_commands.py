"""Junk for every option of every command, and damaged model folders: exit code 0, or 2 and a line.

A command runs in this process on tiny models; what it is given besides the junk would end soon.
"""

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from fuzzing import bounded, broken, check_told, fuzzed, json_files, noted, safetensors
from offramp.cli import app, main

VALUES = (
    *("", " ", "0", "1", "2", "-1", "-5", "3.5", "nan", "inf", "-inf", "1e999", "1e-9"),
    *("9" * 30, "9" * 5000, "x" * 5000, "original", "original:2", "2:1", "1;3", "1,2", "low"),
    *("gate", "gate:0.5", "top_gap:0.5", "fixed:2", "patience:2", "drafter", "float16", "cuda"),
    *("None", "True", "{}", "[]", "\n", "a\nb", "\u202e", "\U0001f4a5", "\udc80", "--", "-", "~"),
    *(".", "..", "/", "/dev/null", "/dev/zero", "/proc/self/mem", "/nowhere/there", "a" * 300),
    *("owner/name", "owner/name:config", "a/b/c", "self", "%s%n", "$(id)", "{0}"),
)
LEFT_OUT = {"help", "version", "push_to_hub", "prompt", "verbose", "timing", "engine"}
"""No junk for these: they say much, reach out, take long, or are no option."""


@pytest.fixture(scope="module")
def material(make_folder, make_elmer, tmp_path_factory):
    """Tiny models and texts."""
    place = tmp_path_factory.mktemp("material")
    (place / "text.txt").write_text("the ferry goes to the island\n" * 20)
    (place / "prompts.txt").write_text("a ferry\nthe sea\n")
    lines = [json.dumps({"source": f"the word {n}", "target": f"word {n}"}) for n in range(12)]
    (place / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    (place / "dev.jsonl").write_text("\n".join(lines) + "\n")
    return {"lm": make_folder(), "elmer": make_elmer(), "place": place}


def commands(material):
    """The least that each command needs, as options by name."""
    place, folder = material["place"], material["lm"]
    pairs, text = place / "pairs.jsonl", place / "text.txt"
    step = {"max-steps": 1, "batch-size": 2}
    return {
        "generate": {"model": folder, "file": place / "prompts.txt", "max-new-tokens": 2},
        "evaluate": {"model": folder, "data": text, "limit": 40},
        "calibrate": {
            "model": folder,
            "data": text,
            "rule": "top_gap",
            "output": "calibrated",
            "no-timing": None,
        },
        "train": {"model": folder, "data": text, "exits": 2, "output": "trained", **step},
        "pretrain": {"data": text, "model": material["elmer"], "output": "pretrained", **step},
        "finetune": {
            "model": material["elmer"],
            "pairs": pairs,
            "held-out": place / "dev.jsonl",
            "output": "tuned",
            **step,
        },
        "distill-data": {"model": material["elmer"], "pairs": pairs, "output": "distilled.jsonl"},
        "export": {"model": folder, "exit": 2, "output": "exported"},
        "models": {},
        "version": {},
    }


def options_of(command):
    """The options of a command, as it was registered, with whether each takes a value."""
    group = typer.main.get_command(app)
    return {
        each.opts[0]: not getattr(each, "is_flag", False)
        for each in group.commands[command].params
        if each.name not in LEFT_OUT and each.opts[0].startswith("--")
    }


def run(arguments, place, monkeypatch):
    """Run a command in a folder of its own, and check how it ended and what it said."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="replace") for _ in "oe")
    shown = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with noted():
        with shown[0], shown[1], bounded(seconds=120), pytest.raises(SystemExit) as ended:
            main(arguments)
        err.seek(0)
        told = err.read()
        assert "Traceback" not in told, arguments
        assert ended.value.code in (0, 2), (arguments, ended.value.code, told)
        if ended.value.code == 2:
            lines = told.splitlines()
            assert lines[-1].startswith("error: "), (arguments, told)
            check_told(lines[-1])


@pytest.mark.parametrize(
    "command", ["generate", "evaluate", "calibrate", "train", "finetune", "export", "models"]
)
@fuzzed(3)
@given(data=st.data())
def test_options_given_junk(material, command, tmp_path, monkeypatch, data):
    given = dict(commands(material)[command])
    names = options_of(command)
    for name in data.draw(st.lists(st.sampled_from(sorted(names)), min_size=1, max_size=2)):
        value = data.draw(st.one_of(st.sampled_from(VALUES), st.text(max_size=6)))
        given[name.removeprefix("--")] = value.replace("\x00", "") if names[name] else None
    arguments = [command]
    for name, value in given.items():
        arguments += [f"--{name}"] if value is None else [f"--{name}={value}"]

    run(arguments, tmp_path / "here", monkeypatch)


FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


@pytest.mark.parametrize("kind", ["lm", "elmer"])
@pytest.mark.parametrize("name", [*FILES, "model.safetensors"])
@fuzzed(2)
@given(data=st.data())
def test_damaged_model_folders(material, kind, name, tmp_path, monkeypatch, data):
    content = (Path(material[kind]) / name).read_bytes()
    if name.endswith("json"):
        strategy = json_files(json.loads(content))
    else:
        strategy = st.one_of(safetensors(content), broken(content))
    folder = tmp_path / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(material[kind], folder)
    (folder / name).write_bytes(data.draw(strategy))
    sampled = ["--do-sample", "--seed", "1"] if kind == "lm" else []

    run(
        ["generate", "a ferry", "--model", str(folder), "--max-new-tokens", "2", *sampled],
        tmp_path / "here",
        monkeypatch,
    )


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_in_a_model_folder_is_never_run(material, name, tmp_path, monkeypatch):
    folder, proof = tmp_path / "evil", tmp_path / "proof"
    shutil.copytree(material["lm"], folder)
    (folder / "evil.py").write_text(f"open({str(proof)!r}, 'w')\nclass Evil: pass\n")
    told = json.loads((folder / name).read_bytes())
    classes = ("AutoConfig", "AutoModelForCausalLM")
    evil = dict.fromkeys(classes, "evil.Evil") | {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    (folder / name).write_text(
        json.dumps({**told, "auto_map": evil, "model_type": "evil", "tokenizer_class": "Evil"})
    )

    run(["generate", "a", "--model", str(folder)], tmp_path / "here", monkeypatch)

    assert not proof.exists()
