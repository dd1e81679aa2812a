"""lm-eval runs through offramp lm-eval, offline, on tasks made here."""

import json
import sys

import pytest

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

RUN = ("--limit", "3", "--batch_size", "2")


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """Let nobody reach the hub, and keep caches and the state of lm-eval out of the way."""
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("LMEVAL_LOG_LEVEL", "ERROR")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tasks(tmp_path):
    """A folder for tasks."""
    return tmp_path / "tasks"


def test_all_local_tasks_run_offline_and_agree_with_hf(offramp, make_folder, tasks):
    """The same command with lm-eval's own model type, so that both can be held together."""
    names = "offramp_last_word,offramp_word_perplexity,offramp_minimal_pairs"
    args = f"pretrained={make_folder(max_position_embeddings=512)}"
    command = ("lm-eval", "--local-tasks", tasks, "--json", "--tasks", names, *RUN)

    theirs = offramp(*command, "--model_args", args, "--model", "hf", "--device", "cpu")
    ours = offramp(*command, "--model_args", args)

    assert (theirs.code, ours.code) == (0, 0), theirs.err + ours.err
    ((hf,), (found,)) = theirs.results, ours.results
    assert [hf["config"]["model"], found["config"]["model"]] == ["hf", "offramp"]
    assert found["config"]["offramp_decoding"] == "original"
    assert found["results"] == hf["results"]
    assert found["results"]["offramp_word_perplexity"]["bits_per_byte,none"] > 1
    assert 0 <= found["results"]["offramp_minimal_pairs"]["acc,none"] <= 1


def test_the_table_of_lm_eval_is_shown(offramp, folder, tasks):
    arguments = sys.argv

    ran = offramp(
        "lm-eval", "--local-tasks", tasks, "--tasks", "offramp_last_word", *RUN,
        "--model_args", f"pretrained={folder},early_exit=top_gap:0.2",
    )  # fmt: skip

    assert ran.code == 0, ran.err
    assert "|offramp_last_word|" in ran.out
    assert sys.argv is arguments


def test_tasks_are_made_and_listed_without_anything_else(offramp, tasks):
    shown = offramp("lm-eval", "--local-tasks", tasks)
    listed = offramp("lm-eval", "--local-tasks", tasks, "--json")

    (found,) = listed.results
    assert (shown.code, listed.code) == (0, 0)
    assert f"offramp_last_word  {found['tasks']['offramp_last_word']} questions" in shown.out
    assert json.loads((tasks / "offramp_last_word.yaml").read_text())["dataset_path"] == "json"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--tasks", "no_such_task"), ("no_such_task", "--verbose")),
        ((), ("--tasks",)),
        (("--text", "x.txt", "--tasks", "a"), ("--local-tasks",)),
        (("--overwrite", "--tasks", "a"), ("--local-tasks",)),
        (("--local-tasks", "here", "--include_path", "there"), ("exclude each other",)),
    ],
    ids=str,
)
def test_mistakes_are_one_line(offramp, refused, monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)

    refused(offramp("lm-eval", *arguments), *words)


def test_wrong_model_arguments_are_one_line(offramp, folder, tasks):
    ran = offramp(
        "lm-eval", "--local-tasks", tasks, "--tasks", "offramp_last_word", *RUN,
        "--model_args", f"pretrained={folder},contrast_layers=x",
    )  # fmt: skip

    assert ran.code == 2
    assert ran.out == ""
    last = ran.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert "did you mean contrast_layer_indices" in last


def test_without_the_extra_it_says_what_to_install(offramp, refused, monkeypatch):
    monkeypatch.setattr("offramp.cli.lm_eval.find_spec", lambda name: None)

    refused(offramp("lm-eval", "--tasks", "x"), "pip install 'offramp[lm-eval]'")
