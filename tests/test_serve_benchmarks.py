"""The benchmarks of the server run as a user runs them, and their JSON says what it claims."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import tiny

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
CHAT = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def ran(name, *options):
    command = [sys.executable, str(BENCHMARKS / name), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture
def checkpoint(tmp_path, byte_tokenizer):
    """A tiny model with a tokenizer of bytes, as transformers keeps it."""
    folder = tmp_path / "tiny"
    model = tiny.model_of("llama", vocab_size=512, max_position_embeddings=4096)
    model.save_pretrained(folder)
    byte_tokenizer.chat_template = CHAT
    byte_tokenizer.save_pretrained(folder)
    return folder


def test_clients_are_timed_in_every_round(tmp_path, checkpoint):
    out = tmp_path / "serve.json"
    options = ["--clients", 1, 8, "--seconds", 1, "--rounds", 2, "--new-tokens", 8]
    options += ["--threads", 1, "--servers", "offramp", "--folder", checkpoint, "--out", out]

    run = ran("serve.py", *options)

    assert run.returncode == 0, run.stderr
    result = json.loads(out.read_text(encoding="utf-8"))
    assert [(row["round"], row["clients"]) for row in result["rows"]] == [
        (0, 1),
        (0, 8),
        (1, 1),
        (1, 8),
    ]
    for row in result["rows"]:
        assert row["failed"] == []
        assert row["tokens_per_second"] > 0
        assert row["first_token_ms"]["p50"] <= row["first_token_ms"]["p99"]
    (aim,) = result["targets"]
    speed = [row["tokens_per_second"] for row in result["rows"]]
    ratios = sorted([speed[1] / speed[0], speed[3] / speed[2]])
    assert aim["got"] == pytest.approx(sum(ratios) / 2, abs=2e-3)
    assert [aim["low"], aim["high"]] == pytest.approx(ratios, abs=2e-3)
    assert "| offramp | 8 |" in run.stdout


def test_every_good_request_under_load_is_answered_and_nothing_is_stuck(tmp_path, checkpoint):
    out = tmp_path / "load.json"
    options = ["--minutes", 0.15, "--clients", 8, "--every", 2, "--settle", 2, "--threads", 1]

    run = ran("serve_load.py", *options, "--folder", checkpoint, "--out", out)

    assert run.returncode == 0, run.stdout + run.stderr
    result = json.loads(out.read_text(encoding="utf-8"))
    counts = result["counts"]
    assert counts["good: answered"] == counts["good: asked"] > 0
    assert {"cancelled: asked", "malformed: asked", "oversized: asked"} <= set(counts)
    assert result["faults"] == []
    assert result["stuck_slots"] == 0
    assert len(result["readings"]) >= 2
    assert all(reading["private"] > 0 for reading in result["readings"])
