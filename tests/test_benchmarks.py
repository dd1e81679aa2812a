"""The benchmark of speed runs as a user runs it, and its JSON says what it claims."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TIMEOUT_SECONDS = 900


def test_there_are_24_prompts_of_each_length_and_as_many_of_each_kind():
    prompts = json.loads((BENCHMARKS / "speed_prompts.json").read_text(encoding="utf-8"))["prompts"]

    kinds = {length: [each["kind"] for each in some] for length, some in prompts.items()}

    assert set(kinds) == {"30", "500"}
    for some in kinds.values():
        assert {kind: some.count(kind) for kind in some} == dict.fromkeys(
            ("chat", "prose", "code", "summary"), 6
        )


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """What a quick run wrote and printed."""
    out = tmp_path_factory.mktemp("speed") / "speed.json"
    command = [sys.executable, str(BENCHMARKS / "speed.py"), "--quick", "--threads", "1"]
    command += ["--methods", "generate", "generate+lookup", "onnxruntime-genai", "ours+drafter"]
    command += ["ours+exit", "ours+acd+exit", "early-exit", "--engines", "auto", "nobody"]
    command += ["--rows", "--ledger", "--scratch", str(out.parent), "--out", str(out)]

    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS
    )

    assert ran.returncode == 0, ran.stderr
    return json.loads(out.read_text(encoding="utf-8")), ran.stdout


@pytest.mark.real
def test_methods_are_measured_beside_plain_on_every_prompt(quick):
    result, _ = quick

    assert len(result["runs"]) == 2
    for run in result["runs"]:
        assert set(run["seconds"]) == set(result["methods"])
        assert {"generate", "ours", "ours+acd", "ours+exit", "ours+acd+exit"} <= set(run["seconds"])
        assert all(0 < tokens <= 8 for some in run["tokens"].values() for tokens in some)
        assert all(seconds > 0 for seconds in run["seconds"].values())


@pytest.mark.real
def test_a_ratio_is_the_median_of_paired_runs(quick):
    result, _ = quick

    for name, each in result["methods"].items():
        paired = [
            (run["tokens"][name][0] / run["seconds"][name])
            / (run["tokens"]["generate"][0] / run["seconds"]["generate"])
            for run in result["runs"]
        ]
        found = each["over_generate"]["all"]
        assert found["median"] == pytest.approx(statistics.median(paired), rel=0.01)
        assert found["low"] <= found["median"] <= found["high"]
        assert found["n"] == sum(
            each["over_generate"][some]["n"] for some in ("straight", "looping")
        )


@pytest.mark.real
def test_lossless_methods_write_the_same_ids(quick):
    result, _ = quick
    same = {
        name: each["same_ids"] for name, each in result["methods"].items() if "same_ids" in each
    }

    assert {name: each["as"] for name, each in same.items()} == {
        name: "ours+acd" if "acd" in name else "generate"
        for name, each in result["methods"].items()
        if name not in ("generate", "ours+acd") and each["method"] != "early-exit"
    }
    assert {"generate+lookup", "ours", "ours+exit", "ours+acd+exit"} <= set(same)
    assert [each for each in same.values() if each["different"]] == []


@pytest.mark.real
def test_what_cannot_run_is_skipped_with_a_reason(quick):
    result, printed = quick

    assert "no engine 'nobody'" in result["skipped"]["ours@nobody"]
    assert "no engine 'nobody'" in printed
    assert "generate" in result["methods"]
    for name in ("onnxruntime-genai", "ours+drafter"):
        assert (name in result["methods"]) != bool(result["skipped"].get(name))


@pytest.mark.real
def test_costs_are_measured_and_held_against_the_runs(quick):
    result, printed = quick
    roof, book = result["roofline"], result["ledger"]

    assert roof["bytes_per_token"] == pytest.approx(538e6, rel=0.01)
    assert set(result["rows"]["auto"]) == {str(count) for count in range(1, 9)}
    assert result["rows"]["auto"]["1"] > 0
    assert book["ours"]["predicted_ratio"] == book["ours"]["measured_ratio"] == 1
    assert book["ours"]["passes_per_token"] == pytest.approx(30 * 7 / 8)
    assert {"ours+exit", "ours+acd+exit"} <= set(book)
    assert "| ours+exit |" in printed


@pytest.mark.real
def test_early_exit_is_drawn_as_a_curve(quick):
    result, _ = quick
    (early,) = (each for each in result["methods"].values() if "quality" in each)

    assert early["method"] == "early-exit"
    assert 0 <= early["quality"]["agreement"] <= 1
    assert early["quality"]["perplexity"] >= 1
    assert 0 < early["blocks_per_token"] <= 31
