"""``offramp finetune`` as a user runs it."""

import json
import shutil

import datasets
import pytest
import torch
from safetensors.torch import load_file

from offramp.cli.finetune import EXAMPLE
from offramp.models.elmer import ElmerForConditionalGeneration

PAIRS = [{"source": f"word {n}", "target": f"{n} drow"} for n in range(8)]
SHORT = (
    "--max-steps",
    2,
    "--eval-steps",
    1,
    "--batch-size",
    4,
    "--log-steps",
    1,
    "--device",
    "cpu",
)


@pytest.fixture(scope="module")
def elmer(make_elmer):
    return make_elmer()


@pytest.fixture
def pairs(write):
    return write("pairs.jsonl", "".join(json.dumps(each) + "\n" for each in PAIRS))


@pytest.fixture
def held_out(write):
    return write("dev.jsonl", "".join(json.dumps(each) + "\n" for each in PAIRS[:6]))


@pytest.fixture
def finetune(offramp, pairs, held_out, tmp_path):
    """Run ``offramp finetune`` on the pairs."""

    def run(model, *arguments, to=tmp_path / "out", data=pairs, short=SHORT):
        named = ("--model", model, "--pairs", data, "--held-out", held_out, "--output", to)
        return offramp("finetune", *named, *short, *arguments)

    return run


def result_of(ran):
    assert ran.code == 0, ran
    (result,) = ran.results
    return result


def test_the_result_is_a_model_that_writes(finetune, offramp, elmer, tmp_path):
    result = result_of(finetune(elmer, "--json", "--metrics", "errors"))

    assert (result["steps"], result["pairs"], result["metric"]) == (2, 8, "loss")
    measured = {name for each in result["evaluations"] for name in each}
    assert {"loss", "row_error_rate"} <= measured
    ran = offramp("generate", "--model", tmp_path / "out", "word 3", "--json")
    assert ran.code == 0, ran


