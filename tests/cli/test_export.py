"""``offramp export`` writes what the library writes, and the tokenizer; it refuses in one line."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from offramp import AutoMultiExitModel, FixedExit, attach_exits, save_exits
from offramp.cli.export import EXAMPLE


@pytest.fixture(scope="module")
def exits(folder, tmp_path_factory):
    """A cast exit and a lens for the tiny Llama, apart from it."""
    model = attach_exits(AutoMultiExitModel.from_pretrained(folder), (1,), "lens")
    attach_exits(model, (3,), "cast")
    with torch.no_grad():
        model.exits["3"].linear.weight.mul_(0.5).add_(0.01)
    place = tmp_path_factory.mktemp("exits")
    save_exits(model, place)
    return str(place)


@pytest.fixture
def export(offramp, folder, tmp_path):
    """Run ``offramp export`` on the tiny Llama, into the folder ``draft``."""

    def run(*arguments, model=folder):
        named = () if model is None else (model,)
        return offramp("export", *named, "--output", tmp_path / "draft", *arguments)

    return run


def test_the_folder_is_a_plain_model_with_its_tokenizer(export, folder, exits, tmp_path):
    ran = export("--exit", 3, "--exits-from", exits, "--json")

    assert (ran.code, ran.err) == (0, "")
    draft = AutoModelForCausalLM.from_pretrained(tmp_path / "draft")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "draft")
    ids = tokenizer("a ferry", return_tensors="pt")["input_ids"]
    whole = AutoMultiExitModel.from_pretrained(folder, exits=exits)
    own = whole(ids, decoding=FixedExit(exit=3)).logits
    torch.testing.assert_close(draft(ids).logits, own, rtol=1e-4, atol=1e-4)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(folder).chat_template
    (result,) = ran.results
    assert result.pop("seconds") > 0
    assert result == {
        "output": str(tmp_path / "draft"),
        "model": folder,
        "exit": 3,
        "projection": "cast",
        "blocks": 3,
        "base_blocks": 4,
        "dtype": "float32",
        "parameters": draft.num_parameters(),
    }


def test_a_line_says_what_was_written(export, folder, tmp_path):
    ran = export("--exit", 2, "--dtype", "bfloat16")

    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"{tmp_path / 'draft'}: exit 2 (direct) of {folder}, 2 of 4 blocks, ")
    assert ran.out.endswith(" M parameters, bfloat16\n")


def test_the_model_can_be_named_by_an_option(export, folder):
    assert export("--exit", 1, "--model", folder, model=None).code == 0


def test_an_encoder_decoder_is_exported(export, make_folder):
    (result,) = export("--exit", 2, "--json", model=make_folder("t5")).results

    assert (result["exit"], result["blocks"]) == (2, 2)


def test_overwrite_takes_the_place_of_an_earlier_export_only(export, refused, tmp_path):
    export("--exit", 2)
    refused(export("--exit", 3), "draft", "earlier export", "--overwrite")

    assert export("--exit", 3, "--overwrite").code == 0

    assert json.loads((tmp_path / "draft/config.json").read_text())["num_hidden_layers"] == 3
    (tmp_path / "draft/export.json").unlink()
    refused(export("--exit", 2, "--overwrite"), "draft", "no export wrote")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--exit 1", ["exit 1 is a 'lens'", "direct, head, cast and block"]),
        ("--exit 2", ["exit 2 is not attached", "1, 3"]),
        ("--exit 9", ["exit 9 does not exist", "4 blocks"]),
        ("--exit original", ["whole model", "--exit 12"]),
        ("--exit six", ["an exit is a number", "six"]),
        ("--exit 3 --model other", ["named twice", "other"]),
        ("", ["--exit"]),
    ],
)
def test_what_cannot_be_exported_is_refused(export, exits, refused, tmp_path, options, words):
    refused(export("--exits-from", exits, *options.split()), *words)

    assert not (tmp_path / "draft").exists()


def test_output_is_needed(offramp, refused, folder):
    refused(offramp("export", folder, "--exit", 2), "--output")


def test_a_folder_in_use_is_refused_before_anything_is_loaded(tmp_path):
    (tmp_path / "notes.txt").touch()
    script = (
        "import sys\nfrom offramp.cli import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit as end:\n"
        "    sys.exit(9 if 'torch' in sys.modules else end.code)\n"
    )
    command = ["export", "nowhere", "--exit", "2", "--output", str(tmp_path)]

    done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True)

    assert done.returncode == 2, done
    assert "no export wrote" in done.stderr


def test_help_has_an_example_and_every_option_a_text(offramp):
    out = offramp("export", "--help").out

    assert "offramp export my-model" in out
    assert EXAMPLE.startswith("Example: offramp export")
    for option in ("MODEL", "--exit", "--exits-from", "--output", "--overwrite", "--json"):
        assert option in out
