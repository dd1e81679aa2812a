"""Every example runs at its smoke size, command by command, as it stands in its script.

The scripts are run by bash. The commands ``offramp``, ``accelerate`` and ``python`` that they find
hand what they are asked to a process that has imported torch already and forks for each of them;
nothing else differs. That ``accelerate`` itself takes the files of settings is a test of its own.
"""

import contextlib
import json
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from offramp.cli import main

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*/run.sh"))
TIMEOUT_SECONDS = 300
CLIENT = """#!{python} -SE
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
server.sendall(json.dumps([{name!r}, os.getcwd(), *sys.argv[1:]]).encode())
server.shutdown(socket.SHUT_WR)
code, out, err = json.loads(server.makefile().read())
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""


def run_command(name, folder, arguments, out, err):
    """What a child does: the command, with its output in two files."""
    os.chdir(folder)
    with contextlib.ExitStack() as streams:
        streams.enter_context(contextlib.redirect_stdout(streams.enter_context(open(out, "w"))))
        streams.enter_context(contextlib.redirect_stderr(streams.enter_context(open(err, "w"))))
        if name == "python":
            sys.argv = list(arguments)
            runpy.run_path(arguments[0], run_name="__main__")
        else:
            main(arguments)


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """A folder of commands that fork, and a list of what was asked of them."""
    folder, asked = tmp_path_factory.mktemp("commands"), []
    address = str(folder / "socket")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["offramp.cli.run", "offramp.training.finetuning", "accelerate"])

    def serve(connection, number):
        name, cwd, *arguments = json.loads(connection.makefile().read())
        asked.append([name, *arguments])
        if name == "accelerate":
            arguments = arguments[arguments.index("offramp.cli") + 1 :]
        files = [str(folder / f"{number}.{end}") for end in ("out", "err")]
        child = context.Process(target=run_command, args=(name, cwd, arguments, *files))
        child.start()
        child.join()
        told = [Path(file).read_text() if Path(file).exists() else "" for file in files]
        with connection:
            connection.sendall(json.dumps([child.exitcode, *told]).encode())

    def listen():
        number = 0
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            serve(connection, number)
            number += 1

    server = socket.socket(socket.AF_UNIX)
    server.bind(address)
    server.listen()
    for name in ("offramp", "accelerate", "python"):
        path = folder / name
        path.write_text(CLIENT.format(python=sys.executable, address=address, name=name))
        path.chmod(0o755)
    threading.Thread(target=listen, daemon=True).start()
    yield folder, asked
    server.close()


@pytest.fixture
def run(commands, tmp_path, monkeypatch):
    """Run an example's script at its smoke size; give its output and what it called."""
    bin_folder, asked = commands
    monkeypatch.setenv("PATH", os.pathsep.join([str(bin_folder), os.environ["PATH"]]))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def start(script):
        del asked[:]
        ran = subprocess.run(
            ["bash", str(script), "--smoke", str(tmp_path / "work")],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr[-2000:]
        return ran.stdout, list(asked)

    return start


def test_there_is_a_script_for_each_reproduction():
    assert {each.parent.name for each in SCRIPTS} == {
        "acd_gpt2_medium",
        "acd_gpt_neo_125m",
        "elmer_pretrain",
        "elmer_xsum",
        "elmer_squad_questions",
        "elmer_personachat",
    }


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.parent.name)
def test_an_example_runs_at_its_smoke_size(run, script, tmp_path):
    out, asked = run(script)

    work = tmp_path / "work"
    verbs = [next((each for each in call if each in VERBS), None) for call in asked]
    if script.parent.name.startswith("acd"):
        assert [verb for verb in verbs if verb] == ["train", "evaluate", "evaluate"]
        assert (work / "texts.svg").exists()
        assert len((work / "texts.jsonl").read_text("utf-8").splitlines()) == 2 * 2 * 5
        assert "contrast original:" in out
    elif script.parent.name == "elmer_pretrain":
        assert [verb for verb in verbs if verb] == ["pretrain"]
        assert (work / "pretrained" / "model.safetensors").exists()
    else:
        assert [verb for verb in verbs if verb] == ["finetune", "evaluate", "evaluate"]
        assert '"bleu_4"' in out
        assert "mean exit" in out


VERBS = ("train", "pretrain", "finetune", "evaluate")


@pytest.mark.parametrize(("name", "processes"), [("4_gpus", 4), ("8_gpus", 8), ("smoke", 1)])
def test_accelerate_takes_its_settings(name, processes):
    found = load_config_from_file(str(EXAMPLES / "accelerate" / f"{name}.yaml"))

    assert (found.num_machines, found.num_processes) == (1, processes)


def test_accelerate_launches_a_command_with_them():
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    command = [*launch, str(EXAMPLES / "accelerate" / "smoke.yaml"), "-m", "offramp.cli", "version"]

    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "offramp" in ran.stdout


def test_every_example_stands_in_the_readme_with_hardware_and_hours():
    text = (EXAMPLES / "README.md").read_text("utf-8")

    for script in SCRIPTS:
        assert f"examples/{script.parent.name}/run.sh" in text
    assert "estimate" in text


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.parent.name)
def test_a_script_says_what_it_needs(script):
    ran = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False)

    assert ran.returncode != 0
    assert "name the folder" in ran.stderr
