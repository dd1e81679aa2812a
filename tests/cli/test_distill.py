"""``offramp distill-data`` as a user runs it."""

import json
import multiprocessing
import time

import pytest

from offramp.cli import main
from offramp.cli.distill import EXAMPLE
from offramp.cli.seq2seq_loading import find_source
from offramp.evaluation.seq2seq import Writer, WriteSettings

SOURCES = ["a ferry carries cars", "b", "the longest of the sources here", "one", "two", "a car"]
PAIRS = [{"source": text, "target": f"{text[::-1]} ."} for text in SOURCES]
SHORT = ("--max-new-tokens", 8, "--batch-size", 2)


@pytest.fixture(scope="module")
def bart(make_folder):
    return make_folder("bart", template=None, seed=8)


@pytest.fixture(scope="module")
def elmer(make_elmer):
    return make_elmer()


@pytest.fixture
def pairs(write):
    return write("pairs.jsonl", "".join(json.dumps(each) + "\n" for each in PAIRS))


@pytest.fixture
def distil(offramp, bart, pairs, tmp_path):
    """Run ``offramp distill-data`` on the pairs."""

    def run(*arguments, model=bart, to=tmp_path / "out.jsonl", short=SHORT):
        named = ("--model", model, "--pairs", pairs, "--output", to)
        return offramp("distill-data", *named, *short, *arguments)

    return run


def lines_of(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def texts_of(folder, **options):
    settings = WriteSettings(max_new_tokens=8, batch_size=2, **options)
    writer = find_source(folder).load(settings, dtype="auto", device="cpu")
    return [each.text for each in writer.write_all(SOURCES)]


@pytest.mark.parametrize(
    ("arguments", "generation"),
    [
        ((), {"num_beams": 4}),
        (("--beams", 1), {"num_beams": 1}),
        (("--beams", 2, "--length-penalty", 3.0), {"num_beams": 2, "length_penalty": 3.0}),
        (("--no-repeat-ngram-size", 2), {"num_beams": 4, "no_repeat_ngram_size": 2}),
    ],
)
def test_the_targets_are_the_teachers_texts(distil, bart, tmp_path, arguments, generation):
    ran = distil(*arguments)

    expected = texts_of(bart, generation=generation)
    found = {each["source"]: each for each in lines_of(tmp_path / "out.jsonl")}
    assert (ran.code, ran.out) == (0, "")
    assert [found[source]["target"] for source in SOURCES] == expected
    assert [found[each["source"]]["reference"] for each in PAIRS] == [x["target"] for x in PAIRS]


def test_an_elmer_model_teaches_too(distil, elmer, tmp_path):
    ran = distil("--json", model=elmer)

    expected = dict(zip(SOURCES, texts_of(elmer), strict=True))
    found = {each["source"]: each["target"] for each in lines_of(tmp_path / "out.jsonl")}
    (result,) = ran.results
    assert found == {source: text for source, text in expected.items() if text.strip()}
    assert result["decoding"] == "one pass"


def test_a_teacher_in_bart_s_format_is_read_as_elmer_where_it_is_said_so(distil, bart):
    (result,) = distil("--json", model=f"elmer:{bart}").results

    assert (result["teacher"], result["decoding"]) == (f"elmer:{bart}", "one pass")


def test_beams_mean_nothing_to_an_elmer_teacher(distil, refused, elmer, tmp_path):
    refused(distil("--beams", 4, model=elmer), "--beams 4 means nothing to an ELMER model")

    assert not (tmp_path / "out.jsonl").exists()


def test_finetune_reads_the_result(distil, offramp, elmer, pairs, tmp_path):
    assert distil("--beams", 1).code == 0
    named = ("--model", elmer, "--pairs", tmp_path / "out.jsonl", "--held-out", pairs)
    few = ("--max-steps", 1, "--eval-steps", 1, "--batch-size", 4, "--device", "cpu")

    ran = offramp("finetune", *named, *few, "--output", tmp_path / "student", "--json")

    assert ran.code == 0, ran
    assert ran.results[0]["pairs"] == len(PAIRS)


def test_the_summary_counts(distil, bart, tmp_path):
    first, again = distil("--json"), distil("--json")

    finished = [each["finished"] for each in lines_of(tmp_path / "out.jsonl")]
    common = {
        "output": str(tmp_path / "out.jsonl"),
        "teacher": bart,
        "decoding": "4 beams",
        "pairs": 6,
        "written": 6,
        "empty": 0,
        "unfinished": finished.count(False),
    }
    assert first.results == [{**common, "new": 6}]
    assert again.results == [{**common, "new": 0}]


def test_limit_reads_so_many_pairs_and_more_go_on_from_there(distil):
    few, all_of_them = distil("--json", "--limit", 2), distil("--json")

    assert few.results[0]["written"] == 2
    assert (all_of_them.results[0]["written"], all_of_them.results[0]["new"]) == (6, 4)


def test_empty_texts_are_left_out_and_counted(distil, monkeypatch, tmp_path):
    made = Writer._written

    def sometimes_nothing(self, tokens, **noted):
        written = made(self, tokens, **noted)
        return written if sum(tokens) % 2 else type(written)(text=" ", tokens=(), finished=True)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "_written", sometimes_nothing)
        ran, told = distil(), distil("--json")
        kept = lines_of(tmp_path / "out.jsonl")

    assert 0 < len(kept) < 6
    assert all(each["target"].strip() for each in kept)
    assert f"{6 - len(kept)} of 6 sources are left out: the teacher wrote nothing" in ran.err
    (result,) = told.results
    assert (result["written"], result["empty"], result["new"]) == (len(kept), 6 - len(kept), 0)


