"""Systems stand side by side, each compared with the first."""

import json

import pytest

import tiny
from offramp.evaluation.pace import Race
from offramp.evaluation.seq2seq import Writer, WriteSettings, Written
from offramp.evaluation.seq2seq_report import report_of
from offramp.evaluation.text_metrics import TextSettings

REFERENCES = [["a b"], ["c"], ["d e f"]]
SETTINGS = TextSettings(metrics=("errors",), samples=100)


def written(*texts, finished=True):
    return [Written(text=each, tokens=(5, 2), finished=finished) for each in texts]


@pytest.fixture
def writers(byte_tokenizer):
    model = tiny.model_of("bart", vocab_size=3 + 256)
    settings = WriteSettings(max_new_tokens=2, batch_size=2)
    return {name: Writer(model, byte_tokenizer, settings) for name in ("one", "two")}


def test_others_are_compared_with_the_first(writers):
    texts = {"one": written("a b", "x", "y", finished=False), "two": written("a b", "c", "y")}

    report = report_of(writers, texts, REFERENCES, settings=SETTINGS)

    first, other = report.systems
    assert (first.name, first.against_first) == ("one", None)
    assert (first.unfinished, other.unfinished) == (1, 0)
    (exact, *_) = other.against_first
    assert (exact.name, exact.value) == ("exact_match", pytest.approx(1 / 3))
    assert first.parameters == sum(x.numel() for x in writers["one"].model.parameters())
    assert first.decoding == "greedy"


def test_json_says_what_a_score_is_once(writers):
    texts = {name: written("a b", "c", "y") for name in writers}
    paces = Race(writers).run(["a"], rows=5)

    report = report_of(writers, texts, REFERENCES, settings=SETTINGS, paces=paces)
    told = json.loads(json.dumps(report.as_json()))

    assert told["rows"] == 3
    assert told["intervals"] == {"confidence": 0.95, "samples": 100, "seed": 0}
    assert set(told["scores"]["exact_match"]) == {"flavour", "unit", "better"}
    first, other = told["models"]
    assert first["scores"]["exact_match"]["value"] == pytest.approx(2 / 3)
    assert first["against_first"] is None
    assert other["against_first"]["exact_match"] == {
        "value": 0,
        "low": 0,
        "high": 0,
        "p_value": 1,
    }
    assert first["one_pass"] is None
    assert other["speed"]["latency_ratio"]["median"] > 0
