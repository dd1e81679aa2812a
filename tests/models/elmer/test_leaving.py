"""Leaving early equals running everything and putting the states of those that left back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.elmer.brute import Rule, climbed
from models.elmer.small import RULES, fresh, shared, sources
from offramp.decoding.oneshot import CANVAS_RULES, OneShot
from offramp.errors import ConfigError
from offramp.models.elmer.canvas import blank_canvas, mask_of
from offramp.models.elmer.decoder import sight_of
from offramp.models.elmer.leaving import climb

batches = st.lists(
    st.tuples(st.integers(1, 6), st.integers(1, 8)), min_size=1, max_size=4
)  # tokens of a source, places of its canvas


def climb_of(model, batch, decoding):
    ids, mask = sources([source for source, _ in batch])
    lengths = torch.tensor([places for _, places in batch])
    with torch.no_grad():
        sight = sight_of(model.encode(ids, mask), mask, mask_of(lengths))
        return climb(model, blank_canvas(model.config, lengths), sight, decoding), ids


def assert_equals_brute_force(model, batch, decoding):
    left, ids = climb_of(model, batch, decoding)
    asked = range(1, 4) if decoding.exits is None else decoding.exits
    asked = [exit for exit in asked if exit >= decoding.min_exit]
    live = torch.zeros(4, dtype=torch.long)
    for row, (source, places) in enumerate(batch):
        leave = Rule(model, decoding.exit_rule, decoding.threshold, asked)
        canvas = torch.full((places,), model.config.mask_token_id)
        with torch.no_grad():
            states, exits = climbed(model, ids[row, :source], canvas, leave)
        assert left.exits[row, :places].tolist() == exits.tolist()
        assert torch.allclose(left.states[row, :places], states, atol=1e-9)
        live += torch.stack([(exits >= layer).sum() for layer in range(1, 5)])
    assert left.layers.tolist() == live.tolist()
    return left


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("rule", CANVAS_RULES)
@settings(max_examples=10)
@given(batch=batches, asked=st.sampled_from([None, (2,), (1, 3)]), lowest=st.sampled_from([1, 2]))
def test_leaving_equals_brute_force(rule, soft, batch, asked, lowest):
    model = shared(soft_exit=soft, gates=True)
    decoding = OneShot(exit_rule=rule, threshold=RULES[rule], exits=asked, min_exit=lowest)

    assert_equals_brute_force(model, batch, decoding)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("rule", CANVAS_RULES)
def test_tiny_models_leave_here_and_there_so_that_the_laws_say_something(rule, soft):
    model = shared(soft_exit=soft, gates=True)
    batch = [(5, 8), (2, 6), (6, 7), (1, 8), (3, 8)]

    left = assert_equals_brute_force(model, batch, OneShot(exit_rule=rule, threshold=RULES[rule]))

    assert len(set(left.exits[mask_of(torch.tensor([n for _, n in batch]))].tolist())) >= 2


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("rule", CANVAS_RULES)
def test_a_rule_that_never_says_yes_runs_all_layers(rule, soft):
    model = shared(soft_exit=soft, gates=True)
    batch = [(5, 8), (2, 3)]
    never = OneShot(exit_rule=rule, threshold=99 if rule == "patience" else 1.0)

    left, _ = climb_of(model, batch, never)
    whole, _ = climb_of(model, batch, OneShot())

    there = mask_of(torch.tensor([8, 3]))
    assert torch.allclose(left.states[there], whole.states[there], atol=1e-9)
    assert left.exits[there].tolist() == [4] * 11
    assert left.layers.tolist() == whole.layers.tolist() == [11] * 4


@pytest.mark.parametrize("exit", [1, 2, 3])
@pytest.mark.parametrize("rule", ["entropy", "top_probability", "top_gap", "gate"])
def test_a_rule_that_always_says_yes_at_one_exit_runs_just_so_many_layers(rule, exit):
    model = shared(gates=True)
    ids, mask = sources([5, 2])

    left, _ = climb_of(
        model, [(5, 13), (2, 10)], OneShot(exit_rule=rule, threshold=0.0, exits=(exit,))
    )
    with torch.no_grad():
        states = model(input_ids=ids, attention_mask=mask).decoder_hidden_states[exit]

    there = mask_of(torch.tensor([13, 10]))
    assert torch.allclose(left.states[there], states[there], atol=1e-9)
    assert left.layers.tolist() == [23] * exit + [0] * (4 - exit)


class Calls:
    """Counts the rows and positions that each layer's feed-forward part is run for."""

    def __init__(self, model):
        self.shapes = {}
        for number, layer in enumerate(model.model.decoder.layers, start=1):
            layer.fc1.register_forward_hook(self.hook(number))

    def hook(self, number):
        def note(_, inputs, __):
            self.shapes[number] = tuple(inputs[0].shape[:2])

        return note


