"""Workers answer as one process does, row by row; kills and cuts neither lose nor double a row."""

import json
import os
import signal
import threading
import time

import pyarrow.parquet
import pytest

import small_spread
from offramp.scale.cluster import Cluster, connected

COUNT = 40
SAMPLED = ["--do-sample", "--seed", 5, "--batch-size", 2, "--max-new-tokens", 30]
RAY = ["--engine", "ray", "--workers", 1]


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.path.dirname(small_spread.__file__))
        with connected(Cluster(workers=2)):
            yield


@pytest.fixture
def lines(write):
    """Prompts of several lengths, as JSON lines."""
    rows = [json.dumps({"prompt": f"prompt {i} {'x' * (i % 7)}", "id": i}) for i in range(COUNT)]
    return write("prompts.jsonl", "\n".join(rows))


def without_time(path):
    results = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for result in results:
        del result["seconds"]
    return results


def kill_a_worker(path, lines_then):
    """Kill one with SIGKILL as soon as there is a result; note how many there are."""
    while not (found := small_spread.workers()):
        time.sleep(0.05)
    while not path.exists() or not path.read_bytes():
        time.sleep(0.001)
    found[0].send_signal(signal.SIGKILL)
    lines_then.append(path.read_bytes().count(b"\n"))


def test_a_killed_worker_changes_no_row(offramp, folder, cluster, lines, tmp_path):
    alone, spread, then = tmp_path / "alone.jsonl", tmp_path / "spread.jsonl", []
    asked = ["generate", "--model", folder, "--jsonl", lines, *SAMPLED]
    assert offramp(*asked, "--output", alone).code == 0
    killer = threading.Thread(target=kill_a_worker, args=(spread, then), daemon=True)

    killer.start()
    ran = offramp(*asked, "--engine", "ray", "--workers", 2, "--output", spread)
    killer.join(1)

    assert (ran.code, ran.out) == (0, "")
    assert 0 < then[0] < COUNT, "no worker was killed in the middle"
    assert without_time(spread) == without_time(alone)


def test_a_cut_run_goes_on_and_parquet_holds_the_same(offramp, folder, cluster, lines, tmp_path):
    alone, table = tmp_path / "alone.jsonl", tmp_path / "out.parquet"
    prompts = tmp_path / "prompts.parquet"
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), prompts)
    asked = ["generate", "--model", folder, *SAMPLED]
    assert offramp(*asked, "--jsonl", lines, "--output", alone).code == 0
    (tmp_path / "out.parquet.jsonl").write_bytes(alone.read_bytes()[: alone.stat().st_size // 2])

    ran = offramp(*asked, "--parquet", prompts, *RAY, "--output", table, "--json")
    again = offramp(*asked, "--parquet", prompts, "--output", table, "--json")
    other = offramp(*asked, "--file", lines, "--output", table)

    found = pyarrow.parquet.read_table(table).drop_columns(["seconds"]).to_pylist()
    assert found == without_time(alone)
    assert 0 < ran.results[0]["new"] < COUNT
    assert again.results == [{"output": str(table), "results": COUNT, "new": 0}]
    assert other.code == 2
    assert "other prompts" in other.err
    assert not (tmp_path / "out.parquet.jsonl").exists()


def test_an_evaluation_that_is_spread_gives_the_same_numbers(offramp, folder, cluster, write):
    text = write("text.txt", "\n\n".join(f"A ferry {i} leaves at {i * 7}." for i in range(9)))
    asked = ["evaluate", "--model", folder, "--data", text, "--block-size", 24, "--batch-size", 2]
    asked += ["--contrast", "original:2", "--json"]

    assert offramp(*asked, *RAY).results == offramp(*asked).results


def test_what_workers_write_for_pairs_is_what_one_process_writes(
    offramp, make_elmer, make_folder, cluster, write, tmp_path
):
    rows = [{"source": f"a ferry {i} " * (1 + i % 3), "target": f"boat {i}"} for i in range(11)]
    pairs = write("pairs.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    asked = ["evaluate", "--pairs", pairs, "--batch-size", 2, "--max-new-tokens", 8]
    asked += ["--model", make_elmer(), "--model", make_folder("bart", template=None), "--json"]
    asked += ["--metrics", "errors,chrf", "--samples", 0]

    alone = offramp(*asked, "--output", tmp_path / "alone.jsonl")
    spread = offramp(*asked, *RAY, "--output", tmp_path / "spread.jsonl")

    assert (alone.code, spread.code) == (0, 0), alone.err + spread.err
    texts = [
        [json.loads(line)["text"] for line in (tmp_path / name).read_text("utf-8").splitlines()]
        for name in ("alone.jsonl", "spread.jsonl")
    ]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 2 * len(rows)
    scores = [[model["scores"] for model in ran.results[0]["models"]] for ran in (alone, spread)]
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--workers 2", "--workers 2 belongs to --engine ray; add it"),
        ("--ray-address auto", "--ray-address auto belongs to --engine ray"),
        ("--engine ray --stream", "--stream shows one text, got --engine ray"),
        ("--engine ray --worker-gpus 1.5", "gpus must be a whole number or a part of one GPU"),
        ("--engine spark", "'here', 'ray'"),
    ],
)
def test_workers_that_cannot_be_are_refused(offramp, refused, options, said):
    refused(offramp("generate", "--model", "no/such", "prompt", *options.split()), said)


def test_a_worker_needs_no_model_to_say_that_there_is_none(offramp, refused):
    refused(offramp("generate", "--model", "no/such-model", "prompt", *RAY), "no/such-model")
