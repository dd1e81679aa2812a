"""Law 4: leaving early changes a text only by what the exits answer."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
from decoding.test_loops import NEW, model_with_exits, prompts, told
from offramp import (
    Autoregressive,
    Contrast,
    EarlyExit,
    FixedExit,
    SelfSpeculation,
    attach_exits,
)
from offramp.blocks.anatomy import CHECKED, anatomy_of
from offramp.blocks.engines import engine_for
from offramp.blocks.engines.plain import PlainEngine
from offramp.blocks.projections import add_gate_
from offramp.decoding.request import Request
from offramp.decoding.steps import write_all
from offramp.errors import ConfigError

NEVER = [
    EarlyExit(rule="top_probability", threshold=1.0),
    EarlyExit(rule="top_gap", threshold=1.0),
    EarlyExit(rule="entropy", threshold=1.0),
    EarlyExit(rule="saturation", threshold=1.0),
    EarlyExit(rule="gate", threshold=1.0),
    EarlyExit(rule="patience", threshold=4),
]
OFTEN = [
    EarlyExit(rule="top_probability", threshold=0.3),
    EarlyExit(rule="top_gap", threshold=0.2),
    EarlyExit(rule="entropy", threshold=0.3),
    EarlyExit(rule="saturation", threshold=0.7),
    EarlyExit(rule="gate", threshold=0.5),
    EarlyExit(rule="patience", threshold=2),
    EarlyExit(rule="fixed", exits=(2,)),
    EarlyExit(rule="schedule", schedule=((0, 3), (4, 1), (9, 2))),
]


def gated(family="llama", projection="lens", **extra):
    model = model_with_exits(family, projection, **extra)
    generator = torch.Generator().manual_seed(4)
    for exit in model.exit_numbers:
        gate = add_gate_(model.exits[str(exit)], model.anatomy, exit)
        torch.nn.init.normal_(gate.linear.weight, std=0.5, generator=generator)
    return model


def noted(model, inputs, decoding, **options):
    options = {"max_new_tokens": NEW, "do_sample": False, **options}
    return model.generate(**inputs, decoding=decoding, return_dict_in_generate=True, **options)


@pytest.mark.parametrize("cache", ["defer", "copy"])
@pytest.mark.parametrize("rule", NEVER, ids=lambda rule: rule.rule)
def test_a_rule_that_never_stops_is_plain_decoding(rule, cache):
    model = gated()
    inputs = prompts(model)

    output = noted(model, inputs, EarlyExit(rule=rule.rule, threshold=rule.threshold, cache=cache))

    assert output.sequences.tolist() == told(model, inputs)
    assert set(output.exits.flatten().tolist()) - {-1} == {model.depth}


@pytest.mark.parametrize("family", sorted(CHECKED))
def test_every_family_leaves_early_and_batch_mates_do_not_matter(family):
    model = gated(family, "direct" if family == "opt" else "lens")
    inputs = prompts(model)
    seq2seq = model.config.is_encoder_decoder
    if seq2seq:  # sources of several lengths, padded at the right
        for row, length in enumerate((9, 4, 6)):
            inputs["attention_mask"][row, length:] = 0
    rule = EarlyExit(rule="top_probability", threshold=0.02 if family == "t5" else 0.1)

    together = noted(model, inputs, rule)

    assert min(together.exits[together.exits > 0].tolist()) < model.depth
    for row, ids in enumerate(inputs["input_ids"]):
        alone = ids[inputs["attention_mask"][row].bool()][None]
        single = noted(model, {"input_ids": alone}, rule)
        new = single.sequences[0, 1 if seq2seq else alone.shape[1] :]
        begun = 1 if seq2seq else len(ids)
        assert together.sequences[row, begun:][: len(new)].tolist() == new.tolist()
        assert together.exits[row, : len(new)].tolist() == single.exits[0].tolist()


@pytest.mark.parametrize("family", sorted(CHECKED))
@pytest.mark.parametrize(
    "schedule", [((0, 0), (4, 2)), ((0, 2), (3, 0), (6, 1))], ids=["below", "between"]
)
def test_deferred_tokens_are_those_that_the_exit_says_after_the_same_text(family, schedule):
    model = attach_exits(tiny.model_of(family), (0, 1, 2, 3), "direct")
    inputs = prompts(model, (6,))

    output = noted(model, inputs, EarlyExit(rule="schedule", schedule=schedule))

    ids = output.sequences[0]
    new = len(output.exits[0])
    seq2seq = model.config.is_encoder_decoder
    whole = {"input_ids": inputs["input_ids"], "decoder_input_ids": ids[None]} if seq2seq else {}
    whole = whole or {"input_ids": ids[None]}
    with torch.no_grad():
        exits = tuple(sorted({exit for _, exit in schedule}))
        said = model.exit_logits(**whole, exits=exits, use_cache=False)
    for place in range(1, new):  # the first is the last layer's
        exit = int(output.exits[0, place])
        at = len(ids) - new + place
        assert int(said[exit][0, at - 1].argmax()) == int(ids[at]), (place, exit)


def test_a_step_runs_the_texts_that_are_not_done_and_no_others(monkeypatch):
    model = model_with_exits()
    rows = []
    run = PlainEngine.run

    def counted(self, states, start, stop, pieces):
        rows.append(len(pieces))
        return run(self, states, start, stop, pieces)

    monkeypatch.setattr(PlainEngine, "run", counted)
    ends = [3, 6, 9]  # new tokens of the texts

    def done(ids, _):
        place = [int(each) for each in inputs["input_ids"][:, -1]].index(int(ids[0, 8]))
        return torch.tensor([ids.shape[1] >= 9 + ends[place]])

    inputs = prompts(model)
    model.generate(
        **inputs,
        decoding=EarlyExit(rule="fixed", exits=(2,)),
        stopping_criteria=[done],
        max_new_tokens=NEW,
        do_sample=False,
    )

    assert rows[-3:] == [1] * 3
    assert rows.count(3) > rows.count(2) == rows.count(1) == 3


def written(model, decoding, inputs):
    """Run a loop by hand, to see the caches it leaves."""
    engine = engine_for(anatomy_of(model), decoding.engine)
    mask = inputs["attention_mask"]
    longest = inputs["input_ids"].shape[1] + NEW
    request = Request(
        ids=inputs["input_ids"],
        mask=mask,
        processors=(),
        criteria=lambda ids, _: ids.shape[1] >= longest,
        do_sample=False,
        most=longest,
        pad=0,
    )
    with torch.no_grad():
        return engine, write_all(decoding.steps(model, engine), request, engine)


@pytest.mark.parametrize("rule", OFTEN, ids=lambda rule: rule.rule)
def test_filled_caches_are_those_of_the_whole_model(rule):
    model = gated()
    engine, texts = written(model, rule, prompts(model))

    for text in texts:
        fresh = engine.row()
        tokens = torch.tensor(text.tokens)
        with torch.no_grad():
            pieces = [(fresh, len(tokens))]
            engine.run(engine.embed(tokens, pieces), 0, model.depth, pieces)
        assert text.row.lengths[0] == len(tokens) - 1
        for block, length in enumerate(text.row.lengths):
            ours, whole = text.row.kept[block][:, :length], fresh.kept[block][:, :length]
            torch.testing.assert_close(ours, whole, rtol=1e-4, atol=1e-4)


@given(
    threshold=st.floats(0.05, 0.9),
    rule=st.sampled_from(["top_probability", "top_gap", "entropy", "saturation", "gate"]),
    cache=st.sampled_from(["defer", "copy"]),
    lower=st.sampled_from([None, 1]),
)
def test_both_engines_leave_at_the_same_exits(threshold, rule, cache, lower):
    model = MODELS.setdefault("llama", gated())
    inputs = prompts(model)
    outputs = [
        noted(
            model,
            inputs,
            EarlyExit(rule=rule, threshold=threshold, cache=cache, lower=lower, engine=engine),
        )
        for engine in ("plain", "family")
    ]

    assert outputs[0].sequences.tolist() == outputs[1].sequences.tolist()
    assert outputs[0].exits.tolist() == outputs[1].exits.tolist()


MODELS = {}


@pytest.mark.parametrize("exit", [1, 2, 3])
def test_copied_states_of_a_fixed_exit_write_what_that_exit_alone_writes(exit):
    """From the second token on nothing above the exit is ever read."""
    model = model_with_exits()
    inputs = prompts(model, (6,))
    rule = EarlyExit(rule="fixed", exits=(exit,), cache="copy")

    text = told(model, inputs, rule)[0]

    begun = torch.tensor([text[:7]])  # the first new token is the last layer's
    rest = told(model, {"input_ids": begun}, FixedExit(exit=exit), max_new_tokens=NEW - 1)[0]
    assert text == rest


def test_blocks_above_the_exit_are_not_run():
    model = model_with_exits()
    runs = [0] * model.depth
    for number, block in enumerate(model.model.layers):
        block.mlp.register_forward_hook(
            lambda _, __, ___, number=number: runs.__setitem__(number, runs[number] + 1)
        )

    output = noted(model, prompts(model, (6,)), EarlyExit(rule="fixed", exits=(2,)))

    assert runs[1:] == [NEW, 1, 1]  # above exit 2 only the prompt
    assert output.blocks[0].tolist() == [6 * model.depth] + [2] * (NEW - 1)


def test_rules_without_scores_run_no_head_before_they_answer():
    model = gated()
    rows = []
    model.lm_head.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))

    for rule in ("gate", "saturation"):
        rows.clear()
        noted(model, prompts(model, (6,)), EarlyExit(rule=rule, threshold=0.5))
        assert rows == [1] * NEW


def test_a_schedule_is_kept():
    model = model_with_exits()
    rule = EarlyExit(rule="schedule", schedule=((0, 3), (4, 1), (9, 2)))

    output = noted(model, prompts(model, (6,)), rule, eos_token_id=None)

    assert output.exits[0].tolist() == [4, 3, 3, 3, *[1] * 5, *[2] * 5]


def test_thresholds_may_differ_by_exit_and_low_exits_may_be_kept_out():
    model = model_with_exits()
    inputs = prompts(model, (6,))

    low = noted(model, inputs, EarlyExit(rule="top_gap", threshold={1: 0.0, 2: 1.0, 3: 1.0}))
    high = noted(model, inputs, EarlyExit(rule="top_gap", threshold=0.0, min_exit=3))

    assert set(low.exits[0, 1:].tolist()) == {1}
    assert set(high.exits[0, 1:].tolist()) == {3}


def test_gates_leave_by_the_thresholds_stored_with_them():
    model = gated()
    for exit, threshold in ((1, 1.1), (2, 0.0), (3, 1.1)):
        model.exits[str(exit)].gate.threshold.fill_(threshold)

    output = noted(model, prompts(model, (6,)), EarlyExit())

    assert set(output.exits[0, 1:].tolist()) == {2}


def test_a_gate_leaves_at_its_own_threshold_but_only_above_one_that_is_given():
    model = gated()
    inputs = prompts(model, (6,))
    for exit in model.exit_numbers:
        gate = model.exits[str(exit)].gate
        torch.nn.init.zeros_(gate.linear.weight)  # 0.5 of every state
        gate.threshold.fill_(0.5 if exit == 2 else 1.1)

    own = noted(model, inputs, EarlyExit())
    given = noted(model, inputs, EarlyExit(threshold=0.5))

    assert set(own.exits[0, 1:].tolist()) == {2}
    assert set(given.exits[0, 1:].tolist()) == {model.depth}


def test_an_exit_that_answers_is_contrasted_with_one_below():
    model = model_with_exits()
    inputs = prompts(model, (6,))
    rule = EarlyExit(rule="fixed", exits=(3,), lower=1, cache="copy")

    text = told(model, inputs, rule)[0]

    begun = torch.tensor([text[:7]])
    contrast = Contrast(upper=3, lower=1)
    assert text == told(model, {"input_ids": begun}, contrast, max_new_tokens=NEW - 1)[0]


def test_the_contrast_of_early_exit_has_the_alpha_asked_for():
    model = model_with_exits()
    inputs = prompts(model)
    texts = []

    for alpha in (0.1, 0.9):
        rule = EarlyExit(rule="top_gap", threshold=1.0, lower=1, alpha=alpha)
        texts.append(told(model, inputs, rule))
        assert texts[-1] == told(model, inputs, Contrast(lower=1, alpha=alpha))
    assert texts[0] != texts[1]
    with pytest.raises(ConfigError, match="alpha must be above 0"):
        EarlyExit(lower=1, alpha=0.0)


def test_the_confidence_of_each_token_is_told():
    model = model_with_exits()

    output = noted(model, prompts(model, (6,)), EarlyExit(rule="top_gap", threshold=0.3))

    early = output.exits[0] < model.depth
    assert bool((output.confidence[0][early] > 0.3).all())
    assert output.confidence[0][~early].tolist() == [1.0] * int((~early).sum())


def test_direct_exits_need_no_training():
    model = attach_exits(tiny.model_of("llama"), (2,), "direct")

    output = noted(model, prompts(model), EarlyExit(rule="top_probability", threshold=0.5))

    assert output.sequences.shape[1] > 9


@pytest.mark.parametrize("rule", ["top_gap", "patience"])
def test_an_exit_that_was_asked_is_not_asked_again_for_its_answer(rule):
    model = attach_exits(tiny.model_of("llama"), (1, 2, 3), "direct")
    calls = []
    model.get_output_embeddings().register_forward_pre_hook(lambda *_: calls.append(1))

    threshold = {"top_gap": 0.0, "patience": 2}[rule]
    output = noted(
        model,
        prompts(model, (6,)),
        EarlyExit(rule=rule, threshold=threshold, engine="family"),
        eos_token_id=None,
    )

    stops = sum(exit - (exit == model.depth) for exit in output.exits[0, 1:].tolist())
    through = (output.exits[0] == model.depth).sum()
    assert len(calls) == stops + through


def test_blocks_that_a_family_runs_to_remember_are_counted():
    model, ran = model_with_exits("gpt2"), []
    for block in anatomy_of(model).blocks[2:]:
        block.mlp.register_forward_pre_hook(lambda _, states: ran.append(states[0].shape[1]))
    inputs = prompts(model, (6,))

    output = noted(
        model, inputs, EarlyExit(rule="fixed", exits=(2,), cache="copy"), eos_token_id=None
    )

    below = 2 * (6 + NEW - 1)
    assert int(output.blocks.sum()) - below == sum(ran) == below


def test_what_a_rule_compares_does_not_depend_on_the_contrast():
    model = model_with_exits()
    inputs = prompts(model, (6,))
    rule = {"rule": "saturation", "threshold": 0.0, "exits": (3,)}

    plain = noted(model, inputs, EarlyExit(**rule), max_new_tokens=2)
    contrasted = noted(model, inputs, EarlyExit(**rule, lower=2), max_new_tokens=2)

    assert plain.exits[0, 1] == contrasted.exits[0, 1] == 3
    assert plain.confidence[0, 1] == contrasted.confidence[0, 1]


@pytest.mark.parametrize(
    "loop",
    [
        EarlyExit(rule="top_gap", threshold=0.5),
        EarlyExit(rule="top_gap", threshold=0.5, exits=(0,), lower=1),
        SelfSpeculation(draft_exit=2),
        SelfSpeculation(draft_exit=3, target=Contrast(lower=1)),
        Autoregressive(target=FixedExit(exit=1)),
    ],
    ids=repr,
)
def test_block_exits_are_refused_before_anything_runs(loop):
    model = attach_exits(tiny.model_of("llama"), (1, 2, 3), "block")
    model.get_input_embeddings().register_forward_pre_hook(lambda *_: pytest.fail("it ran"))

    with pytest.raises(ConfigError, match=r"are 'block' exits, which our loops do not run"):
        noted(model, prompts(model), loop)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"threshold": {1: -0.1}}, "threshold must be from 0 to 1, got -0.1"),
        ({"threshold": 0.5, "exits": (-1, 2)}, "exits must be numbers from 0 up, got -1"),
        ({"threshold": 0.5, "lower": -1}, "exits must be numbers from 0 up, got -1"),
        ({"rule": "schedule", "schedule": ((0, -2),)}, "exits must be numbers from 0 up, got -2"),
    ],
)
def test_values_that_mean_nothing_are_refused(given, told):
    with pytest.raises(ConfigError, match=told):
        EarlyExit(**{"rule": "top_gap", **given})


def test_a_rule_that_nobody_calibrated_needs_a_threshold():
    model = model_with_exits()

    with pytest.raises(ConfigError, match="rule 'top_gap' needs a threshold from 0 to 1"):
        noted(model, prompts(model), EarlyExit(rule="top_gap"))
