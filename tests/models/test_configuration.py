import dataclasses

import pytest

from offramp import Contrast, FixedExit, MultiExitConfiguration, VocabularyProjectionMode
from offramp.errors import ConfigError


def test_names_order_and_defaults_are_the_published_ones():
    fields = {field.name: field.default for field in dataclasses.fields(MultiExitConfiguration)}

    assert list(fields) == [
        "vocab_projection_mode",
        "lm_head_layer_indices",
        "freeze_parameters",
        "use_original_head",
        "output_layer_index",
        "contrast_layer_indices",
        "contrast_function",
    ]
    assert fields["vocab_projection_mode"] is VocabularyProjectionMode.LAYER_SPECIFIC_PROJECTION
    assert fields["use_original_head"] is True
    assert fields["freeze_parameters"] is False
    assert fields["contrast_function"].keywords == {"alpha": 0.1, "minimum_candidates": 1}


def test_published_projections_keep_their_numbers():
    assert [mode.value for mode in VocabularyProjectionMode][:3] == [0, 1, 2]
    assert VocabularyProjectionMode["SHARED_PROJECTION_DIRECT"].value == 2


def test_strings_of_lm_eval_arguments_are_read():
    config = MultiExitConfiguration(
        vocab_projection_mode="shared_projection_direct",
        lm_head_layer_indices="24;18;12",
        use_original_head="False",
        contrast_layer_indices="original;12",
    )

    assert config.lm_head_layer_indices == (12, 18, 24)
    assert config.rule == Contrast(upper="original", lower=12)
    assert config.get_description() == "original_vs_12"


@pytest.mark.parametrize(
    ("arguments", "description", "rule"),
    [
        ({}, "original_head", None),
        ({"use_original_head": False, "output_layer_index": "6"}, "layer_6", FixedExit(exit=6)),
        (
            {"use_original_head": False, "contrast_layer_indices": (24, 12)},
            "24_vs_12",
            Contrast(upper=24, lower=12),
        ),
    ],
)
def test_each_setting_has_its_description_and_rule(arguments, description, rule):
    config = MultiExitConfiguration(**arguments)

    assert config.get_description() == description
    assert config.rule == rule


def test_our_contrast_with_other_settings_stays_sparse_and_a_foreign_one_is_called():
    from functools import partial  # noqa: PLC0415

    from offramp import contrast_logits  # noqa: PLC0415

    def mine(upper, lower):
        return upper - lower

    ours = MultiExitConfiguration(
        use_original_head=False,
        contrast_layer_indices=(4, 2),
        contrast_function=partial(contrast_logits, alpha=0.3),
    )
    foreign = dataclasses.replace(ours, contrast_function=mine)

    assert ours.rule == Contrast(upper=4, lower=2, alpha=0.3)
    assert foreign.rule == Contrast(upper=4, lower=2, function=mine)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"contrast_layer_indices": (24, 12)}, "contradicts"),
        ({"use_original_head": False}, "needs output_layer_index or contrast"),
        (
            {
                "use_original_head": False,
                "output_layer_index": 3,
                "contrast_layer_indices": (24, 12),
            },
            "contradicts",
        ),
        ({"use_original_head": False, "contrast_layer_indices": (12, 24)}, "out of order"),
        ({"use_original_head": False, "contrast_layer_indices": (12, 12)}, "two exits"),
        ({"use_original_head": False, "contrast_layer_indices": (12, "original")}, "out of order"),
        ({"use_original_head": False, "contrast_layer_indices": "12"}, "takes two exits"),
        ({"use_original_head": False, "contrast_layer_indices": "a;b"}, "number of blocks"),
        ({"lm_head_layer_indices": (12, 12)}, "twice"),
        ({"lm_head_layer_indices": "2;12;6"}, "write 2;6;12"),
        ({"lm_head_layer_indices": ()}, "at least one"),
        ({"lm_head_layer_indices": (-1,)}, "from 0 up"),
        ({"use_original_head": "perhaps"}, "True or False"),
        ({"vocab_projection_mode": "magic"}, "use one of head, cast"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        MultiExitConfiguration(**arguments)
