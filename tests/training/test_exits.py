"""What a training changes and what it leaves alone, what it logs and refuses."""

import json
import pickle
import resource
import shutil
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_pt_utils import safe_globals

import tiny
from offramp import AutoMultiExitModel, attach_exits
from offramp.blocks.projections import add_gate_
from offramp.errors import CheckpointError, ConfigError, ExitNotFoundError, InputError
from offramp.training.checkpoints import last_checkpoint
from offramp.training.data import DataSettings, load_rows
from offramp.training.exits import freeze_
from offramp.training.objectives import Objective
from offramp.training.positions import aligned
from offramp.training.states import KeptStates, keep_states
from offramp.training.student import Lesson, Student
from small_training import collate, curve, model_of, ragged_rows, train, weights_of

SHORT = {"epochs": 1.0}


class AtStep(TrainerCallback):
    """Does something at the end of a step, or sees the optimiser."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_end(self, args, state, control, **parts):
        if state.global_step == self.step:
            self.action(parts)


def same(one, other, names=None):
    names = one.keys() if names is None else names
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in names)


@pytest.mark.parametrize("kind", ["lens", "cast", "head", "block"])
def test_exactly_the_exits_asked_change(tmp_path, kind):
    model = model_of(kind=kind)
    before = weights_of(model)

    train(tmp_path, model, exits=(1, 3), **SHORT)

    after = weights_of(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith(("exits.1.", "exits.3."))}


def test_a_base_with_dropout_keeps_its_bits_and_its_answers(tmp_path):
    model = model_of("gpt2", resid_pdrop=0.5)
    base = [name for name in weights_of(model) if not name.startswith("exits.")]
    before = weights_of(model)
    ids = tiny.prompt(model)["input_ids"]
    told = model(ids).logits

    train(tmp_path, model, **SHORT)

    assert same(before, weights_of(model), base)
    assert torch.equal(model.eval()(ids).logits, told)


def test_the_optimiser_holds_the_exits_asked_alone(tmp_path):
    model, held = model_of(), []

    def look(parts):
        groups = parts["optimizer"].param_groups
        held.extend(id(each) for group in groups for each in group["params"])

    train(tmp_path, model, exits=(2,), callbacks=[AtStep(1, look)], **SHORT)

    assert sorted(held) == sorted(id(each) for each in model.exits["2"].parameters())


def test_gates_are_not_touched(tmp_path):
    model = model_of()
    gate = add_gate_(model.exits["2"], model.anatomy, 2)
    before = {name: each.clone() for name, each in gate.state_dict().items()}

    train(tmp_path, model, **SHORT)

    assert same(before, gate.state_dict())


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_a_training_of_nothing_does_not_start(tmp_path, named, gated):
    model = model_of(kind="direct", exits=(1, 2))
    if gated:
        add_gate_(model.exits["1"], model.anatomy, 1)
        add_gate_(model.exits["2"], model.anatomy, 2)

    with pytest.raises(ConfigError, match="nothing to train"):
        train(tmp_path, model, exits=(1, 2) if named else None)

    assert list(tmp_path.iterdir()) == []


def test_direct_exits_are_passed_over_unless_they_are_named(tmp_path):
    model = attach_exits(model_of(exits=(2,)), (1,), "direct")

    train(tmp_path, model, **SHORT)

    assert "exit_2" in curve(tmp_path)[0]
    assert "exit_1" not in curve(tmp_path)[0]


def test_an_exit_that_is_not_attached_is_refused(tmp_path):
    with pytest.raises(ExitNotFoundError, match="attached exits: 1, 2, 3"):
        train(tmp_path, exits=(1, 4))


def test_freezing_says_of_every_weight_whether_it_is_trained():
    model = model_of()
    add_gate_(model.exits["2"], model.anatomy, 2)

    freeze_(model, (2,), unfreeze=False)
    frozen = {name for name, each in model.named_parameters() if each.requires_grad}
    freeze_(model, (2,), unfreeze=True)
    free = {name for name, each in model.named_parameters() if each.requires_grad}

    assert frozen == {"exits.2.linear.weight", "exits.2.linear.bias"}
    base = {name for name, _ in model.named_parameters() if not name.startswith("exits.")}
    assert free == frozen | base


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_log_holds_each_exits_loss_and_they_add_up(tmp_path, accumulate):
    """Six batches in steps of four and two: the last step of an epoch is a shorter one."""
    train(tmp_path, accumulate=accumulate, exit_weights={1: 0.5}, save_steps=100)

    for line in curve(tmp_path)[:-1]:
        parts = 0.5 * line["exit_1"] + line["exit_2"] + line["exit_3"]
        assert line["loss"] == pytest.approx(parts, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_batches_of_four_are_a_batch_of_eight(tmp_path, dtype):
    at_once = train(tmp_path / "8", model_of(dtype=dtype), batch_size=8)
    in_two = train(tmp_path / "2x4", model_of(dtype=dtype), batch_size=4, accumulate=2)

    bound = 1e-10 if dtype is torch.float64 else 2e-5
    torch.testing.assert_close(weights_of(at_once), weights_of(in_two), rtol=0, atol=bound)


def test_a_finished_training_that_is_started_again_changes_nothing(tmp_path):
    first = train(tmp_path, max_steps=5)

    again = train(tmp_path, max_steps=5)

    assert same(weights_of(first), weights_of(again))
    assert not (tmp_path / "checkpoint-6").exists()


def test_a_longer_training_goes_on_from_the_last_checkpoint(tmp_path):
    steady = {"schedule": "constant", "warmup": 0.0}
    at_once = train(tmp_path / "once", epochs=2.0, **steady)
    train(tmp_path / "twice", epochs=1.0, **steady)

    again = train(tmp_path / "twice", epochs=2.0, **steady)

    assert same(weights_of(at_once), weights_of(again))


@pytest.mark.parametrize(
    ("name", "value"), [("learning_rate", 0.5), ("objective", "next-token"), ("batch_size", 3)]
)
def test_a_folder_of_another_training_is_refused(tmp_path, name, value):
    train(tmp_path, **SHORT)

    with pytest.raises(CheckpointError, match="another training"):
        train(tmp_path, **SHORT, **{name: value})


def test_another_base_is_refused(tmp_path):
    train(tmp_path, **SHORT)

    with pytest.raises(CheckpointError, match="another base"):
        train(tmp_path, model_of(seed=1), **SHORT)


def test_what_was_trained_loads_again_beside_its_base(tmp_path):
    tiny.model_of("llama").save_pretrained(tmp_path / "base")

    model = train(tmp_path / "out", **SHORT)

    loaded = AutoMultiExitModel.from_pretrained(tmp_path / "base", exits=tmp_path / "out")
    assert same(weights_of(model), weights_of(loaded))


FREE = {"unfreeze": True, "curriculum": "rotating", "layer_dropout": 0.3}


def test_an_unfrozen_training_changes_everything_and_loads_again(tmp_path):
    model = model_of()
    before = weights_of(model)

    train(tmp_path, model, **FREE)

    after = weights_of(model)
    unchanged = {name for name in before if torch.equal(before[name], after[name])}
    assert unchanged == set()
    assert same(after, weights_of(AutoMultiExitModel.from_pretrained(tmp_path)))
    assert "exit_original" in curve(tmp_path)[0]


def test_an_unfrozen_training_with_dropout_resumes_with_the_same_bits(tmp_path):
    whole = train(tmp_path / "whole", model_of("gpt2", resid_pdrop=0.2), **FREE)
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", tmp_path / "cut" / "checkpoint-4")
    shutil.copy(tmp_path / "whole" / "training.json", tmp_path / "cut")

    again = train(tmp_path / "cut", model_of("gpt2", resid_pdrop=0.2, seed=9), **FREE)

    assert same(weights_of(whole), weights_of(again))
    assert curve(tmp_path / "whole") == curve(tmp_path / "cut")


def test_recomputed_activations_change_no_bit(tmp_path):
    runs = []
    for spare in (False, True):
        model, calls = model_of(), []
        model.model.layers[1].mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        train(tmp_path / str(spare), model, checkpointing=spare, **FREE, **SHORT)
        runs.append((len(calls), weights_of(model)))

    assert [count for count, _ in runs] == [6, 12]
    assert same(runs[0][1], runs[1][1])


def test_held_out_rows_are_evaluated_at_every_checkpoint_at_the_same_positions(tmp_path):
    held = ragged_rows(8, seed=1)

    train(tmp_path, held_out=held, learning_rate=1e-12, **SHORT)

    losses = [line["eval_loss"] for line in curve(tmp_path) if "eval_loss" in line]
    assert losses == pytest.approx([losses[0]] * 2, rel=1e-5)


def test_all_kept_states_that_are_held_out_are_evaluated(tmp_path):
    model, rows = model_of(), ragged_rows(6, seed=1)
    lesson = Lesson(objective=Objective(), exit_weights=dict.fromkeys((1, 2, 3), 1.0))
    whole = [aligned(collate(rows[place : place + 2]), model) for place in (0, 2, 4)]
    keep_states(Student(model, lesson), whole, tmp_path / "states")
    held = KeptStates(Student(model, lesson), tmp_path / "states")

    for name, some in (("text", rows), ("states", held)):
        train(tmp_path / name, held_out=some, batch_size=2, positions=1.0, **SHORT)

    text, states = (
        [line["eval_loss"] for line in curve(tmp_path / name) if "eval_loss" in line]
        for name in ("text", "states")
    )
    assert len(text) > 1
    assert states == pytest.approx(text, rel=1e-5)


def test_exits_that_are_kept_in_few_bits_are_told_of(tmp_path, caplog):
    train(tmp_path / "few", model_of(dtype=torch.bfloat16), **SHORT)
    train(tmp_path / "many", **SHORT)

    assert [each for each in caplog.messages if "bfloat16" in each] == [
        "the exits are trained in bfloat16, where steps smaller than a few thousandths of a weight "
        "are lost; load the model in float32 (--dtype float32), and use precision='bfloat16' for "
        "speed"
    ]


def test_tensorboard_gets_the_curve(tmp_path):
    train(tmp_path, report_to="tensorboard", **SHORT)

    (events,) = tmp_path.rglob("events.out.tfevents.*")
    assert b"train/exit_2" in events.read_bytes()


def test_nothing_is_printed(tmp_path, capsys):
    train(tmp_path, **SHORT)

    assert capsys.readouterr().out == ""


def test_no_file_of_a_checkpoint_holds_code(tmp_path):
    train(tmp_path, **SHORT)

    for path in Path(last_checkpoint(tmp_path)).iterdir():
        assert path.name != "training_args.bin"
        if path.suffix in (".pt", ".pth"):
            with safe_globals():  # arrays of numpy
                torch.load(path, weights_only=True)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_code_in_a_checkpoint_is_not_run(tmp_path, name):
    class Harm:
        def __reduce__(self):
            return Path.touch, (tmp_path / "harm",)

    train(tmp_path, max_steps=4)
    torch.save({"state": Harm()}, tmp_path / "checkpoint-4" / name, pickle_module=pickle)

    with pytest.raises(CheckpointError, match="never run"):
        train(tmp_path, max_steps=8)

    assert not (tmp_path / "harm").exists()


@pytest.fixture
def full_disk():
    """Make every file that grows beyond some bytes fail, as a full disk does; give the switch."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("size", "free", "stopped"),
    [(4_000, False, "exits"), (20_000, False, "optimizer"), (30_000, True, "base")],
)
def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, full_disk, size, free, stopped):
    whole, out = train(tmp_path / "whole", unfreeze=free), tmp_path / "out"
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "whole").rglob("*.*")}
    assert [size < sizes["exits.safetensors"], size < sizes["optimizer.pt"]] == [
        stopped == "exits",
        True,
    ]

    with pytest.raises(
        CheckpointError, match=r"cannot write .*checkpoint-8.*checkpoint-4$"
    ) as told:
        train(out, unfreeze=free, callbacks=[AtStep(5, lambda _: full_disk(size))])
    full_disk(resource.RLIM_INFINITY)

    assert "\n" not in str(told.value)
    assert sorted(path.name for path in out.iterdir()) == ["checkpoint-4", "training.json"]
    assert last_checkpoint(out) == str(out / "checkpoint-4")
    assert same(weights_of(whole), weights_of(train(out, unfreeze=free)))
    assert curve(out) == curve(tmp_path / "whole")


