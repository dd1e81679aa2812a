"""What fuzzing found, each as the smallest case of it."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from fuzzing import NESTED
from offramp import AutoMultiExitModel, MultiExitConfiguration, attach_exits, save_exits
from offramp.blocks.drafter import Drafter
from offramp.cli.journal import Journal
from offramp.cli.kept import KeptText
from offramp.cli.output import ResultFile
from offramp.config import parse_exit, parse_exits
from offramp.errors import CheckpointError, ConfigError, InputError
from offramp.evaluation.pairs import read_pairs
from offramp.models.files import STAGE, json_of, moved_whole
from offramp.training.pairs import pairs_of
from offramp.training.sources import open_source


@pytest.fixture
def base(tmp_path):
    tiny.model_of("llama").save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def exits(tmp_path, base):
    """A head and a drafter, kept apart."""
    model = attach_exits(AutoMultiExitModel.from_pretrained(base), (2,), "head")
    model.drafter = Drafter(width=32, hidden=24, num_tokens=11)
    save_exits(model, tmp_path / "exits")
    return tmp_path / "exits"


def change_table(folder, change):
    path = folder / "exits.json"
    table = json.loads(path.read_text("utf-8"))
    change(table)
    path.write_text(json.dumps(table), encoding="utf-8")


def change_tensors(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


TABLES = {
    "samples are no lists": lambda table: table["base"]["fingerprint"]["samples"].update(
        {"embedding": 1}
    ),
    "samples are no numbers": lambda table: table["base"]["fingerprint"]["samples"].update(
        {"embedding": ["x"] * 64}
    ),
    "no samples": lambda table: table["base"]["fingerprint"].update({"samples": None}),
    "no fingerprint": lambda table: table["base"].update({"fingerprint": 3}),
    "the base is no name": lambda table: table["base"].update({"name": 5}),
    "an endless exit": lambda table: table["exits"][0].update({"exit": float("inf")}),
    "an exit twice": lambda table: table["exits"].extend(table["exits"]),
}


@pytest.mark.parametrize("change", TABLES.values(), ids=TABLES)
def test_a_table_of_exits_whose_values_are_of_other_kinds(base, exits, change):
    change_table(exits, change)

    with pytest.raises(CheckpointError, match="is not a table of exits"):
        AutoMultiExitModel.from_pretrained(base, exits=exits)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["exits.safetensors", "drafter.safetensors"])
def test_weights_that_are_no_numbers(base, exits, name, value):
    def spoil(tensors):
        next(each for each in tensors.values() if each.is_floating_point()).view(-1)[-1] = value

    change_tensors(exits / name, spoil)

    with pytest.raises(CheckpointError, match="values that are not finite"):
        AutoMultiExitModel.from_pretrained(base, exits=exits)


def test_no_room_is_made_for_heads_without_weights(base, exits):
    change_table(exits, lambda table: table["exits"].append({"exit": 3, "projection": "head"}))

    with pytest.raises(CheckpointError, match="lacks the weights of exit 3"):
        AutoMultiExitModel.from_pretrained(base, exits=exits)


def test_a_drafter_of_tokens_below_0_or_of_another_width(base, exits):
    change_tensors(exits / "drafter.safetensors", lambda found: found["tokens"].fill_(-1))
    with pytest.raises(CheckpointError, match="tokens -1 to -1"):
        AutoMultiExitModel.from_pretrained(base, exits=exits)

    def widen(tensors):
        tensors["tokens"].fill_(1)
        tensors["gate.weight"] = torch.zeros(1, 1 << 20)  # its join would take 8 TB

    change_tensors(exits / "drafter.safetensors", widen)
    with pytest.raises(CheckpointError, match="width 1048576"):
        AutoMultiExitModel.from_pretrained(base, exits=exits)


@pytest.mark.parametrize("listed", [5, "x", [None], [1.5], {"a": 1}])
def test_a_published_list_of_exits_that_is_none(tmp_path, listed):
    model = tiny.model_of("gpt2")
    model.config.lm_head_layer_indices = listed
    model.save_pretrained(tmp_path)

    with pytest.raises(CheckpointError, match="lists no exits"):
        AutoMultiExitModel.from_pretrained(tmp_path, MultiExitConfiguration("direct"))


@pytest.mark.parametrize("text", NESTED[:3])
def test_json_that_is_nested_too_deeply_or_has_endless_numbers(text):
    with pytest.raises(ValueError, match=r"nested|digits|value"):
        json_of(text)


def rows_of(path):
    return list(open_source(str(path), split="train", streaming=False).rows("text"))


def test_nested_lines_are_named(tmp_path):
    for name, read in (
        ("a.jsonl", read_pairs),
        (
            "a.json",
            lambda path: list(open_source(str(path), split="train", streaming=False).rows("text")),
        ),
        ("b.jsonl", lambda path: ResultFile(path, ["k"], overwrite=False)),
    ):
        (tmp_path / name).write_bytes(NESTED[0] + b"\n")
        with pytest.raises(InputError, match="line 1"):
            read(tmp_path / name)


def test_names_of_columns_that_are_no_text(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\x80\n\x00\r\n")

    with pytest.raises(InputError, match="cannot read"):
        rows_of(tmp_path / "a.csv")


def test_targets_that_are_no_list():
    with pytest.raises(InputError, match="a pair needs text"):
        pairs_of(iter([("line 1", {"source": "a", "target": "b", "targets": True})]))


@pytest.mark.parametrize("wrong", [{"facts": "x"}, {"facts": {}}, {"results": 3}])
def test_what_a_training_noted_is_of_another_kind(tmp_path, wrong):
    noted = {"format": "offramp-training", "facts": {"settings": {}}, "writer": None, "results": {}}
    (tmp_path / "course.json").write_text(json.dumps({**noted, **wrong}))

    with pytest.raises(InputError, match="not what a training writes"):
        Journal(tmp_path, {"settings": {}}, writer=None, overwrite=True, writing=True)


def test_positions_of_kept_states_are_a_number(tmp_path):
    (tmp_path / "text.json").write_text('{"facts": {}, "positions": Infinity}')

    with pytest.raises(InputError, match="not what --keep-states writes"):
        KeptText(tmp_path)


@pytest.mark.parametrize("value", ["9" * 5000, 3.5])
def test_numbers_that_no_exit_has(value):
    with pytest.raises(ConfigError, match="number of blocks"):
        parse_exit(value)
    with pytest.raises(ConfigError, match="number of blocks"):
        parse_exits([value])


def test_brackets_where_true_or_false_is_meant():
    with pytest.raises(ConfigError, match="must be True or False"):
        MultiExitConfiguration(use_original_head="(" * 5000)


def test_a_folder_is_as_it_was_until_all_files_are_there(tmp_path):
    (tmp_path / "config.json").write_text("old")
    (tmp_path / "model-00001-of-00002.safetensors").write_text("old")

    def fail():
        with moved_whole(tmp_path) as stage:
            (stage / "config.json").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (tmp_path / "config.json").read_text() == "old"
    assert not (tmp_path / STAGE).exists()

    with moved_whole(tmp_path) as stage:
        (stage / "config.json").write_text("new")
        (stage / "model.safetensors").write_text("new")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert (tmp_path / "config.json").read_text() == "new"


def test_a_column_whose_name_has_two_lines():
    with pytest.raises(InputError) as told:
        pairs_of(iter([("line 1", {"a\nb": "c"})]))

    assert "\n" not in str(told.value)
