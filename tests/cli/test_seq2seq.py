"""``offramp evaluate --pairs`` scores what encoder-decoders write, side by side."""

import json
import shutil

import pytest
import torch

from offramp.cli.seq2seq_loading import find_source
from offramp.evaluation.seq2seq import Writer, WriteSettings
from offramp.evaluation.text_metrics import TextSettings, measure_texts

PAIRS = [
    {"source": "a ferry carries cars", "target": "boats carry cars"},
    {"source": "b", "target": "c", "targets": ["c", "d e"]},
    {"source": "the longest of the sources here", "target": "the longest"},
    {"source": "one", "target": "uno"},
    {"source": "two", "target": "due"},
]
QUICK = ("--max-new-tokens", 8, "--samples", 0, "--metrics", "errors,diversity,chrf")


@pytest.fixture(scope="module")
def elmer(make_elmer):
    return make_elmer()


@pytest.fixture(scope="module")
def bart(make_folder):
    return make_folder("bart", template=None, seed=8)


@pytest.fixture
def pairs(write):
    return write("pairs.jsonl", "".join(json.dumps(each) + "\n" for each in PAIRS))


@pytest.fixture
def evaluate(offramp, pairs):
    """Run ``offramp evaluate`` on the pairs."""

    def run(*arguments, models=(), file=pairs):
        named = [part for each in models for part in ("--model", each)]
        return offramp("evaluate", "--pairs", file, *named, *arguments)

    return run


def found(ran):
    assert (ran.code, ran.err) == (0, ""), ran
    (result,) = ran.results
    return result


@pytest.mark.parametrize("kind", ["elmer", "bart", "t5"])
def test_scores_are_those_of_what_the_library_writes(evaluate, make_folder, elmer, bart, kind):
    folder = {"elmer": elmer, "bart": bart}.get(kind) or make_folder("t5", template=None)
    settings = WriteSettings(max_new_tokens=8)
    writer = find_source(folder).load(settings, dtype="auto", device="cpu")
    texts = writer.write_all([each["source"] for each in PAIRS])
    right = [list(dict.fromkeys([x["target"], *x.get("targets", [])])) for x in PAIRS]
    measured = measure_texts([each.text for each in texts], right, TextSettings())

    result = found(evaluate("--json", "--max-new-tokens", 8, models=[folder]))

    (model,) = result["models"]
    assert result["rows"] == 5
    assert model["model"] == folder
    assert model["against_first"] is None
    assert model["speed"] is None
    for score in measured.scores():
        said = model["scores"][score.name]
        assert said == {"value": score.value, "low": score.low, "high": score.high}
        assert result["scores"][score.name]["flavour"] == score.flavour
    assert (model["one_pass"] is None) == (kind != "elmer")


def test_exits_of_elmer_are_counted(evaluate, elmer):
    early = ("--early-exit", "top_probability:0.1")
    result = found(evaluate("--json", *QUICK, *early, models=[elmer]))

    one_pass = result["models"][0]["one_pass"]
    assert list(one_pass["exits"]) == ["1", "2", "3", "4"]
    assert 1 < one_pass["mean_exit"] < 4
    assert 0 < one_pass["run"] < 1
    assert result["models"][0]["decoding"].startswith("one pass, exit_rule top_probability")


def test_several_models_stand_in_one_table_with_differences(evaluate, elmer, bart):
    result = found(evaluate("--json", "--beams", 2, "--max-new-tokens", 8, models=[bart, elmer]))
    first, other = result["models"]

    assert first["decoding"] == "2 beams"
    assert other["decoding"] == "one pass"
    for name, difference in other["against_first"].items():
        value = other["scores"][name]["value"] - first["scores"][name]["value"]
        assert difference["value"] == pytest.approx(value)
    assert set(other["against_first"]["bleu"]) == {"value", "low", "high", "p_value"}


def test_the_table_names_scores_flavours_and_models(evaluate, elmer, bart):
    ran = evaluate("--max-new-tokens", 8, models=[bart, elmer])

    assert (ran.code, ran.err) == (0, "")
    for words in ("5 pairs", "rouge1", "bleu", "chrf", "exact match %", "token error rate %"):
        assert words in ran.out
    for words in ("rouge-score 0.", "stemmer on", "nrefs:var", "exit 1 %", "mean exit", "canvas"):
        assert words in ran.out
    assert "less" in ran.out
    assert "1000 draws" in ran.out
    assert "ms alone" not in ran.out


