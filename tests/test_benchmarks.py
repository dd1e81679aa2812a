"""The benchmarks run as a user runs them, and their JSON says what it claims."""

import json
import statistics
import subprocess
import sys
from importlib import import_module
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


def test_one_exit_that_fails_is_not_averaged_away(monkeypatch):
    """The divergences of the lab log: a quarter of the positions misses its target at exit 28."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    quality = import_module("exits_quality")
    runs = [
        {"way": way, "seed": 0, "kl": kl}
        for way, kl in {
            "all": [2.889, 1.868, 0.332],
            "quarter": [2.930, 1.914, 0.356],
            "quarter_candidates": [2.939, 1.919, 0.355],
        }.items()
    ]

    result = quality.compared([4.151, 2.744, 0.385], runs)

    assert result["measured"]["quarter_kl_of_all"] == pytest.approx(0.356 / 0.332, abs=1e-4)
    assert result["measured"]["quarter_gain_kept"] == pytest.approx(0.029 / 0.053, abs=1e-4)
    assert result["ratios"]["quarter"]["20"] == [1.914 / 1.868]


SMALL = {
    "vocab": 211,
    "width": 16,
    "ffn": 32,
    "heads": 2,
    "encoder-layers": 1,
    "decoder-layers": 3,
    "source": 12,
    "tokens": 6,
}


@pytest.fixture(scope="module")
def elmer(tmp_path_factory):
    """What a tiny run of ELMER's benchmark wrote and printed."""
    out = tmp_path_factory.mktemp("elmer") / "elmer.json"
    command = [sys.executable, str(BENCHMARKS / "elmer.py"), "--threads", "1", "--rounds", "2"]
    command += ["--batch", "1", "2", "--repeats", "1", "--out", str(out)]
    command += [f"--{name}={size}" for name, size in SMALL.items()]

    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS
    )

    assert ran.returncode == 0, ran.stderr
    return json.loads(out.read_text(encoding="utf-8")), ran.stdout


def test_one_pass_is_timed_beside_bart_in_every_round(elmer):
    result, printed = elmer
    expected = {"bart", "bart-6-1", "bart-int8", "elmer", "elmer-soft", "elmer-ctc", "elmer-dag"}
    expected |= {"elmer-int8"}
    expected |= {f"elmer-{rule}-{at}" for rule in ("gate", "entropy") for at in (1, 2, "never")}

    assert [each["batch"] for each in result["results"]] == [1, 2]
    for each in result["results"]:
        assert set(each["ways"]) == expected
        for name, way in each["ways"].items():
            for scope in ("call", "decoder"):
                assert len(way[scope]["seconds"]) == 2
                paired = [
                    base / own
                    for base, own in zip(
                        each["ways"]["bart"][scope]["seconds"], way[scope]["seconds"], strict=True
                    )
                ]
                ratio = way[scope]["over_bart"]
                assert ratio["median"] == pytest.approx(statistics.median(paired), rel=0.01)
                assert ratio["low"] <= ratio["median"] <= ratio["high"]
                assert f"| {name} | {scope} |" in printed


def test_whole_texts_are_written(elmer):
    result, _ = elmer

    for each in result["results"]:
        for name, way in each["ways"].items():
            if name not in ("elmer-ctc", "elmer-dag"):
                assert way["tokens"] == SMALL["tokens"]


def test_counts_follow_from_the_sizes(elmer):
    result, _ = elmer
    width, ffn, vocab = SMALL["width"], SMALL["ffn"], SMALL["vocab"]
    layer, head = 6 * width**2 + 2 * width * ffn, vocab * width
    cross = 2 * width**2 * SMALL["decoder-layers"]
    (ways, _) = (each["ways"] for each in result["results"])

    step = SMALL["decoder-layers"] * layer + head
    read = {name: way["decoder"]["weight_megabytes"] * 1e6 / 4 for name, way in ways.items()}

    assert read["bart"] == cross + SMALL["tokens"] * step
    assert read["elmer"] == cross + step
    assert read["elmer-gate-1"] == cross / 3 + layer + head
    assert read["elmer-entropy-1"] == cross / 3 + layer + head
    assert read["elmer-gate-never"] == cross + step
    assert read["elmer-entropy-never"] == cross + step + 2 * head
    assert read["elmer-soft"] == cross + step + 2 * head + 2 * 2 * width**2
    assert 4 * ways["elmer-int8"]["decoder"]["weight_megabytes"] == pytest.approx(
        ways["elmer"]["decoder"]["weight_megabytes"], abs=1e-5
    )


def test_targets_are_held_against_the_plain_pass(elmer):
    result, _ = elmer
    (first, _) = result["results"]

    assert {(each["batch"], each["scope"], each["wanted"]) for each in result["targets"]} == {
        (1, "call", 6.0),
        (1, "decoder", 10.0),
    }
    for each in result["targets"]:
        assert each["got"] == first["ways"]["elmer"][each["scope"]]["over_bart"]["median"]
        assert each["met"] == (each["got"] >= each["wanted"])


@pytest.mark.real
def test_the_ways_to_multiply_are_all_timed(tmp_path):
    out = tmp_path / "products.json"
    command = [sys.executable, str(BENCHMARKS / "products.py"), "--rounds", "1", "--threads", "1"]

    ran = subprocess.run(
        [*command, "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_SECONDS,
    )

    assert ran.returncode == 0, ran.stderr
    times = json.loads(out.read_text(encoding="utf-8"))["ms"]
    assert set(times) == {"linear", "left", "left, cut", "onednn", "onednn, packed"}
    assert list(times["left, cut"]) == ["1"]
    assert all(ms > 0 for row in times.values() for ms in row.values())