@pytest.mark.parametrize("free", [False, True])
def test_a_disk_too_full_for_the_result_leaves_the_last_checkpoint(tmp_path, full_disk, free):
    with pytest.raises(CheckpointError, match="cannot write"):
        train(tmp_path, unfreeze=free, max_steps=4, callbacks=[AtEnd(lambda: full_disk(20))])
    full_disk(resource.RLIM_INFINITY)

    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")


class AtEnd(TrainerCallback):
    def __init__(self, action):
        self.action = action

    def on_train_end(self, args, state, control, **_):
        self.action()


@pytest.mark.filterwarnings("ignore:Cannot enable progress bars")
def test_a_failed_upload_does_not_cost_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "transformers.Trainer._push_from_checkpoint",
        lambda *_: (_ for _ in ()).throw(ConnectionError("no network")),
    )
    monkeypatch.setattr("offramp.training.trainer.ExitTrainer.init_hf_repo", lambda *_: None)

    with pytest.raises(CheckpointError, match="whole on the disk"):
        train(tmp_path, push_to_hub=True, max_steps=4)

    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")


@pytest.fixture
def pairs(tmp_path, byte_tokenizer):
    """A file of pairs, and a stream of it."""
    path = tmp_path / "pairs.jsonl"
    lines = [json.dumps({"prompt": "p" * (i % 5), "completion": f"c{i}"}) for i in range(24)]

    def stream(line=None):
        broken = [*lines]
        if line is not None:
            broken[line] = broken[line][:-3]
        path.write_text("\n".join(broken) + "\n", encoding="utf-8")
        asked = DataSettings(source=str(path), streaming=True, shuffle=False)
        return load_rows(asked, byte_tokenizer)

    return stream


