"""Junk in lm-eval's ``--model_args``: settings, or one line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzing import NUMBERS, TEXTS, fuzzed, outcome

pytest.importorskip("lm_eval")

from lm_eval.utils import simple_parse_args_string

from offramp.evaluation.harness.settings import read_arguments

NAMES = ("contrast_layer_indices", "output_layer_index", "lm_head_layer_indices", "alpha", "dola")
NAMES += ("use_original_head", "early_exit", "first_token", "chunk", "vocab_projection_mode", "nam")
WORDS = ("original;12", "12", "6;12", "gate:0.9", "fixed:2", "top_gap", "low", "2;4", "head", "1.5")
WORDS += ("True", "None", "rule", "12;original", "[1]", "9" * 5000, *TEXTS, *map(str, NUMBERS))


@fuzzed(30)
@given(given=st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(WORDS)), max_size=4))
def test_arguments_as_a_string(given):
    told = ",".join(f"{name}={value}" for name, value in given)

    found = outcome(read_arguments, simple_parse_args_string(told))

    assert found is None or set(found[1]) <= {name for name, _ in given}


@fuzzed(30)
@given(given=st.dictionaries(st.sampled_from(NAMES), st.sampled_from((*NUMBERS, *WORDS, None))))
def test_arguments_as_lm_eval_may_read_them(given):
    outcome(read_arguments, given)
