"""What a call of generate is told is checked before anything runs."""

import math

import pytest

from offramp.decoding.oneshot import CANVAS_RULES, OneShot
from offramp.errors import ConfigError


@pytest.mark.parametrize("rule", CANVAS_RULES)
def test_every_rule_has_a_threshold_that_it_takes(rule):
    threshold = 2 if rule == "patience" else 0.5

    assert OneShot(exit_rule=rule, threshold=threshold, exits=(1, 3), min_exit=2).exits == (1, 3)


def test_gates_bring_their_own_threshold():
    assert OneShot(exit_rule="gate").threshold is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"exit_rule": "luck", "threshold": 0.5}, "no exit_rule 'luck'"),
        ({"exit_rule": "entropy"}, "'entropy' needs a threshold from 0 to 1"),
        ({"exit_rule": "entropy", "threshold": 1.1}, "threshold must be from 0 to 1, got 1.1"),
        ({"exit_rule": "entropy", "threshold": math.nan}, "threshold must be from 0 to 1, got nan"),
        ({"exit_rule": "patience"}, "patience needs"),
        ({"exit_rule": "patience", "threshold": 1}, "at least 2; got 1"),
        ({"exit_rule": "patience", "threshold": 2.5}, "at least 2; got 2.5"),
        ({"exit_rule": "patience", "threshold": math.nan}, "at least 2; got nan"),
        ({"exit_rule": "patience", "threshold": math.inf}, "at least 2; got inf"),
        ({"threshold": 0.5}, "threshold 0.5 without exit_rule"),
        ({"exits": (1,)}, "without exit_rule"),
        ({"min_exit": 2}, "min_exit 2 without exit_rule"),
        ({"exit_rule": "entropy", "threshold": 0.5, "min_exit": 0}, "min_exit must be at least 1"),
        ({"path": "shortest"}, "no path 'shortest'"),
        ({"path": "viterbi", "length_penalty": -1.0}, "length_penalty must be 0 or above, got -1"),
        ({"path": "beam", "length_penalty": math.nan}, "length_penalty must be 0 or above"),
        ({"length_penalty": 1.3}, "length_penalty 1.3 is for path viterbi and beam"),
        ({"lengths": 0}, "lengths must be at least 1, got 0"),
        ({"refine_steps": -1}, "refine_steps must be at least 0, got -1"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram must be at least 0, got -1"),
        ({"canvas_length": 0}, "canvas_length must be at least 1, got 0"),
        ({"temperature": -0.1}, "temperature must be 0"),
        ({"temperature": math.nan}, "temperature must be 0"),
        ({"temperature": math.inf}, "temperature must be 0"),
        ({"lengths": 2, "canvas_length": 5}, "leave one of the two"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_one_line(wrong, said):
    with pytest.raises(ConfigError, match=said) as caught:
        OneShot(**wrong)

    assert "\n" not in str(caught.value)


def test_the_defaults_ask_for_nothing():
    plain = OneShot()

    assert plain == OneShot(
        exit_rule=None,
        threshold=None,
        exits=None,
        min_exit=1,
        canvas_length=None,
        lengths=1,
        refine_steps=0,
        path="lookahead",
        length_penalty=1.0,
        collapse_repeats=False,
        no_repeat_ngram=0,
        temperature=0.0,
    )
