"""``offramp calibrate`` finds settings that hold, keeps them with the exits, refuses the rest."""

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from offramp import AutoMultiExitModel, EarlyExit, SelfSpeculation, attach_exits
from offramp.blocks.projections import add_gate_
from offramp.cli.calibrate import EXAMPLE
from offramp.models.calibration import FILE
from offramp.models.checkpoint import TABLE


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of data sets that ends with the test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def _saved(model, folder, path):
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def early(folder, tmp_path_factory):
    """A model whose blocks above the second do nothing, so that exit 2 knows every answer."""
    model = AutoMultiExitModel.from_pretrained(folder)
    for block in model.model.layers[2:]:
        torch.nn.init.zeros_(block.self_attn.o_proj.weight)
        torch.nn.init.zeros_(block.mlp.down_proj.weight)
    attach_exits(model, (1, 2, 3), "direct")
    for exit in (1, 2, 3):
        gate = add_gate_(model.exits[str(exit)], model.anatomy, exit)
        torch.nn.init.constant_(gate.linear.bias, -9.0 if exit == 1 else 3.0)
    return _saved(model, folder, tmp_path_factory.mktemp("early"))


@pytest.fixture(scope="module")
def clueless(folder, tmp_path_factory):
    """A model whose exits have gates that know nothing."""
    model = attach_exits(AutoMultiExitModel.from_pretrained(folder), (1, 2, 3), "direct")
    for exit in (1, 2, 3):
        gate = add_gate_(model.exits[str(exit)], model.anatomy, exit)
        torch.nn.init.normal_(gate.linear.weight)
    return _saved(model, folder, tmp_path_factory.mktemp("clueless"))


@pytest.fixture
def pairs(write):
    """120 questions and answers of two lengths."""
    rows = [
        {"prompt": f"What is {n}? ", "completion": f"{n} is {'odd' if n % 2 else 'even'}."}
        for n in range(120)
    ]
    return write("pairs.jsonl", "\n".join(map(json.dumps, rows)))


@pytest.fixture
def calibrate(offramp, tmp_path):
    def run(model, data, *arguments, output=tmp_path / "found"):
        where = ("--model", model, "--data", data, "--output", output)
        return offramp("calibrate", *where, *arguments)

    return run


def found(ran):
    assert ran.code == 0, ran
    (result,) = ran.results
    return result


def test_early_answers_save_blocks_and_are_used_by_default(calibrate, early, pairs, tmp_path):
    result = found(calibrate(early, pairs, "--no-timing", "--json"))

    first = result["early_exit"][0]
    assert [each["bound"] for each in result["early_exit"]] == [0.05, 0.1, 0.02]
    assert (first["usable"], first["risk"], first["num_texts"]) == (True, 0.0, 80)
    assert 0.4 < first["saved"] < 0.5  # all tokens but the first leave at exit 2 of 4
    assert first["held_out"]["risk"] == 0
    assert first["held_out"]["num_texts"] == 40
    assert 0.4 < first["held_out"]["saved"] < 0.5
    assert result["timing"] is None
    assert result["speculation"] is None

    model = AutoMultiExitModel.from_pretrained(early, exits=tmp_path / "found")
    ids = torch.tensor([[70, 71, 72]])
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    output = model.generate(ids, decoding=EarlyExit(), return_dict_in_generate=True, **options)
    assert output.exits[0].tolist() == [4, *[2] * 7]
    plain = model.generate(ids, **options)
    assert output.sequences.tolist() == plain.tolist()


def test_exits_that_were_chosen_are_the_only_ones_asked(calibrate, early, pairs, tmp_path):
    result = found(calibrate(early, pairs, "--no-timing", "--json", "--exits", "3"))

    assert result["early_exit"][0]["exits"] == [3]
    model = AutoMultiExitModel.from_pretrained(early, exits=tmp_path / "found")
    ids = torch.tensor([[70, 71, 72]])
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    output = model.generate(ids, decoding=EarlyExit(), return_dict_in_generate=True, **options)
    assert output.exits[0].tolist() == [4, *[3] * 7]
    assert EarlyExit(min_exit=3).answering(model) == EarlyExit(min_exit=2).answering(model) == (3,)
    assert EarlyExit(exits=(2, 3)).calibrated(model) is None
    assert EarlyExit(threshold=0.5).answering(model) == (1, 2, 3)


