"""A trace of a canvas shows the text that is written, and each place up to where it left."""

import pytest
import torch

from models.elmer.small import HEADS, RULES, shared, sources
from offramp import OneShot
from offramp.errors import ConfigError, ExitNotFoundError, InputError

SOURCE, _ = sources([10])
WAYS = [None, *RULES]


def model_for(rule, head="plain", **more):
    return shared(**HEADS[head], gates=rule == "gate", **more)


def way(rule):
    return None if rule is None else OneShot(exit_rule=rule, threshold=RULES[rule])


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("rule", WAYS)
def test_the_targets_are_the_text_that_is_written_each_from_its_exit(rule, head):
    model = model_for(rule, head)
    written = model.generate(SOURCE, decoding=way(rule), return_dict_in_generate=True)

    trace = model.trace(SOURCE, decoding=way(rule), top=1)

    taken = [each for each in trace.positions if each.target is not None]
    assert trace.kind == "canvas"
    assert trace.length == int(written.canvas_lengths[0]) == len(trace.positions)
    assert [each.index for each in taken] == written.places[0].tolist()
    assert [each.target.id for each in taken] == written.sequences[0].tolist()
    assert [each.left for each in taken] == written.exits[0].tolist()
    if head == "plain":  # where nothing is aligned, the best token is what is written
        assert [each.said[-1].top[0].token.id for each in taken] == written.sequences[0].tolist()


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_above_the_exit_that_a_place_left_at_nothing_changes(rule, soft):
    model = model_for(rule, soft_exit=soft)

    trace = model.trace(SOURCE, decoding=way(rule))

    left = {each.left for each in trace.positions}
    assert len(left) > 1
    for position in trace.positions:
        above = [said for said in position.said if said.exit in ("original", *range(5))]
        above = above[position.left - 1 :]
        assert all(said.top == above[-1].top for said in above)
        assert all((said.divergence, said.agrees) == (0.0, True) for said in above)


@pytest.mark.parametrize("soft", [False, True])
def test_each_layer_says_what_its_states_say(soft):
    model = model_for(None, soft_exit=soft)
    states = model(SOURCE).decoder_hidden_states
    banned = [model.config.pad_token_id, model.config.mask_token_id]

    trace = model.trace(SOURCE, exits=(0, 1, 3), decoding=OneShot(canvas_length=len(states[0][0])))

    for number, exit in enumerate((0, 1, 3, 4)):
        logits = model.score(states[exit])[0]
        logits[:, banned] = -torch.inf
        logits[1:, model.config.bos_token_id] = -torch.inf
        best = logits.softmax(-1).max(-1)
        said = [position.said[number] for position in trace.positions]
        assert [each.top[0].token.id for each in said] == best.indices.tolist()
        shares = best.values.tolist()
        assert [each.top[0].probability for each in said] == pytest.approx(shares, rel=1e-4)


def test_a_window_of_a_canvas_is_the_same_places_of_the_whole():
    model = model_for("entropy")
    whole = model.trace(SOURCE, decoding=way("entropy"))

    part = model.trace(SOURCE, decoding=way("entropy"), positions=slice(2, 5))

    for one, other in zip(part.positions, whole.positions[2:5], strict=True):
        assert (one.index, one.token, one.target, one.left) == (
            other.index,
            other.token,
            other.target,
            other.left,
        )
        for said, known in zip(one.said, other.said, strict=True):
            assert [each.token for each in said.top] == [each.token for each in known.top]
            assert said.entropy == pytest.approx(known.entropy, rel=1e-4)


def test_a_gate_tells_its_opinion_and_who_leaves_by_it():
    model = model_for("gate")

    trace = model.trace(SOURCE, decoding=OneShot(exit_rule="gate", threshold=0.5))

    for position in trace.positions:
        yes = [said.exit for said in position.said[:-1] if said.gate.leaves]
        assert position.left == min(yes, default=4)


def test_a_short_text_is_cut_as_generate_cuts_it():
    model = model_for(None)
    written = model.generate(SOURCE, max_new_tokens=2)

    trace = model.trace(SOURCE, max_new_tokens=2)

    assert [p.target.id for p in trace.positions if p.target] == written[0].tolist()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"decoding": OneShot(refine_steps=1)}, ConfigError, "refine_steps must be 0, got 1"),
        ({"decoding": OneShot(temperature=0.5)}, ConfigError, "temperature must be 0.0"),
        ({"decoding": OneShot(exit_rule="gate")}, ConfigError, "no gates"),
        ({"decoding": OneShot(path="greedy")}, ConfigError, "is for a 'dag' head"),
        ({"exits": (5,)}, ExitNotFoundError, "the decoder has 4 layers"),
        ({"text": [[3], [4]]}, InputError, "one text, got 2 rows"),
        ({"text": "a"}, ConfigError, "tokenizer=tokenizer"),
        ({"num_beams": 3}, ConfigError, "num_beams must be 1"),
        ({"surprise": 3}, ConfigError, "does not know surprise"),
    ],
)
def test_what_cannot_be_traced_is_refused(options, error, words):
    with pytest.raises(error, match=words):
        model_for(None).trace(**{"text": SOURCE, **options})
