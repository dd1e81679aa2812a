"""What --model_args say is read, and nonsense is refused before a model is loaded."""

import pytest

from offramp import Contrast, DoLa, EarlyExit, FixedExit, MultiExitConfiguration
from offramp.errors import OfframpError
from offramp.evaluation.harness.settings import HarnessSettings, read_arguments


@pytest.mark.parametrize(
    ("arguments", "decoding"),
    [
        ({}, None),
        ({"use_original_head": True}, None),
        ({"output_layer_index": "original"}, None),
        ({"output_layer_index": 12}, FixedExit(exit=12)),
        ({"output_layer_index": 12, "use_original_head": False}, FixedExit(exit=12)),
        ({"contrast_layer_indices": "24;12"}, Contrast(upper=24, lower=12)),
        ({"contrast_layer_indices": "original;12", "alpha": 0.3}, Contrast(lower=12, alpha=0.3)),
        ({"dola": "high"}, DoLa(layers="high")),
        ({"dola": "2;4"}, DoLa(layers=(2, 4))),
        ({"dola": 2}, DoLa(layers=2)),
        ({"early_exit": "gate"}, EarlyExit()),
        ({"early_exit": "patience:3"}, EarlyExit(rule="patience", threshold=3)),
        ({"early_exit": "fixed:12"}, EarlyExit(rule="fixed", exits=(12,))),
        (
            {"early_exit": "top_gap:0.8", "contrast_layer_indices": "original;12"},
            EarlyExit(rule="top_gap", threshold=0.8, lower=12),
        ),
    ],
    ids=str,
)
def test_arguments_make_the_decoding(arguments, decoding):
    assert HarnessSettings(**arguments).decoding == decoding


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"contrast_layers": "original;12"}, "did you mean contrast_layer_indices"),
        ({"peft": "x"}, "no 'peft'"),
        ({"output_layer_index": 12, "contrast_layer_indices": "original;12"}, "exclude"),
        ({"output_layer_index": 12, "early_exit": "gate"}, "exclude"),
        ({"dola": "low", "contrast_layer_indices": "original;12"}, "exclude"),
        ({"use_original_head": True, "output_layer_index": 12}, "contradicts"),
        ({"use_original_head": True, "contrast_layer_indices": "original;12"}, "contradicts"),
        ({"use_original_head": False}, "needs output_layer_index"),
        ({"contrast_layer_indices": "12;original"}, "swap them"),
        ({"contrast_layer_indices": 12}, "two exits"),
        ({"output_layer_index": "twelve"}, "try 12"),
        ({"output_layer_index": -1}, "try 12"),
        ({"alpha": 0.1}, "belongs to contrast_layer_indices"),
        ({"contrast_layer_indices": "original;12", "alpha": "x"}, "alpha must be a number"),
        ({"contrast_layer_indices": "original;12", "alpha": [1]}, "alpha must be a number"),
        ({"dola": "middle"}, "number"),
        ({"early_exit": "sometimes"}, "takes one of"),
        ({"early_exit": "top_gap:much"}, "takes a number"),
        ({"early_exit": "top_gap:1.5"}, "0 to 1"),
        ({"early_exit": "gate", "contrast_layer_indices": "24;12"}, "original;12"),
        ({"first_token": "rule"}, "belongs to early_exit"),
        ({"early_exit": "gate", "first_token": "half"}, "whole or rule"),
        ({"chunk": 0}, "1 or more"),
        ({"chunk": "many"}, "whole number"),
    ],
    ids=str,
)
def test_nonsense_is_refused(arguments, words):
    with pytest.raises(OfframpError, match=words):
        read_arguments(arguments)


def test_a_configuration_object_takes_the_place_of_its_names():
    chosen = MultiExitConfiguration(use_original_head=False, output_layer_index=12)

    assert HarnessSettings(multi_exit_config=chosen).decoding == FixedExit(exit=12)
    with pytest.raises(OfframpError, match="give one"):
        HarnessSettings(multi_exit_config=chosen, output_layer_index=12)


def test_what_hf_knows_is_passed_on():
    settings, passed_on = read_arguments({"dtype": "float32", "batch_size": 3, "dola": "low"})

    assert passed_on == {"dtype": "float32", "batch_size": 3}
    assert settings.dola == "low"