def test_layers_are_run_for_live_positions_only():
    model = fresh()
    calls = Calls(model)

    left, _ = climb_of(model, [(5, 13)], OneShot(exit_rule="top_gap", threshold=RULES["top_gap"]))

    assert len(set(left.layers.tolist())) > 1
    found = [calls.shapes.get(number, (0, 0)) for number in range(1, 5)]
    assert [rows * places for rows, places in found] == left.layers.tolist()


def test_a_layer_that_nobody_needs_is_not_run():
    model = fresh()
    calls = Calls(model)

    climb_of(model, [(5, 8), (2, 8)], OneShot(exit_rule="entropy", threshold=0.0, exits=(2,)))

    assert sorted(calls.shapes) == [1, 2]


def test_rows_without_live_positions_leave_the_batch():
    batch, decoding = [(5, 8), (2, 1), (6, 1)], OneShot(exit_rule="top_gap", threshold=0.1)
    model = fresh()
    calls = Calls(model)

    left, _ = climb_of(model, batch, decoding)

    there = mask_of(torch.tensor([8, 1, 1]))
    rows = [int(((left.exits >= layer) & there).any(-1).sum()) for layer in range(1, 5)]
    assert rows[0] == 3
    assert rows[1] < 3 or rows[2] < 3 or rows[3] < 3
    assert [calls.shapes.get(number, (0, 0))[0] for number in range(1, 5)] == rows


def test_gates_leave_at_their_own_thresholds_unless_told_otherwise():
    model = fresh(gates=True)
    for gate in model.gates.values():
        gate.threshold.fill_(1.0)
    model.gates["2"].threshold.fill_(0.0)

    own, _ = climb_of(model, [(5, 8)], OneShot(exit_rule="gate"))
    told, _ = climb_of(model, [(5, 8)], OneShot(exit_rule="gate", threshold=0.0))

    assert own.exits.tolist() == [[2] * 8]
    assert told.exits.tolist() == [[1] * 8]


def test_gates_that_are_not_there_are_asked_for_in_vain():
    with pytest.raises(ConfigError, match="this model has no gates"):
        climb_of(shared(), [(1, 1)], OneShot(exit_rule="gate"))


@pytest.mark.parametrize("exit", [0, 5])
def test_exits_that_there_are_not_are_refused(exit):
    with pytest.raises(ConfigError, match="exits must be from 1 to 4"):
        climb_of(shared(), [(1, 1)], OneShot(exit_rule="entropy", threshold=0.5, exits=(exit,)))


def test_a_lowest_exit_that_there_is_not_is_refused():
    with pytest.raises(ConfigError, match="min_exit must be at most 4, got 5"):
        climb_of(shared(), [(1, 1)], OneShot(exit_rule="entropy", threshold=0.5, min_exit=5))


@pytest.mark.parametrize("rule", CANVAS_RULES)
@settings(max_examples=10)
@given(batch=batches)
def test_what_positions_said_when_they_left_is_what_their_states_say(rule, batch):
    model = shared(gates=True)

    left, _ = climb_of(model, batch, OneShot(exit_rule=rule, threshold=RULES[rule]))

    with torch.no_grad():
        scored, states = left.scored(model), model.score(left.states)
    there = mask_of(torch.tensor([places for _, places in batch]))
    assert torch.allclose(scored[there], states[there], atol=1e-9)


@pytest.mark.parametrize(("rule", "again"), [("entropy", 0), ("gate", 2 * 8)])
def test_a_position_that_left_by_its_scores_is_not_scored_again(rule, again):
    model = fresh(gates=True)
    decoding = OneShot(exit_rule=rule, threshold=0.0, exits=(2,))
    left, _ = climb_of(model, [(5, 8), (2, 8)], decoding)
    rows = []
    model.lm_head.register_forward_hook(lambda _, given, __: rows.append(given[0][..., 0].numel()))

    with torch.no_grad():
        left.scored(model)

    assert sum(rows) == again
