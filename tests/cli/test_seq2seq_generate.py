"""``offramp generate`` with models that read a source: ELMER in one pass, others as before."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, BartConfig, PreTrainedTokenizerFast

from offramp.cli.seq2seq_loading import is_elmer
from offramp.decoding.oneshot import OneShot
from offramp.models.elmer import ElmerForConditionalGeneration


@pytest.fixture(scope="module")
def elmer(make_elmer):
    return make_elmer()


@pytest.fixture(scope="module")
def library(elmer):
    """Write by the library."""
    model = ElmerForConditionalGeneration.from_pretrained(elmer)
    tokenizer = AutoTokenizer.from_pretrained(elmer)

    def write(prompt, **options):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        made = model.generate(ids, return_dict_in_generate=True, max_new_tokens=8, **options)
        text = tokenizer.decode(made.sequences[0], skip_special_tokens=True)
        return text, made

    return write


def test_the_text_alone_is_on_stdout(generate, elmer, library):
    ran = generate("a ferry", model=elmer)

    assert (ran.code, ran.err) == (0, "")
    assert ran.out == library("a ferry")[0] + "\n"


def test_json_has_exits_and_the_canvas(generate, elmer, library):
    ran = generate("a ferry", "--json", "--early-exit", "top_probability:0.1", model=elmer)

    settings = OneShot(exit_rule="top_probability", threshold=0.1)
    text, made = library("a ferry", decoding=settings)
    (result,) = ran.results
    assert result["text"] == text
    assert result["tokens"] == made.sequences[0].tolist()
    assert result["exits"] == made.exits[0].tolist()
    assert result["canvas_length"] == int(made.canvas_lengths[0])
    assert result["new_tokens"] == len(result["exits"])
    assert result["mean_exit"] == pytest.approx(made.exits.float().mean().item(), abs=0.01)
    assert result["decoding"] == "one pass, exit_rule top_probability, threshold 0.1"
    assert (result["model"], result["prompt"], result["index"]) == (elmer, "a ferry", 0)


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ("--canvas-length 3", OneShot(canvas_length=3)),
        ("--refine-steps 2", OneShot(refine_steps=2)),
        ("--collapse-repeats", OneShot(collapse_repeats=True)),
        ("--no-repeat-ngram-size 1", OneShot(no_repeat_ngram=1)),
        (
            "--early-exit top_gap:0.001 --min-exit 2",
            OneShot(exit_rule="top_gap", threshold=0.001, min_exit=2),
        ),
        ("--early-exit patience:2", OneShot(exit_rule="patience", threshold=2)),
    ],
)
def test_every_way_to_write_is_the_librarys(generate, elmer, library, options, settings):
    ran = generate("a ferry", "--json", *options.split(), model=elmer)

    assert ran.code == 0, ran.err
    _, made = library("a ferry", decoding=settings)
    assert ran.results[0]["tokens"] == made.sequences[0].tolist()


def test_draws_follow_the_seed(generate, elmer, library):
    hot = ("a ferry", "--json", "--do-sample", "--temperature", 3, "--seed")

    one, two, other = (generate(*hot, seed, model=elmer) for seed in (4, 4, 5))

    drawn = library(
        "a ferry",
        decoding=OneShot(temperature=3.0),
        generator=torch.Generator().manual_seed(4),
    )[0]
    assert one.texts == two.texts == [drawn]
    assert other.texts != one.texts


@pytest.mark.parametrize("family", ["elmer", "bart"])
def test_many_prompts_are_answered_in_batches_as_alone(
    generate, make_folder, file, elmer, prompts, family
):
    model = elmer if family == "elmer" else make_folder("bart", template=None, seed=8)
    alone = [generate(prompt, "--json", model=model).texts[0] for prompt in prompts]

    together = generate("--file", file, "--json", "--batch-size", 3, model=model)

    assert together.texts == alone
    assert len(set(alone)) > 1


def test_a_file_of_results_is_gone_on_with(generate, elmer, file, tmp_path):
    path = tmp_path / "out.jsonl"
    generate("--file", file, "--output", path, model=elmer)
    lines = path.read_text("utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + lines[2][:30], "utf-8")

    ran = generate("--file", file, "--output", path, "--json", model=elmer)

    assert ran.results == [{"output": str(path), "results": 5, "new": 3}]
    again = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [each["tokens"] for each in again] == [json.loads(line)["tokens"] for line in lines]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--contrast original:2", "--contrast original:2 means nothing to an ELMER model"),
        ("--num-beams 3", "--num-beams 3 means nothing to an ELMER model"),
        ("--early-exit gate --exits 1", "--exits 1 means nothing to an ELMER model"),
        ("--speculate 2", "--speculate 2 means nothing to an ELMER model"),
        ("--chat", "--chat means nothing to an ELMER model"),
        ("--stream", "ELMER writes all at once"),
        ("--early-exit soon", "takes one of gate, entropy"),
        ("--early-exit entropy:much", "'much' is no number; try entropy:0.9"),
        ("--path viterbi:long", "'long' is no number; try viterbi:1.3"),
        ("--path lookahead:1.3", "length_penalty 1.3 is for path viterbi and beam"),
        ("--early-exit entropy", "needs a threshold from 0 to 1"),
        ("--early-exit entropy:2", "threshold must be from 0 to 1, got 2.0"),
        ("--path straight", "no path 'straight'"),
        ("--temperature 0.5", "add --do-sample"),
        ("--lengths 2", "needs a model with length_predictor"),
        ("--canvas-length 999", "canvas_length must be at most 128"),
    ],
)
def test_what_an_elmer_cannot_do_is_refused(generate, refused, elmer, options, said):
    refused(generate("a ferry", *options.split(), model=elmer), said)


def test_conversations_and_long_prompts_are_refused(generate, refused, elmer, write):
    turns = write("turns.jsonl", json.dumps({"messages": [{"role": "user", "content": "a"}]}))

    refused(generate("--jsonl", turns, model=elmer), "turns.jsonl, line 1 holds messages")
    refused(generate("x" * 129, model=elmer), "the prompt: the source has 129 tokens")


@pytest.mark.parametrize(
    "options", ["--canvas-length 4", "--refine-steps 1", "--collapse-repeats", "--path greedy"]
)
def test_other_models_do_not_know_the_options_of_one_pass(generate, refused, options):
    refused(generate("a", *options.split()), options, "name an ELMER model by --model")


def test_published_weights_are_known_by_their_joining_head(generate, make_elmer):
    published = Path(make_elmer(soft_exit=True))
    config = json.loads((published / "config.json").read_text("utf-8"))
    own = {name for name in config if name not in BartConfig().to_dict()} | {"classifier_dropout"}
    bart = {name: value for name, value in config.items() if name not in own}
    (published / "config.json").write_text(json.dumps({**bart, "model_type": "bart"}), "utf-8")

    ran = generate("a ferry", "--json", model=str(published))

    assert ran.code == 0, ran.err
    assert ran.results[0]["decoding"] == "one pass"
    assert len(ran.results[0]["exits"]) == 8


def test_a_bart_s_weights_write_in_one_pass_where_they_are_said_to_be_elmer_s(
    generate, make_folder, tmp_path
):
    bart = make_folder("bart", template=None, seed=8)
    model = ElmerForConditionalGeneration.from_pretrained(bart)
    ids = AutoTokenizer.from_pretrained(bart)("a ferry", return_tensors="pt")["input_ids"]

    ran = generate("a ferry", "--json", model=f"elmer:{bart}")

    assert (ran.code, ran.err) == (0, "")
    assert ran.results[0]["tokens"] == model.generate(ids, max_new_tokens=8)[0].tolist()
    assert (ran.results[0]["decoding"], ran.results[0]["model"]) == ("one pass", f"elmer:{bart}")
    named = tmp_path / "elmer-pretrained"
    shutil.copytree(bart, named)
    plain = generate("a ferry", "--json", model=str(named))
    assert plain.results[0]["decoding"] != "one pass"
    assert f"name it elmer:{named}\n" in plain.err


def test_published_pre_trained_weights_are_read_when_they_are_named_so(generate, tmp_path):
    golden = Path(__file__).parents[1] / "golden" / "elmer" / "pre_train"
    folder = shutil.copytree(golden, tmp_path / "elmer")
    names = ["<s>", "<pad>", "</s>", *map(chr, range(0x4E00, 0x4E00 + 97)), "<mask>"]
    bare = Tokenizer(models.WordLevel(dict(zip(names, range(101), strict=True)), "<pad>"))
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=bare, **special).save_pretrained(folder)

    said = generate(chr(0x4E05), "--json", model=f"elmer:{folder}")
    silent = generate(chr(0x4E05), "--json", model=str(folder))

    assert (said.code, said.err) == (0, "")
    assert set(said.results[0]["exits"]) == {4}
    assert f"name it elmer:{folder}" in silent.err


def test_a_bart_is_no_elmer(make_folder, elmer, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bart", "dropout": "much"}')

    assert is_elmer(elmer)
    assert not is_elmer(make_folder("bart", template=None))
    assert not is_elmer(None)
    assert not is_elmer(str(tmp_path))  # a configuration that is not one
    assert not is_elmer("no/such-model")
    assert not is_elmer("./nowhere")
    assert is_elmer(f"elmer:{make_folder('bart', template=None)}")
    assert is_elmer("elmer:./nowhere")  # whoever loads it says what is wrong