def test_cut_off_anywhere_the_same_command_ends_with_the_same_file(distil, tmp_path):
    path = tmp_path / "out.jsonl"
    assert distil().code == 0
    whole = path.read_bytes()

    for share in (0.0, 0.13, 0.4, 0.66, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        ran = distil()
        assert ran.code == 0, ran
        assert path.read_bytes() == whole, share


def test_ctrl_c_leaves_whole_lines_and_says_how_to_go_on(distil, monkeypatch, tmp_path):
    write, calls = Writer.write, []

    def stopped(self, *arguments, **named):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "write", stopped)
        ran = distil()
        left = lines_of(tmp_path / "out.jsonl")
    again = distil("--json")

    assert (ran.code, len(left)) == (130, 2)
    assert "interrupted: 2 of 6 texts are in" in ran.err
    assert again.results[0]["new"] == 4


def test_a_killed_run_leaves_whole_lines(bart, write, tmp_path):
    many = write("many.jsonl", "".join(json.dumps(each) + "\n" for each in PAIRS * 20))
    named = ["--model", bart, "--pairs", str(many), "--batch-size", "2", "--max-new-tokens", "8"]
    path = tmp_path / "killed.jsonl"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["offramp.cli.distilling"])
    run = context.Process(target=main, args=(["distill-data", *named, "--output", str(path)],))

    run.start()
    end = time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b"\n") < 3:
        assert time.monotonic() < end
        time.sleep(0.001)
    run.kill()
    run.join()

    *lines, _ = path.read_bytes().split(b"\n")
    assert 3 <= len(lines) < 120
    assert all(json.loads(line)["target"] for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--length-penalty", 2.0, "--beams", 1), "--length-penalty 2.0 belongs to beams"),
        (("--model", "nowhere/at/all"), "is no folder, nor a hub name"),
        (("--output", "missing/out.jsonl"), "there is no folder missing"),
        (("--max-new-tokens", 4000), "max_new_tokens is 4000"),
    ],
)
def test_mistakes_are_one_line(distil, refused, arguments, message):
    refused(distil(*arguments), message)


def test_the_pairs_are_not_written_over(distil, refused, pairs):
    refused(distil(to=pairs), "is the file of prompts")


def test_other_settings_do_not_go_on_with_a_file(distil, refused, tmp_path):
    assert distil().code == 0
    before = (tmp_path / "out.jsonl").read_bytes()

    refused(distil("--beams", 2), "other settings", "--overwrite")

    assert (tmp_path / "out.jsonl").read_bytes() == before
    assert distil("--beams", 2, "--overwrite").code == 0


def test_a_decoder_only_teacher_is_refused(distil, refused, folder):
    refused(distil(model=folder), "decoder only")


def test_the_help_has_the_example(offramp):
    ran = offramp("distill-data", "--help")

    assert " ".join(EXAMPLE.split()) in " ".join(ran.out.split())
