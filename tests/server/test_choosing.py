"""Fields of a request become the decoding that they name, or one error."""

import pytest

from offramp import Contrast, DoLa, EarlyExit, FixedExit, SelfSpeculation
from offramp.errors import ConfigError
from offramp.server.choosing import decoding_of
from offramp.server.hosted import CausalHost
from offramp.server.schemas import ExitFields, OfframpFields
from small_server import add_gates_, byte_tokenizer, causal_model


def host_of(model):
    return CausalHost("tiny", model, tokenizer=byte_tokenizer(), writers=None)


@pytest.fixture(scope="module")
def plain():
    return host_of(causal_model())


@pytest.fixture(scope="module")
def gated():
    model = causal_model()
    add_gates_(model)
    return host_of(model)


def chosen(host, flat=None, own=None):
    return decoding_of(host, ExitFields(**(flat or {})), OfframpFields(**own) if own else None)


@pytest.mark.parametrize(
    ("fields", "decoding"),
    [
        ({}, None),
        ({"decoding": "plain"}, None),
        ({"decoding": "contrast"}, Contrast(lower=2)),
        ({"decoding": "contrast", "lower": 1, "alpha": 0.5}, Contrast(lower=1, alpha=0.5)),
        ({"contrast": {"upper": 3, "lower": 1}}, Contrast(upper=3, lower=1)),
        ({"decoding": "exit", "exit": 3}, FixedExit(exit=3)),
        ({"exit": "original"}, FixedExit(exit="original")),
        ({"decoding": "dola"}, DoLa()),
        ({"layers": [1, 2]}, DoLa(layers=(1, 2))),
        ({"decoding": "dola", "alpha": 0.5}, DoLa(relative_top=0.5)),
        ({"decoding": "early_exit"}, EarlyExit(rule="top_gap", threshold=0.9)),
        ({"rule": "patience"}, EarlyExit(rule="patience", threshold=3)),
        ({"threshold": 0.5, "lower": 1}, EarlyExit(rule="top_gap", threshold=0.5, lower=1)),
        ({"decoding": "speculation"}, SelfSpeculation(draft_exit=1)),
        ({"draft_exit": 2, "lookup": 3}, SelfSpeculation(draft_exit=2, lookup=3)),
        (
            {"decoding": "speculation", "contrast": {"lower": 2}},
            SelfSpeculation(draft_exit=1, target=Contrast(lower=2)),
        ),
        (
            {"decoding": "speculation", "exit": 3},
            SelfSpeculation(draft_exit=1, target=FixedExit(exit=3)),
        ),
    ],
)
def test_fields_name_a_decoding(plain, fields, decoding):
    assert chosen(plain, own=fields) == decoding


def test_fields_at_the_top_and_below_offramp_mean_the_same(plain):
    both = chosen(plain, flat={"decoding": "exit"}, own={"exit": 2})

    assert both == chosen(plain, flat={"exit": 2}) == FixedExit(exit=2)


def test_gates_are_asked_where_there_are_some(gated):
    assert chosen(gated, own={"decoding": "early_exit"}) == EarlyExit()
    assert chosen(gated, own={"decoding": "early_exit", "threshold": 0.8}) == EarlyExit(
        threshold=0.8
    )


def test_what_was_chosen_at_loading_answers_where_a_request_does_not_say():
    model = causal_model()
    model.default_decoding = Contrast(lower=1)

    assert chosen(host_of(model)) == Contrast(lower=1)
    assert chosen(host_of(model), own={"decoding": "plain"}) is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"decoding": "plain", "exit": 2}, "exit would change nothing with decoding 'plain'"),
        ({"decoding": "exit"}, "needs the exit"),
        ({"decoding": "exit", "threshold": 0.5}, "threshold would change nothing"),
        ({"rule": "fixed"}, "no rule 'fixed'"),
        ({"rule": "patience", "threshold": 2.5}, "patience needs how many"),
        ({"decoding": "contrast", "upper": 1, "lower": 3}, "out of order"),
        ({"contrast": {"alpha": 0.0}}, "alpha must be above 0"),
        ({"contrast": {"lower": 2}, "lower": 1}, "lower is said twice"),
        ({"decoding": "speculation", "exit": 3, "lower": 1}, "not both"),
        ({"decoding": "early_exit", "contrast": {"upper": 3}}, "chooses the upper exit itself"),
    ],
)
def test_what_is_impossible_or_without_effect_is_refused(plain, fields, said):
    with pytest.raises(ConfigError, match=said):
        chosen(plain, own=fields)


def test_a_field_that_is_said_twice_must_be_the_same(plain):
    with pytest.raises(ConfigError, match=r"exit is said twice, 2 and offramp\.exit 3"):
        chosen(plain, flat={"exit": 2}, own={"exit": 3})