def test_times_are_shown_when_asked_for(evaluate, elmer, bart):
    timed = ("--time", 5, "--batch", 2)
    result = found(evaluate("--json", *QUICK, *timed, models=[bart, elmer]))
    table = evaluate(*QUICK, *timed, models=[bart, elmer])

    first, other = (each["speed"] for each in result["models"])
    assert first["latency"] > 0
    assert first["latency_ratio"]["median"] == 1
    assert other["latency_ratio"]["median"] > 0
    assert (other["rows"], other["batch_size"]) == (5, 2)
    assert "ms alone" in table.out
    assert "texts/s at 2" in table.out


def test_scores_can_be_chosen(evaluate, bart):
    options = "--metrics rouge,bleu --no-stemmer --bleu-tokenizer char --lowercase --samples 0"
    result = found(evaluate("--json", *options.split(), "--limit", 2, models=[bart]))

    assert result["rows"] == 2
    assert list(result["scores"]) == ["rouge1", "rouge2", "rougeL", "rougeLsum", "bleu"]
    assert "stemmer off" in result["scores"]["rouge1"]["flavour"]
    assert "case:lc" in result["scores"]["bleu"]["flavour"]
    assert "tok:char" in result["scores"]["bleu"]["flavour"]
    assert result["models"][0]["scores"]["bleu"]["low"] is None


def test_texts_are_kept_in_a_file(evaluate, elmer, bart, tmp_path):
    path = tmp_path / "out.jsonl"

    ran = evaluate(*QUICK, "--out", path, models=[bart, elmer])

    assert ran.code == 0
    assert ran.err == f"10 texts in {path}, 10 of them new\n"
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert sorted(each["index"] for each in lines) == list(range(10))
    by_place = {(each["model"], each["row"]): each for each in lines}
    assert by_place[bart, 1]["references"] == ["c", "d e"]
    assert by_place[elmer, 0]["source"] == "a ferry carries cars"
    assert len(by_place[elmer, 0]["exits"]) == len(by_place[elmer, 0]["tokens"])
    assert by_place[bart, 0]["exits"] is None


def test_an_interrupted_run_keeps_what_is_written_and_goes_on(
    evaluate, elmer, bart, tmp_path, monkeypatch
):
    path, write = tmp_path / "out.jsonl", Writer.write
    options = (*QUICK, "--json", "--batch", 2, "--out", path)
    whole = found(evaluate(*QUICK, "--json", "--batch", 2, models=[bart, elmer]))
    calls = []

    def stopped(self, sources, **more):
        calls.append(len(sources))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return write(self, sources, **more)

    monkeypatch.setattr(Writer, "write", stopped)
    ran = evaluate(*options, models=[bart, elmer])
    assert ran.code == 130
    assert f"7 of 10 texts are in {path}; the same command goes on from there" in ran.err
    calls.clear()

    assert found(evaluate(*options, models=[bart, elmer])) == whole
    assert calls == [2, 1]


def test_a_file_of_other_settings_is_not_touched(evaluate, bart, tmp_path, refused):
    path = tmp_path / "out.jsonl"
    evaluate(*QUICK, "--out", path, models=[bart])

    refused(evaluate(*QUICK, "--beams", 2, "--out", path, models=[bart]), "other settings")
    again = evaluate(*QUICK, "--beams", 2, "--out", path, "--overwrite", models=[bart])
    assert again.code == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no pair"),
        ('{"source": "a", "target": "b"}\n{"target": "b"}', 'line 2: there is no "source"'),
        ('{"source": "a"}', 'line 1: there is no "target"'),
        ('{"source": "a", "target": "b"}\nnonsense', "line 2: not JSON"),
        ('{"source": " ", "target": "b"}', "line 1: a source or target"),
        (json.dumps({"source": "x" * 129, "target": "b"}), "line 1: the source has 129 tokens"),
    ],
)
def test_pairs_that_cannot_be_used_are_named(evaluate, refused, write, bart, content, said):
    refused(evaluate(models=[bart], file=write("bad.jsonl", content)), "bad.jsonl", said)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--metrics meteor", "metrics must be some of rouge, bleu, chrf, errors, diversity"),
        ("--bleu-tokenizer moses --metrics bleu", "must be one of 13a"),
        ("--samples 5", "samples must be 0 or at least 100"),
        ("--max-new-tokens 999", "max_new_tokens is 999, the model's context 128"),
        ("--contrast original:2", "--contrast original:2 does not go with --pairs"),
        ("--data a.txt", "--data a.txt does not go with --pairs"),
        ("--picture a.svg", "--picture a.svg does not go with --pairs"),
        ("--early-exit entropy:0.9", "--early-exit entropy:0.9 is for ELMER models"),
        ("--collapse-repeats", "--collapse-repeats is for ELMER models"),
        ("--length-penalty 2", "belongs to beams; add --num-beams 4"),
        ("--overwrite", "--overwrite belongs to --output"),
        ("--out no/such/folder/out.jsonl", "there is no folder"),
    ],
)
def test_options_that_cannot_be_are_refused(evaluate, refused, bart, options, said):
    refused(evaluate(*options.split(), models=[bart]), said)