def test_a_metric_of_whole_texts_is_promised_and_used(
    calibrate, early, pairs, tmp_path, monkeypatch
):
    monkeypatch.setattr("offramp.evaluation.text_risk.THRESHOLDS", (0.9, 0.1))
    chosen = ("--metric", "chrf", "--max-new-tokens", 4, "--batch-size", 40, "--no-timing")
    result = found(calibrate(early, pairs, *chosen, "--json"))

    (only,) = result["early_exit"]
    assert (only["metric"], only["usable"], only["risk"]) == ("chrf", True, 0.0)
    assert (only["num_texts"], only["held_out"]["num_texts"]) == (80, 40)
    assert only["held_out"]["risk"] == 0.0
    assert 0.3 < only["saved"] < 0.4  # three of four tokens leave at exit 2 of 4
    model = AutoMultiExitModel.from_pretrained(early, exits=tmp_path / "found")
    assert model.calibration.thresholds("gate") == dict(
        zip((1, 2, 3), only["thresholds"], strict=True)
    )
    told = calibrate(early, pairs, *chosen, output=tmp_path / "told").out
    assert "chrf less 0.05" in told


def test_gates_that_know_nothing_give_no_threshold_that_saves_much(calibrate, clueless, pairs):
    ran = calibrate(clueless, pairs, "--no-timing", "--json")

    (result,) = ran.results
    assert ran.code == 0
    for each in result["early_exit"]:
        assert each["held_out"]["risk"] <= each["bound"] + each["held_out"]["margin"]
        assert each["saved"] < 0.2


def test_too_few_texts_are_said_and_kept_as_not_usable(calibrate, early, write, tmp_path):
    row = json.dumps({"prompt": "one ", "completion": "uno dos"})

    ran = calibrate(early, write("few.jsonl", row), "--no-timing", "--json", "--held-out", 0)

    assert ran.code == 0
    assert "early exit is not usable: 1 texts cannot show a risk below 0.05" in ran.err
    kept = json.loads((tmp_path / "found" / FILE).read_text("utf-8"))
    assert [each["usable"] for each in kept["early_exit"]] == [False] * 3
    assert kept["early_exit"][0]["held_out"] is None
    model = AutoMultiExitModel.from_pretrained(early, exits=tmp_path / "found")
    assert model.calibration.thresholds("gate") is None


def test_ways_to_decode_are_timed_and_the_winner_is_judged(calibrate, early, pairs, tmp_path):
    result = found(calibrate(early, pairs, "--rounds", 5, "--max-new-tokens", 6, "--json"))

    names = [each["name"] for each in result["timing"]]
    assert names[:2] == ["transformers", "plain"]
    assert names[-1] == "early exit"
    assert len(names) == 5
    drafts = result["speculation"]
    assert drafts["used"] == (drafts["low"] > 1)
    assert result["early_exit"][0]["speed"].keys() == {"median", "low", "high"}
    model = AutoMultiExitModel.from_pretrained(early, exits=tmp_path / "found")
    settled = SelfSpeculation().settled(model)
    assert (settled.draft_exit == drafts["draft_exit"]) == drafts["used"]


def test_a_table_says_what_was_found(calibrate, early, pairs, tmp_path):
    ran = calibrate(early, pairs, "--rounds", 5, "--max-new-tokens", 4)

    assert ran.code == 0, ran
    for words in (
        "80 texts of calibration",
        "40 kept back",
        "95 %",
        "98 %",
        "used by EarlyExit()",
        "transformers' generate",
        "self-speculation: exit",
        "than plain decoding here",
        str(tmp_path / "found" / FILE),
    ):
        assert words in ran.out, words


def test_what_is_slower_is_reported_and_not_used(calibrate, early, pairs, monkeypatch):
    monkeypatch.setattr("offramp.cli.trials.fastest", _slower)

    ran = calibrate(early, pairs, "--rounds", 5, "--max-new-tokens", 4)

    assert "slower: not used" in ran.out


def _slower(timings, names):
    return next((each for each in timings if each.name in names), None), False


def test_the_seed_decides_and_nothing_else_does(calibrate, clueless, pairs, tmp_path):
    run = ("--no-timing", "--json")
    one, two, other = (
        found(calibrate(clueless, pairs, *run, "--seed", seed, output=tmp_path / str(place)))
        for place, seed in enumerate((0, 0, 1))
    )

    assert one["early_exit"] == two["early_exit"]
    assert one["early_exit"] != other["early_exit"]


def test_exits_are_copied_as_they_are_and_found_again(calibrate, early, pairs, tmp_path):
    found(calibrate(early, pairs, "--no-timing", "--json"))
    again = found(calibrate(early, pairs, "--no-timing", "--json"))
    own = found(calibrate(early, pairs, "--no-timing", "--json", output=early))

    copied = (tmp_path / "found" / TABLE).read_bytes()
    assert copied == Path(early, TABLE).read_bytes()
    assert again["early_exit"] == own["early_exit"]
    assert AutoMultiExitModel.from_pretrained(early).calibration is not None


