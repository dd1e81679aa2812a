"""``offramp finetune --gates`` as a user runs it."""

import json

import pytest
import torch

from offramp.models.elmer import ElmerForConditionalGeneration
from offramp.training import canvas_gates, finetuning

PAIRS = [{"source": f"word {n}", "target": f"{n} drow"} for n in range(8)]
FEW = ("--batch-size", 4, "--device", "cpu")
STEPS = ("--max-steps", 2, "--eval-steps", 1, "--log-steps", 1)


@pytest.fixture(scope="module")
def elmer(make_elmer):
    return make_elmer(exit_loss="all")


@pytest.fixture
def pairs(write):
    return write("pairs.jsonl", "".join(json.dumps(each) + "\n" for each in PAIRS))


@pytest.fixture
def finetune(offramp, pairs, write, tmp_path):
    """Run ``offramp finetune`` on the pairs."""
    held_out = write("dev.jsonl", pairs.read_bytes())

    def run(*arguments, model, to=tmp_path / "out", steps=STEPS):
        named = ("--model", model, "--pairs", pairs, "--held-out", held_out, "--output", to)
        return offramp("finetune", *named, *FEW, *steps, *arguments)

    return run


def result_of(ran):
    assert ran.code == 0, ran
    (result,) = ran.results
    return result


def weights_of(folder):
    return ElmerForConditionalGeneration.from_pretrained(folder).state_dict()


def same(ours, theirs):
    return set(ours) == set(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def base_of(weights):
    return {name: each for name, each in weights.items() if not name.startswith("gates.")}


def test_gates_are_trained_on_the_fine_tuned_weights_and_saved_with_them(
    finetune, offramp, elmer, pairs, tmp_path
):
    plain = result_of(finetune("--json", model=elmer, to=tmp_path / "plain"))
    gated = result_of(finetune("--json", "--gates", model=elmer))

    weights, out = weights_of(tmp_path / "out"), tmp_path / "out"
    assert plain["gates"] is None
    assert [each["exit"] for each in gated["gates"]] == [1, 2, 3]
    for report in gated["gates"]:
        assert report["threshold"] == float(weights[f"gates.{report['exit']}.threshold"])
        assert 0 <= report["agreement"] <= 1
        assert report["positions"] > 10
    assert gated["steps"] == 2
    assert same(base_of(weights), weights_of(tmp_path / "plain"))
    ran = offramp("generate", "--model", out, "word 3", "--early-exit", "gate", "--json")
    assert ran.code == 0, ran
    few = ("--metrics", "errors", "--samples", 0, "--max-new-tokens", 8, "--json")
    ran = offramp("evaluate", "--model", out, "--pairs", pairs, "--early-exit", "gate", *few)
    assert ran.code == 0, ran


def test_gates_alone_leave_the_model_as_it_is(finetune, elmer, tmp_path):
    result = result_of(finetune("--json", "--gates-only", model=elmer, steps=()))

    assert (result["steps"], result["best"], result["evaluations"]) == (0, None, [])
    assert len(result["gates"]) == 3
    assert same(base_of(weights_of(tmp_path / "out")), weights_of(elmer))
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def test_gates_alone_can_be_given_in_place_and_anew(finetune, make_elmer, tmp_path):
    model = make_elmer(exit_loss="all")
    first = result_of(finetune("--json", "--gates-only", model=model, to=model, steps=()))
    before = weights_of(model)
    again = result_of(finetune("--json", "--gates-only", model=model, to=model, steps=()))

    assert again == first
    assert same(weights_of(model), before)
    assert "gates.1.threshold" in before


def test_the_table_has_a_row_for_each_exit(finetune, elmer):
    ran = finetune("--gates-only", "--gate-precision", 0.5, model=elmer, steps=())

    assert ran.code == 0, ran
    for words in ("8 pairs", "agrees", "threshold", "precise", "found", "which a gate says leave"):
        assert words in ran.out
    assert "--early-exit gate" in ran.err
    assert "steps" not in ran.out


def test_a_lower_precision_never_finds_less(finetune, elmer):
    low, high = (
        result_of(
            finetune("--json", "--gates-only", "--gate-precision", each, model=elmer, steps=())
        )
        for each in (0.01, 1.0)
    )

    for one, other in zip(low["gates"], high["gates"], strict=True):
        assert one["threshold"] <= other["threshold"]
        assert one["recall"] >= other["recall"]


def test_stopped_at_its_gates_the_same_command_ends_with_the_same_model(
    finetune, elmer, tmp_path, monkeypatch
):
    whole = result_of(finetune("--json", "--gates", model=elmer))
    before, steps = weights_of(tmp_path / "out"), []
    step = finetuning.PairTrainer.training_step

    def stop(*_, **__):
        raise KeyboardInterrupt

    def counted(self, *arguments, **named):
        steps.append(1)
        return step(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(canvas_gates, "settle_", stop)
        stopped = finetune("--json", "--gates", model=elmer, to=tmp_path / "stopped")
    with monkeypatch.context() as patch:
        patch.setattr(finetuning.PairTrainer, "training_step", counted)
        resumed = result_of(finetune("--json", "--gates", model=elmer, to=tmp_path / "stopped"))

    assert stopped.code == 130
    assert "the same command goes on from" in stopped.err
    assert not steps
    assert resumed["gates"] == whole["gates"]
    assert same(weights_of(tmp_path / "stopped"), before)


def test_exits_that_never_learned_are_told_of(finetune, make_elmer):
    ran = finetune("--gates-only", model=make_elmer(), steps=())

    assert ran.code == 0, ran
    assert 'exit_loss of this model is "last"' in ran.err


def test_gates_of_the_weights_before_are_told_of(finetune, make_elmer, tmp_path):
    model = make_elmer(gates=True)

    ran = finetune(model=model)

    assert ran.code == 0, ran
    assert "gates were found for its weights as they are now; add --gates" in ran.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--gate-precision", 0.9), "--gate-precision 0.9 belongs to --gates"),
        (("--gates", "--gate-precision", 0), "above 0 and at most 1, got 0.0"),
        (("--gates-only", "--epochs", 3), "--epochs would change nothing with --gates-only"),
        (("--gates-only", "--metrics", "errors"), "--metrics would change nothing"),
        (("--gates-only", "--from-scratch"), "--from-scratch would change nothing"),
    ],
)
def test_mistakes_are_one_line(finetune, refused, elmer, arguments, message):
    refused(finetune(*arguments, model=elmer, steps=()), message)


def test_gates_are_not_for_bart(finetune, refused, make_folder, tmp_path):
    bart = make_folder("bart", template=None, seed=8)

    refused(finetune("--gates", model=bart), "these gates are for ELMER models, this is a bart")

    assert not (tmp_path / "out").exists()


def test_the_help_says_that_exits_must_have_learned(offramp):
    ran = offramp("finetune", "--help")

    assert "exit_loss" in ran.out
    assert "--gates-only" in ran.out
