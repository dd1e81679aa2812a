"""The loss of a batch against the exits' own logits, and what a training may touch."""

import pytest
import torch
from torch import nn
from transformers import TorchAoConfig

import tiny
from offramp import AutoMultiExitModel, MultiExitConfiguration, attach_exits
from offramp.errors import ConfigError
from offramp.training.candidates import Candidates
from offramp.training.exits import freeze_
from offramp.training.layer_dropout import CURRICULA, exit_scales
from offramp.training.objectives import Objective, distillation_loss, next_token_loss
from offramp.training.student import Lesson, Student

FAMILIES = ["llama", "gpt2", "gpt_neox", "opt", "gemma2", "bloom"]
PROJECTIONS = ["head", "cast", "lens", "block"]
TEXT, TAUGHT = Objective(name="next-token"), Objective(name="distillation", temperature=1.5)


def model_with(projection="lens", family="llama", *, exits=(1, 3), unfreeze=False, **extra):
    """A float64 model whose exits are not what a fresh exit is."""
    model = attach_exits(tiny.model_of(family, **extra), exits, projection).double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.exits.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    freeze_(model, exits, unfreeze=unfreeze)
    return model


def batch_of(model, *, rows=3, length=9):
    """Rows of different lengths, padded on the right, some of whose labels do not matter."""
    ids = tiny.prompt(model, rows=rows, length=length)["input_ids"]
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    labels = ids.where((mask > 0) & (torch.arange(length) != 3), -100)
    last = labels.new_full((rows, 1), -100)
    shift = torch.cat((labels[:, 1:], last), -1)
    return {"input_ids": ids, "attention_mask": mask, "shift_labels": shift}


def plain_losses(model, batch, lesson):
    """The mean loss of each exit, from the logits that users see."""
    usable = batch["shift_labels"] != -100
    tokens = batch["shift_labels"][usable]
    said = model.exit_logits(
        batch["input_ids"],
        attention_mask=batch["attention_mask"],
        exits=(*lesson.exit_weights, "original"),
        use_cache=False,
    )
    last = said["original"][usable].detach()
    found = {}
    for exit in lesson.exit_weights:
        own = said[exit][usable]
        if lesson.objective.name == "next-token" or exit == "original":
            found[exit] = next_token_loss(own, tokens).mean()
        else:
            temperature = lesson.objective.temperature
            found[exit] = distillation_loss(own, last, temperature=temperature).mean()
    return found