def test_models_that_cannot_be_are_refused(evaluate, refused, folder, bart, elmer, tmp_path):
    refused(evaluate(models=[folder]), "is a decoder only (llama)", "ELMER, BART or T5")
    refused(evaluate(), "--pairs needs an encoder-decoder")
    refused(evaluate(models=[bart, bart]), "named twice")
    refused(evaluate(models=[tmp_path]), "holds no config.json")
    refused(evaluate(models=["./nowhere"]), "is no folder, nor a hub name")
    refused(evaluate("--beams", 3, models=[elmer]), "means nothing to ELMER models")


def test_weights_in_bart_s_format_are_read_as_elmer_s_where_it_is_said_so(evaluate, bart):
    result = found(evaluate("--json", *QUICK, models=[bart, f"elmer:{bart}"]))

    first, other = result["models"]
    assert (first["model"], other["model"]) == (bart, f"elmer:{bart}")
    assert first["one_pass"] is None
    assert list(other["one_pass"]["exits"]) == ["1", "2", "3", "4"]
    assert (first["decoding"], other["decoding"]) == ("greedy", "one pass")


@pytest.mark.parametrize("place", ["my-ELMER", "elmer/checkpoint-3"])
def test_a_bart_that_is_called_an_elmer_is_remarked_on(evaluate, bart, tmp_path, place):
    named = tmp_path / place
    shutil.copytree(bart, named)

    ran = evaluate("--json", *QUICK, models=[named])
    said = evaluate("--json", *QUICK, models=[f"elmer:{named}"])

    assert ran.code == 0
    assert ran.err == (
        f"{named} says that it is a BART, and is read as one, token by token; if it holds ELMER's "
        f"weights, name it elmer:{named}\n"
    )
    assert found(said)["models"][0]["decoding"] == "one pass"


def test_what_cannot_be_read_as_elmer_is_refused(evaluate, refused, make_folder, folder, elmer):
    t5 = make_folder("t5", template=None)

    refused(evaluate(models=[f"elmer:{t5}"]), "is a t5, which cannot be read as ELMER")
    refused(evaluate(models=[f"elmer:{folder}"]), "is a decoder only (llama)")
    refused(evaluate(models=["elmer:./nowhere"]), "is no folder, nor a hub name")
    refused(evaluate(models=["elmer:"]), "is no folder, nor a hub name")
    assert found(evaluate("--json", *QUICK, models=[f"elmer:{elmer}"]))["rows"] == 5


def test_files_that_cannot_be_are_refused(evaluate, refused, bart, pairs, tmp_path):
    refused(evaluate(models=[bart], file=tmp_path / "no.jsonl"), "cannot read", "No such file")
    refused(evaluate("--out", pairs, models=[bart]), "is the file of prompts")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("", "--data, or pairs for encoder-decoders by --pairs"),
        ("--data a.txt --model one --model two", "got 2 models (one, two)"),
        ("--data a.txt --num-beams 2", "--num-beams 2 belongs to --pairs"),
        ("--data a.txt --out a.jsonl", "--output a.jsonl belongs to --pairs"),
        ("--data a.txt --canvas-length 2", "--canvas-length 2 belongs to --pairs"),
    ],
)
def test_a_text_takes_one_model_and_no_option_of_pairs(offramp, refused, options, said):
    refused(offramp("evaluate", *options.split()), said)


@pytest.mark.parametrize(
    ("dtype", "loaded"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_a_shipped_model_runs_in_float32_unless_told_otherwise(dtype, loaded):
    writer = find_source("elmer-g2p").load(WriteSettings(), dtype=dtype, device="cpu")

    assert {each.dtype for each in writer.model.parameters()} == {loaded}


def test_a_shipped_model_is_called_as_the_user_named_it(evaluate):
    result = found(evaluate("--json", *QUICK, models=["elmer-g2p"]))

    assert [each["model"] for each in result["models"]] == ["elmer-g2p"]