STREAMED = {"max_steps": 6, "save_steps": 2}


def bytes_model():
    return model_of(vocab_size=259)


def test_a_broken_line_stops_the_training_and_it_goes_on_when_it_is_mended(tmp_path, pairs):
    whole = train(tmp_path / "whole", bytes_model(), pairs(), **STREAMED)

    with pytest.raises(InputError, match="line 18: not JSON"):
        train(tmp_path / "out", bytes_model(), pairs(line=17), **STREAMED)
    left = last_checkpoint(tmp_path / "out")
    again = train(tmp_path / "out", bytes_model(), pairs(), **STREAMED)

    assert left == str(tmp_path / "out" / "checkpoint-2")
    assert same(weights_of(whole), weights_of(again))
    assert curve(tmp_path / "whole") == curve(tmp_path / "out")


def test_a_stream_read_more_than_once_resumes_where_it_was(tmp_path, pairs):
    more = {"max_steps": 16, "save_steps": 4, "epochs": 1.0}
    whole = train(tmp_path / "whole", bytes_model(), pairs(), **more)
    shutil.copytree(tmp_path / "whole" / "checkpoint-8", tmp_path / "cut" / "checkpoint-8")
    shutil.copy(tmp_path / "whole" / "training.json", tmp_path / "cut")

    again = train(tmp_path / "cut", bytes_model(), pairs(), **more)

    assert same(weights_of(whole), weights_of(again))
    assert curve(tmp_path / "whole") == curve(tmp_path / "cut")


def test_a_stream_without_steps_is_refused(tmp_path, pairs):
    with pytest.raises(ConfigError, match="set max_steps"):
        train(tmp_path / "out", bytes_model(), pairs())


def test_fsdp_of_accelerate_is_refused(tmp_path, monkeypatch):
    def prepare(trainer):
        Trainer.create_accelerator_and_postprocess(trainer)
        trainer.is_fsdp_enabled = True

    monkeypatch.setattr(
        "offramp.training.trainer.ExitTrainer.create_accelerator_and_postprocess", prepare
    )

    with pytest.raises(ConfigError, match="not its weights by FSDP"):
        train(tmp_path)