def test_a_plain_checkpoint_is_calibrated_by_its_scores(calibrate, folder, pairs, tmp_path):
    run = ("--rule", "top_gap", "--no-timing", "--json")

    result = found(calibrate(folder, pairs, *run))

    assert result["early_exit"][0]["exits"] == [1, 2, 3]
    model = AutoMultiExitModel.from_pretrained(folder, exits=tmp_path / "found")
    assert model.calibration.early_exit[0].rule == "top_gap"


def test_the_model_writes_the_text_itself(calibrate, early, write, tmp_path):
    asked = write("prompts.txt", "a ferry\na bridge\n")
    run = ("--self-tokens", 60, "--prompts", asked, "--no-timing", "--json")

    result = found(calibrate(early, "self", *run))

    lines = (tmp_path / "found" / "calibration-text.jsonl").read_text("utf-8").splitlines()
    assert len([line for line in lines if "completion" in line]) >= 2
    first = result["early_exit"][0]
    assert first["num_texts"] + first["held_out"]["num_texts"] == 2  # answers of a prompt are one


def test_the_best_contrast_is_looked_for_where_it_is_asked(calibrate, folder, pairs):
    run = ("--rule", "top_gap", "--no-timing", "--contrast")

    result = found(calibrate(folder, pairs, *run, "--json"))
    ran = calibrate(folder, pairs, *run)

    assert result["contrast"]["lower"] in (1, 2, 3)
    assert f"contrast original:{result['contrast']['lower']}" in ran.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--bound", 0), ("--bound", "got 0.0")),
        (("--confidence", 1), ("--confidence", "got 1.0")),
        (("--held-out", 1), ("--held-out", "got 1.0")),
        (("--self-tokens", 5), ("--self-tokens belongs to --data self",)),
        (("--rounds", 4), ("--rounds", "5")),
        (("--rule", "patience"), ("--rule", "patience")),
        (("--exits", "2;4"), ("exit 4 is not attached", "1, 2, 3")),
        (("--metric", "taste"), ("--metric", "taste", "rougeL")),
        (("--exits", "two"), ("got 'two'",)),
    ],
)
def test_options_out_of_range_are_refused(calibrate, early, pairs, refused, arguments, words):
    refused(calibrate(early, pairs, *arguments), *words)


def test_what_cannot_be_calibrated_is_refused(calibrate, early, folder, pairs, refused, write):
    refused(calibrate(folder, pairs), "no exit of this model has a gate", "top_gap")
    refused(calibrate(early, "self", "--metric", "chrf"), "--metric chrf needs pairs")
    prose = write("prose.txt", "No prompt, no completion.")
    refused(calibrate(early, prose, "--metric", "chrf"), "row 1 has no prompt or no completion")
    refused(calibrate(early, "self", "--contrast"), "--contrast needs text of people")
    refused(calibrate(early, write("empty.txt", "")), "empty.txt")
    refused(calibrate(early, pairs, output=write("file", "")), "is not a folder")
    refused(calibrate(early, pairs, early), "named twice")


def test_a_folder_of_other_exits_is_refused(calibrate, early, clueless, pairs, refused):
    refused(calibrate(early, pairs, output=clueless), "holds other exits")


def test_a_stale_file_beside_the_exits_is_refused(calibrate, early, pairs, refused, tmp_path):
    found(calibrate(early, pairs, "--no-timing", "--json"))
    kept = tmp_path / "found" / FILE
    kept.write_text(kept.read_text("utf-8").replace('"exits_hash": "', '"exits_hash": "0'), "utf-8")

    ran = calibrate(early, pairs, "--no-timing", "--exits-from", tmp_path / "found")

    refused(ran, "was measured for other exits", "delete it")


def test_a_bar_is_shown_on_a_terminal(calibrate, early, pairs, terminal, monkeypatch):
    read, screen = terminal
    monkeypatch.setattr(sys, "stderr", screen)

    calibrate(early, pairs, "--no-timing")

    assert "120/120" in read()


def test_help_has_an_example_and_every_option_a_text(offramp):
    out = offramp("calibrate", "--help").out

    assert EXAMPLE.split(": ")[1].split(" --bound")[0] in " ".join(out.split())
    for option in ("--bound", "--confidence", "--rule", "--prompts", "--no-timing", "--output"):
        assert option in out