@pytest.mark.parametrize("objective", [TEXT, TAUGHT], ids=["text", "taught"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_the_loss_is_the_weighted_sum_of_the_exits_mean_losses(projection, family, objective):
    model = model_with(projection, family)
    lesson = Lesson(objective=objective, exit_weights={1: 1.0, 3: 0.25})
    batch = batch_of(model)
    model.eval()
    expected = plain_losses(model, batch, lesson)

    told = Student(model, lesson).eval()(**batch)

    assert torch.allclose(told["loss"], expected[1] + 0.25 * expected[3], atol=1e-9)
    assert torch.allclose(told["exit_losses"], torch.stack([expected[1], expected[3]]), atol=1e-9)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_the_gradients_of_the_exits_are_the_plain_ones(projection, family):
    model = model_with(projection, family)
    lesson = Lesson(objective=TAUGHT, exit_weights={1: 1.0, 3: 0.5})
    batch = batch_of(model)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    model.eval()
    losses = plain_losses(model, batch, lesson)
    plain = torch.autograd.grad(losses[1] + 0.5 * losses[3], named.values())

    Student(model, lesson)(**batch)["loss"].backward()

    assert set(named) == {name for name, p in model.named_parameters() if p.grad is not None}
    for parameter, expected in zip(named.values(), plain, strict=True):
        assert torch.allclose(parameter.grad, expected, atol=1e-9)
    assert any(parameter.grad.any() for parameter in named.values())


@pytest.mark.parametrize("objective", [TEXT, TAUGHT], ids=["text", "taught"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "opt"])
@pytest.mark.parametrize("projection", ["direct", "lens", "block"])
def test_an_unfrozen_base_gets_the_plain_gradients(projection, family, objective):
    model = model_with(projection, family, unfreeze=True)
    lesson = Lesson(objective=objective, exit_weights={1: 1.0, 3: 0.5, "original": 2.0})
    batch = batch_of(model)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    losses = plain_losses(model, batch, lesson)
    total = losses[1] + 0.5 * losses[3] + 2 * losses["original"]
    plain = torch.autograd.grad(total, named.values(), allow_unused=True)

    told = Student(model, lesson, frozen=False)(**batch)
    told["loss"].backward()

    assert torch.allclose(told["loss"], total, atol=1e-9)
    for name, expected in zip(named, plain, strict=True):
        ours = named[name].grad
        assert (ours is None) == (expected is None), name
        assert ours is None or torch.allclose(ours, expected, atol=1e-9), name


@pytest.mark.parametrize("curriculum", CURRICULA)
def test_a_curriculums_scales_are_multiplied_by_the_weights(curriculum):
    weights = {1: 0.0, 3: 2.0, "original": 1.0}
    lesson = Lesson(objective=TEXT, exit_weights=weights, curriculum=curriculum)
    plain = exit_scales(tuple(weights), depth=4, curriculum=curriculum, step=1, progress=1.0)

    scales = lesson.scales(step=1, progress=1.0, depth=4)

    assert scales == {exit: plain[exit] * weight for exit, weight in weights.items()}


def test_an_exit_of_weight_0_learns_nothing_while_the_base_does():
    model = model_with("lens", unfreeze=True)
    weights = {1: 0.0, 3: 1.0, "original": 1.0}
    lesson = Lesson(objective=TEXT, exit_weights=weights, curriculum="none")

    Student(model, lesson, frozen=False)(**batch_of(model))["loss"].backward()

    learns = {exit: model.exits[exit].linear.weight.grad.any().item() for exit in ("1", "3")}
    assert learns == {"1": False, "3": True}
    assert model.lm_head.weight.grad.any()


def test_the_bases_own_head_learns_the_text_and_not_itself():
    model = model_with("direct", unfreeze=True)
    lesson = Lesson(
        objective=Objective(), exit_weights={"original": 1.0}, candidates=Candidates(others=4)
    )
    batch = batch_of(model)

    told = Student(model, lesson, frozen=False)(**batch)

    assert torch.allclose(told["loss"], plain_losses(model, batch, lesson)["original"], atol=1e-9)


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_a_frozen_base_keeps_its_bits_its_mode_and_no_gradient(projection):
    model = model_with(projection, "gpt2", attn_pdrop=0.5, resid_pdrop=0.5, embd_pdrop=0.5)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    student = Student(model, Lesson(objective=TAUGHT, exit_weights={1: 1.0, 3: 1.0})).train()
    optimiser = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=0.01)
    grew = []
    hook = model.transformer.h[0].register_forward_hook(
        lambda _, __, out: grew.append((out[0] if isinstance(out, tuple) else out).requires_grad)
    )

    for _ in range(2):
        optimiser.zero_grad()
        student(**batch_of(model))["loss"].backward()
        optimiser.step()
    hook.remove()

    after = model.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same >= {name for name in before if not name.startswith("exits.")}
    assert {name for name in before if name.startswith("exits.")} - same
    assert grew == [False, False]
    assert not model.training
    assert model.exits.training
    assert all(p.grad is None for n, p in model.named_parameters() if not n.startswith("exits."))


def test_a_frozen_base_whose_parameters_need_a_gradient_is_not_trained_beside():
    model = model_with("lens", unfreeze=True)
    student = Student(model, Lesson(objective=TAUGHT, exit_weights={1: 1.0}))

    with pytest.raises(ConfigError, match=r"need a gradient, such as model\.embed.*freeze_\("):
        student(**batch_of(model))
    with torch.no_grad():
        measured = student(**batch_of(model))["loss"]
    freeze_(model, (1,), unfreeze=False)

    assert torch.equal(student(**batch_of(model))["loss"], measured)


def test_a_fresh_student_is_already_in_its_modes():
    model = model_with("block").train()

    Student(model, Lesson(objective=TAUGHT, exit_weights={1: 1.0}))

    assert not model.model.training
    assert model.exits.training


@pytest.mark.parametrize("candidates", [None, Candidates(top=8, others=60)])
def test_a_share_of_the_positions_gives_the_whole_loss_on_average(candidates):
    model = model_with()
    batch = batch_of(model, rows=4, length=20)
    weights = {1: 1.0, 3: 1.0}
    whole = Student(model, Lesson(objective=TAUGHT, exit_weights=weights))(**batch)["loss"].item()
    part = Student(
        model, Lesson(objective=TAUGHT, exit_weights=weights, share=0.3, candidates=candidates)
    )

    with torch.no_grad():
        losses = torch.stack([part(**batch, step=step)["loss"] for step in range(300)])

    assert losses.std() > 0
    assert abs(losses.mean() - whole) < 5 * losses.std() / 300**0.5


def test_the_loss_is_divided_by_the_positions_of_the_whole_step():
    model = model_with()
    student = Student(model, Lesson(objective=TAUGHT, exit_weights={1: 1.0}, share=0.5))
    batch = batch_of(model)
    count = int((batch["shift_labels"] != -100).sum())

    mean = student(**batch)["loss"]

    assert torch.allclose(student(**batch, num_items_in_batch=count)["loss"], mean)
    told = student(**batch, num_items_in_batch=torch.tensor(4 * count))
    assert torch.allclose(told["loss"], mean / 4)
    assert torch.allclose(told["exit_losses"][0], mean / 4)


def test_divided_batches_sum_to_the_loss_of_the_whole():
    model = model_with()
    student = Student(model, Lesson(objective=TAUGHT, exit_weights={1: 1.0, 3: 1.0}, share=0.4))
    batch = batch_of(model)
    count = int((batch["shift_labels"] != -100).sum())
    parts = [{name: each[rows] for name, each in batch.items()} for rows in ([0], [1, 2])]

    losses = [student(**each, num_items_in_batch=count, step=3)["loss"] for each in parts]

    assert torch.allclose(sum(losses), student(**batch, step=3)["loss"], atol=1e-12)


def test_a_batch_with_nothing_to_learn_has_no_loss_and_still_gives_gradients():
    model = model_with()
    batch = batch_of(model)
    batch["shift_labels"] = torch.full_like(batch["shift_labels"], -100)

    loss = Student(model, Lesson(objective=TAUGHT, exit_weights={1: 1.0, 3: 1.0}))(**batch)["loss"]
    loss.backward()

    assert loss == 0
    assert all(not p.grad.any() for p in model.exits.parameters())


def test_the_text_alone_needs_no_block_beyond_the_deepest_exit():
    model = model_with("lens", exits=(1, 2))
    ran = []
    for place, block in enumerate(model.model.layers):
        block.mlp.register_forward_hook(lambda *_, place=place: ran.append(place))

    Student(model, Lesson(objective=TEXT, exit_weights={1: 1.0, 2: 1.0}))(**batch_of(model))

    assert ran == [0, 1]


def test_the_heads_are_never_run_on_positions_that_were_not_chosen():
    model = model_with()
    rows = []
    model.lm_head.register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
    batch = batch_of(model)
    student = Student(model, Lesson(objective=TAUGHT, exit_weights={1: 1.0}, share=0.2))

    student(**batch)

    assert max(rows) == int(student.choose(batch).sum()) < int((batch["shift_labels"] >= 0).sum())


def test_mixed_precision_trains_near_full_precision():
    model = model_with().float()
    student = Student(model, Lesson(objective=TAUGHT, exit_weights={1: 1.0, 3: 1.0}))
    batch = batch_of(model)
    full = student(**batch)["loss"]

    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = student(**batch)["loss"]
    mixed.backward()

    assert torch.allclose(full, mixed, rtol=0.1)
    assert all(p.grad.isfinite().all() for p in model.exits.parameters())


def test_checkpointing_changes_no_gradient_even_with_blocks_left_out():
    def gradients(checkpointing):
        model = model_with("direct", unfreeze=True)
        if checkpointing:
            model.activation_checkpointing_enable()
        lesson = Lesson(
            objective=TEXT,
            exit_weights={1: 1.0, 3: 1.0, "original": 1.0},
            curriculum="none",
            layer_dropout=0.7,
        )
        Student(model, lesson, frozen=False)(**batch_of(model), step=2)["loss"].backward()
        return [p.grad for p in model.parameters()]

    for ours, plain in zip(gradients(True), gradients(False), strict=True):
        assert (ours is None) == (plain is None)
        assert ours is None or torch.allclose(ours, plain, atol=1e-12)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_encoder_decoders_are_seen_at_what_they_write(family):
    model = model_with("lens", family)
    inputs = tiny.prompt(model)
    labels = inputs["decoder_input_ids"].roll(-1, -1)
    lesson = Lesson(objective=TEXT, exit_weights={1: 1.0, 3: 1.0})
    said = model.exit_logits(**inputs, exits=(1, 3))

    told = Student(model, lesson).eval()(**inputs, shift_labels=labels)

    for place, exit in enumerate((1, 3)):
        plain = nn.functional.cross_entropy(said[exit].flatten(0, 1), labels.flatten())
        assert torch.allclose(told["exit_losses"][place], plain, atol=1e-9)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"share": 0.0}, "above 0 and at most 1, got 0"),
        ({"share": 1.1}, "above 0 and at most 1, got 1.1"),
        ({"exit_weights": {}}, "name an exit"),
        ({"exit_weights": {1: -1.0}}, "weights of 0 or more"),
        ({"layer_dropout": 1.0}, "from 0 to below 1, got 1"),
        ({"objective": TEXT, "candidates": Candidates()}, "which next-token does not ask for"),
    ],
)
def test_lessons_out_of_range_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Lesson(**{"objective": TAUGHT, "exit_weights": {1: 1.0}, **wrong})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("head", [False, True], ids=["plain head", "int8 head"])
def test_a_quantised_base_trains_its_exits(head, tmp_path):
    torchao = pytest.importorskip("torchao.quantization")
    tiny.model_of("llama").save_pretrained(tmp_path)
    config = TorchAoConfig(torchao.Int8WeightOnlyConfig(), include_input_output_embeddings=head)
    model = AutoMultiExitModel.from_pretrained(
        tmp_path,
        MultiExitConfiguration("lens", "1;3"),
        quantization_config=config,
        dtype=torch.float32,
    )
    freeze_(model, (1, 3), unfreeze=False)
    lesson = Lesson(objective=TAUGHT, exit_weights={1: 1.0, 3: 1.0}, candidates=Candidates())
    batch = batch_of(model)
    expected = plain_losses(model, batch, lesson)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    plain = torch.autograd.grad(expected[1] + expected[3], named.values())

    told = Student(model, lesson)(**batch)
    told["loss"].backward()

    assert set(named) == {f"exits.{e}.linear.{n}" for e in (1, 3) for n in ("weight", "bias")}
    assert torch.allclose(told["loss"], expected[1] + expected[3], rtol=1e-4)
    for parameter, theirs in zip(named.values(), plain, strict=True):
        assert torch.allclose(parameter.grad, theirs, atol=1e-4)
