"""``offramp trace`` shows the library's trace, in every form, and refuses the rest in one line."""

import json

import pytest
from transformers import AutoTokenizer

from offramp import (
    AutoMultiExitModel,
    Contrast,
    ElmerForConditionalGeneration,
    OneShot,
    attach_exits,
)
from offramp.cli.trace import EXAMPLE
from offramp.trace.record import Trace

TEXT = "a ferry"


@pytest.fixture
def trace(offramp, folder):
    """Run ``offramp trace`` on the tiny Llama."""

    def run(*arguments, model=folder, **options):
        return offramp("trace", "--model", model, *arguments, **options)

    return run


@pytest.fixture(scope="module")
def library(folder):
    """Trace by the library."""
    model = attach_exits(AutoMultiExitModel.from_pretrained(folder), (1, 2, 3), "direct")
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def run(text, **options):
        return model, model.trace(text, tokenizer=tokenizer, **options)

    return run


def values(ran):
    assert (ran.code, ran.err) == (0, ""), ran
    (content,) = ran.results
    return content


def without_model(content):
    return {name: value for name, value in content.items() if name != "model"}


def test_json_is_the_library_s_trace(trace, library, folder):
    content = values(trace(TEXT, "--json", "--contrast", "original:2", "--top", 2))

    _, found = library(TEXT, top=2, decoding=Contrast(lower=2))
    assert without_model(content) == without_model(json.loads(found.to_json()))
    assert content["model"] == folder


def test_a_text_is_gone_on_with_by_the_same_rule(trace, library):
    content = values(trace(TEXT, "--json", "--max-new-tokens", 4, "--contrast", "3:1"))

    tokens = [each["token"]["id"] for each in content["positions"]]
    changed = [each["changed"]["after"]["token"]["id"] for each in content["positions"]]
    assert len(tokens) == len(TEXT) + 4
    assert tokens[-4:] == changed[-5:-1]


def test_a_window_and_exits_narrow_what_is_traced(trace):
    content = values(trace(TEXT, "--json", "--window", "2:4", "--exits", "1;3"))

    assert [each["index"] for each in content["positions"]] == [2, 3]
    assert [each["exit"] for each in content["exits"]] == [1, 3, "original"]
    assert content["length"] == len(TEXT)


def test_the_table_shows_the_end_of_a_long_text_and_says_so(trace):
    ran = trace("x" * 70, "--exits", "2")

    assert ran.code == 0
    assert ran.err == "the last 64 of 70 positions; --window 0: shows all\n"
    assert "\x1b" not in ran.out
    assert "64 of 70 positions" in ran.out
    assert all(len(line) <= 160 for line in ran.out.splitlines()[1:])


def test_standard_input_is_the_text(trace):
    assert "7 of 7 positions" in trace(stdin=TEXT.encode()).out


@pytest.mark.parametrize("ending", ["html", "json", "svg", "png"])
def test_a_file_is_written_and_a_saved_trace_is_shown_again(offramp, trace, tmp_path, ending):
    saved, path = tmp_path / "trace.json", tmp_path / f"again.{ending}"
    ran = trace(TEXT, "--output", saved)
    assert (ran.code, ran.out, "7 positions by 4 exits" in ran.err) == (0, "", True)

    again = offramp("trace", "--load", saved, "--output", path, "--json", "--window", "1:3")

    assert values(again) == {
        "output": str(path),
        "positions": 2,
        "exits": [1, 2, 3, "original"],
    }
    assert path.stat().st_size > 1000
    if ending == "json":
        assert [each.index for each in Trace.load(path).positions] == [1, 2]


def test_an_elmer_model_shows_its_canvas(offramp, make_elmer):
    folder = make_elmer()
    rule = ("--early-exit", "entropy:0.4")

    content = values(offramp("trace", TEXT, "--model", folder, *rule, "--json"))

    model = ElmerForConditionalGeneration.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = model.trace(
        TEXT, tokenizer=tokenizer, decoding=OneShot(exit_rule="entropy", threshold=0.4)
    )
    assert without_model(content) == without_model(json.loads(found.to_json()))
    assert content["kind"] == "canvas"


def test_an_encoder_decoder_writes_what_is_traced(trace, make_folder):
    content = values(trace(TEXT, "--json", "--max-new-tokens", 3, model=make_folder("t5")))

    assert [each["text"] for each in content["source"]] == list(TEXT)
    assert 1 < len(content["positions"]) <= 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--window", "3"], "--window takes two positions"),
        (["--window", "50:60"], "no position is left of the 7"),
        (["--exits", "9"], "exit 9 does not exist"),
        (["--measure", "loudness"], "use one of probability"),
        (["--output", "trace.pdf"], ".html, .svg, .png"),
        (["--output", "nowhere/trace.html"], "there is no folder nowhere"),
        (["--load", "trace.json"], "leave out the text"),
        (["--early-exit", "gate"], "is for ELMER models here"),
        (["--max-new-tokens", "200"], "--max-new-tokens 121 or less"),
        (["--contrast", "original:0"], "exit 0 is not attached"),
    ],
)
def test_what_cannot_be_traced_is_refused(trace, refused, arguments, words):
    refused(trace(TEXT, *arguments), words)


def test_a_window_that_a_saved_trace_does_not_hold_is_refused(offramp, trace, refused, tmp_path):
    trace(TEXT, "--output", tmp_path / "trace.json", "--window", "0:3")

    ran = offramp("trace", "--load", tmp_path / "trace.json", "--window", "5:")

    refused(ran, "no position from 5 to 7 of 7")


def test_a_file_that_is_no_trace_is_refused(offramp, refused, write):
    refused(offramp("trace", "--load", write("no.json", "{}")), "this is no trace of offramp")
    refused(offramp("trace", "--load", "none.json"), "cannot read none.json")


def test_help_has_an_example_and_explains_the_window(offramp):
    ran = offramp("trace", "--help")

    assert ran.code == 0
    assert EXAMPLE.split(" --")[0].split("'")[0] in ran.out
    assert "--window" in ran.out
