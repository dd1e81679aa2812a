"""What examples/accelerate holds starts trainings, here on gloo: one machine, two, and shards."""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiny
from offramp.cli import main

TESTS = Path(__file__).parents[1]
CONFIGS = TESTS.parent / "examples" / "accelerate"
WIDE = {"family": {"dtype": "float64"}, "epochs": 2.0}


def free_port():
    """A port below those that the kernel gives out, so that nobody is given it meanwhile."""
    while True:
        port = random.randrange(20_000, 32_000)
        with closing(socket.socket()) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def launch(config, options, *script):
    named = [f"--{name}={value}" for name, value in options.items()]
    paths = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "accelerate.commands.launch"),
            *("--config_file", str(CONFIGS / config), *named, *map(str, script)),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(*started):
    for each in started:
        said, _ = each.communicate(timeout=300)
        assert each.returncode == 0, said[-4000:]


def small_training(folder, batch_size):
    asked = {"folder": str(folder), **WIDE, "batch_size": batch_size}
    return TESTS / "small_training.py", json.dumps(asked)


def left_by(folder):
    return torch.load(f"{folder}.0.pt", weights_only=True)


def test_two_hosts_train_and_four_processes_of_one_go_on(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    hosts = {"num_machines": 2, "num_processes": 2, "main_process_ip": "127.0.0.1"}
    hosts["main_process_port"] = free_port()
    ended(
        *(
            launch("ddp_two_nodes.yaml", {**hosts, "machine_rank": rank}, *small_training(whole, 2))
            for rank in range(2)
        )
    )
    shutil.copytree(whole / "checkpoint-8", cut / "checkpoint-8")
    shutil.copy(whole / "training.json", cut)

    one = {"num_processes": 4, "main_process_port": free_port()}
    ended(launch("ddp_one_node.yaml", one, *small_training(cut, 1)))

    torch.testing.assert_close(left_by(cut), left_by(whole), rtol=0, atol=1e-10)


def test_two_processes_of_the_command_give_the_exits_of_one(tmp_path, byte_tokenizer, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    tiny.model_of("llama", vocab_size=300).save_pretrained(tmp_path / "base")
    byte_tokenizer.save_pretrained(tmp_path / "base")
    (tmp_path / "text.txt").write_text("A ferry carries people across the water. " * 20, "utf-8")
    common = ["train", "--model", tmp_path / "base", "--data", tmp_path / "text.txt"]
    common += ["--exits", "1;3", "--block-size", 32, "--max-steps", 3, "--device", "cpu"]

    two = {"num_processes": 2, "main_process_port": free_port()}
    rest = [*common, "--batch-size", 2, "--output", tmp_path / "two"]
    ended(launch("ddp_one_node.yaml", two, "-m", "offramp.cli", *rest))
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, common), "--batch-size", "4", "--output", str(tmp_path / "one")])

    assert stopped.value.code == 0
    exits = {each: load_file(tmp_path / each / "exits.safetensors") for each in ("one", "two")}
    assert all(each.abs().sum() > 0 for each in exits["two"].values())
    torch.testing.assert_close(exits["two"], exits["one"], rtol=0, atol=1e-5)


def test_shards_are_gone_on_with_by_another_number_of_processes(tmp_path, byte_tokenizer):
    base, data = tmp_path / "base", tmp_path / "text.jsonl"
    tiny.model_of("llama", vocab_size=300).save_pretrained(base)
    byte_tokenizer.save_pretrained(base)
    lines = [json.dumps({"text": f"row {number} of a text"}) for number in range(12)]
    data.write_text("\n".join(lines), encoding="utf-8")
    common = ["--model", base, "--data", data, "--exits", "1;3", "--rows", 4, "--no-cuda"]
    common += ["--block-size", 32, "--dtype", "float64", "--save-steps", 3]

    def run(folder, processes):
        options = {"num_processes": processes, "main_process_port": free_port()}
        asked = [*common, "--output", tmp_path / folder, "--steps", 6]
        ended(launch("ddp_one_node.yaml", options, CONFIGS / "sharded.py", *asked))
        return load_file(tmp_path / folder / "exits.safetensors")

    whole = run("whole", 2)
    shutil.copytree(tmp_path / "whole" / "shards-3", tmp_path / "cut" / "shards-3")
    (tmp_path / "cut" / "shards-6").mkdir()  # what a killed run left, without its last file
    rest = run("cut", 4)

    assert rest.keys() == whole.keys()
    assert all(each.dtype == torch.float64 and each.abs().sum() > 0 for each in whole.values())
    torch.testing.assert_close(rest, whole, rtol=0, atol=1e-10)
