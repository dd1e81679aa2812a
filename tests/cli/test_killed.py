"""A run that is killed at any moment and started again ends like one that never was.

Children are forked from a server that has imported torch already, so that they start at once.
"""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from offramp.cli import main

PROMPTS, BATCH, KILLS = 40, 3, 8


@pytest.fixture(scope="module")
def forked():
    """Start ``offramp`` in a process of its own."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["offramp.cli.run"])

    def start(arguments):
        process = context.Process(target=main, args=(arguments,))
        process.start()
        return process

    yield start
    if before is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = before


@pytest.fixture
def arguments(folder, write):
    """A run whose random numbers would betray a batch that was cut differently."""
    prompts = write("prompts.txt", "".join(f"prompt {i} {'x' * (i % 7)}\n" for i in range(PROMPTS)))
    sampling = ["--do-sample", "--seed", "5", "--batch-size", str(BATCH), "--max-new-tokens", "20"]
    return ["generate", "--model", folder, "--file", str(prompts), *sampling]


def without_time(path: Path) -> list[dict[str, object]]:
    results = [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]]
    for result in results:
        del result["seconds"]
    return results


def finished_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_lines(path: Path, count: int) -> None:
    end = time.monotonic() + 120
    while finished_lines(path) < count:
        assert time.monotonic() < end, f"{path} still has {finished_lines(path)} lines"
        time.sleep(0.001)


def test_kills_at_random_moments_neither_lose_nor_double_a_result(forked, arguments, tmp_path):
    undisturbed, disturbed = tmp_path / "undisturbed.jsonl", tmp_path / "disturbed.jsonl"
    whole = forked([*arguments, "--output", str(undisturbed)])
    whole.join()
    assert whole.exitcode == 0
    moments, left = random.Random(0), []

    for _ in range(KILLS):
        run = forked([*arguments, "--output", str(disturbed)])
        wait_for_lines(disturbed, min(finished_lines(disturbed) + 1, PROMPTS))
        time.sleep(moments.uniform(0, 0.1))
        run.kill()
        run.join()
        left.append(finished_lines(disturbed))
        assert without_time(disturbed) == without_time(undisturbed)[: left[-1]]
    last = forked([*arguments, "--output", str(disturbed)])
    last.join()

    assert last.exitcode == 0
    assert left == sorted(left)
    assert len({count for count in left if 0 < count < PROMPTS}) > 1, f"no kill hit a run: {left}"
    assert without_time(disturbed) == without_time(undisturbed)
    assert [result["index"] for result in without_time(disturbed)] == list(range(PROMPTS))


def test_ctrl_c_ends_with_one_line_and_the_same_command_goes_on(
    forked, arguments, tmp_path, own_lines
):
    path = tmp_path / "out.jsonl"
    command = [*arguments, "--output", str(path)]
    run = subprocess.Popen(
        [sys.executable, "-m", "offramp.cli", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs, such as CI may be, ignore Ctrl-C and hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for_lines(path, BATCH)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=120)
    count = finished_lines(path)

    again = forked(command)
    again.join()

    assert run.returncode == 130
    assert out == ""
    assert own_lines(err) == (
        f"interrupted: {count} of {PROMPTS} results are in {path}; the same command goes on from "
        "there\n"
    )
    assert BATCH <= count < PROMPTS
    assert again.exitcode == 0
    assert [result["index"] for result in without_time(path)] == list(range(PROMPTS))