def test_two_files_line_by_line_are_the_same_pairs(finetune, write, elmer, tmp_path):
    sources = write("in.txt", "".join(each["source"] + "\n" for each in PAIRS))
    targets = write("out.txt", "".join(each["target"] + "\n" for each in PAIRS))
    kept = write("dev.txt", "".join(each["source"] + "\n" for each in PAIRS[:6]))
    right = write("right.txt", "".join(each["target"] + "\n" for each in PAIRS[:6]))
    held = ("--held-out", kept, "--target-file", targets, "--target-file", right)

    result_of(finetune(elmer, "--json", to=tmp_path / "a"))
    result_of(finetune(elmer, "--json", *held, to=tmp_path / "b", data=sources))

    one, two = (
        ElmerForConditionalGeneration.from_pretrained(tmp_path / name).state_dict() for name in "ab"
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_files_of_unequal_length_are_refused(finetune, write, elmer):
    sources, kept = write("in.txt", "a\nb\n"), write("dev.txt", "a\n")
    targets = write("out.txt", "a\n")
    held = ("--held-out", kept, "--target-file", targets, "--target-file", targets)

    ran = finetune(elmer, *held, data=sources)

    assert ran.code == 2
    assert "in.txt, line 2 has no line beside it in" in ran.err


def test_a_file_without_pairs_is_named(finetune, write, elmer):
    nothing = write("nothing.jsonl", "")

    trained_on = finetune(elmer, data=nothing)
    held_out = finetune(elmer, "--held-out", nothing)

    for ran in (trained_on, held_out):
        assert ran.code == 2
        assert "nothing.jsonl holds no pairs; give at least one, such as {" in ran.err


@pytest.mark.parametrize("form", ["saved", "parquet"])
def test_the_parts_of_a_data_set_are_trained_on_and_held_out(finetune, elmer, tmp_path, form):
    parts = {"train": PAIRS[:1], "more": PAIRS, "validation": PAIRS[:6]}
    parts = datasets.DatasetDict({name: datasets.Dataset.from_list(parts[name]) for name in parts})
    names = ("--split", "more", "--held-out-split", "validation")
    folder = tmp_path / "data"
    if form == "saved":
        parts.save_to_disk(folder)
    else:
        folder.mkdir()
        parts["more"].to_parquet(folder / "train.parquet")
        parts["validation"].to_parquet(folder / "validation.parquet")
        names = names[2:]

    result_of(finetune(elmer, "--json", to=tmp_path / "files"))
    found = finetune(
        elmer, "--json", *names, "--held-out", folder, data=folder, to=tmp_path / "parts"
    )

    assert result_of(found)["pairs"] == len(PAIRS)
    one, two = (load_file(tmp_path / each / "model.safetensors") for each in ("files", "parts"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    said = [
        json.loads((tmp_path / each / "training.json").read_text()) for each in ("files", "parts")
    ]
    assert said[0] == said[1]


@pytest.mark.parametrize("form", ["file", "other name", "one of two", "folder"])
def test_what_is_trained_on_cannot_be_held_out(finetune, refused, elmer, pairs, tmp_path, form):
    held = {"folder": tmp_path, "other name": tmp_path / "." / ".." / tmp_path.name / pairs.name}
    more = ("--pairs", tmp_path / "dev.jsonl") if form == "one of two" else ()
    data = tmp_path if form == "folder" else pairs

    ran = finetune(elmer, *more, "--held-out", held.get(form, pairs), data=data)

    refused(ran, "is among --pairs, so that nothing would be held out", "--held-out-split")


def test_random_weights_need_only_a_configuration(finetune, elmer, tmp_path):
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(f"{elmer}/{name}", tmp_path / "bare")

    result_of(finetune(tmp_path / "bare", "--json", "--from-scratch", to=tmp_path / "one"))
    result_of(finetune(tmp_path / "bare", "--json", "--from-scratch", to=tmp_path / "two"))
    refused = finetune(tmp_path / "bare", to=tmp_path / "other")

    one, two = (load_file(tmp_path / each / "model.safetensors") for each in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)  # the same seed, all the same
    assert refused.code == 2
    assert refused.err.count("\n") == 1
    assert "--from-scratch" in refused.err
    as_elmer = finetune(f"elmer:{tmp_path / 'bare'}", "--from-scratch", to=tmp_path / "other")
    assert (as_elmer.code, as_elmer.err.count("\n")) == (2, 1)
    assert "says how weights are read, --from-scratch reads none" in as_elmer.err


def test_bart_is_trained_by_the_same_command(finetune, make_folder):
    bart = make_folder("bart", template=None, seed=8)

    result = result_of(finetune(bart, "--json", "--metrics", "chrf", "--metric", "chrf"))

    assert result["metric"] == "chrf"


def test_a_bart_starts_an_elmer_where_it_is_said_so(finetune, make_folder, tmp_path):
    bart = make_folder("bart", template=None, seed=8)
    named = shutil.copytree(bart, tmp_path / "Elmer-start")

    said = finetune(f"elmer:{named}", "--json", to=tmp_path / "elmer")
    silent = finetune(named, "--json", to=tmp_path / "bart")

    kinds = [
        json.loads((tmp_path / each / "config.json").read_text()) for each in ("elmer", "bart")
    ]
    assert [each["model_type"] for each in kinds] == ["elmer", "bart"]
    assert kinds[0]["canvas_slack"] is True
    assert result_of(said)["pairs"] == result_of(silent)["pairs"] == 8
    assert "says that it is a BART" not in said.err
    assert f"{named} says that it is a BART, and is read as one" in silent.err


def test_a_finished_training_that_is_started_again_does_no_step(finetune, elmer):
    first = result_of(finetune(elmer, "--json"))
    again = result_of(finetune(elmer, "--json"))

    assert again == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--metric", "rougeL"), "--metric rougeL needs --metrics"),
        (("--batch-size", 0), "batch_size must be at least 1"),
        (("--target-file", "x.txt"), "give one for each --pairs file and, last"),
        (("--source-column", "text"), "pairs.jsonl, line 1: a pair needs text in text and target"),
        (("--held-out", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--split", "test"), "files have no split, got 'test'"),
        (("--held-out-split", "test"), "files have no split, got 'test'"),
        (
            ("--held-out-split", "x", "--target-file", "a", "--target-file", "b"),
            "--held-out-split x is for data sets and folders, and --target-file for files",
        ),
    ],
)
def test_mistakes_are_one_line(finetune, elmer, arguments, message):
    ran = finetune(elmer, *arguments)

    assert ran.code == 2
    assert message in ran.err
    assert ran.err.count("\n") == 1


def test_a_hub_that_cannot_be_reached_keeps_the_result_and_losses_are_written(
    finetune, elmer, tmp_path
):
    ran = finetune(elmer, "--log-to", "tensorboard", "--push-to-hub", "me/elmer", "--json")

    assert ran.code == 2
    assert ran.results[0]["output"] == str(tmp_path / "out")
    assert ran.err.splitlines()[-1].startswith("error: cannot push")
    assert list((tmp_path / "out").glob("runs/**/events*"))


def test_a_decoder_only_model_is_refused(finetune, folder):
    ran = finetune(folder)

    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "decoder only" in ran.err


def test_the_help_has_the_example(offramp):
    ran = offramp("finetune", "--help")

    assert " ".join(EXAMPLE.split()) in " ".join(ran.out.split())
