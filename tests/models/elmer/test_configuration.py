"""What is saved loads as the same; what cannot be is refused."""

import pytest
from transformers import AutoConfig

from models.elmer.small import config_of
from offramp.errors import ConfigError
from offramp.models.elmer import ElmerConfig

CHANGED = {
    "mask_token_id": 7,
    "canvas_start_token_id": 0,
    "output_head": "dag",
    "canvas_ratio": 1.5,
    "canvas_extra": 3,
    "canvas_slack": False,
    "exit_loss": "all",
    "soft_exit": True,
    "soft_training": "published",
    "glancing": 0.5,
    "dag_heads": 2,
    "gates": True,
}


@pytest.mark.parametrize("more", [{}, CHANGED, {"length_predictor": True}], ids=str)
def test_what_is_saved_loads_as_the_same(tmp_path, more):
    config = config_of(**more)

    config.save_pretrained(tmp_path)

    for loaded in (ElmerConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is ElmerConfig
        for name in [*ElmerConfig.__dataclass_fields__, *more]:
            if name not in ("dtype", "transformers_version", "architectures"):
                assert getattr(loaded, name) == getattr(config, name), name
    for name, value in more.items():
        assert getattr(config, name) == value


def test_the_mask_is_the_last_of_the_vocabulary_unless_named_even_if_it_is_the_first():
    assert config_of().mask_token_id == 39
    assert config_of(mask_token_id=0).mask_token_id == 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"output_head": "tree"}, "no output_head 'tree'; use one of plain, ctc, dag"),
        ({"exit_loss": "first"}, "exit_loss must be 'last' or 'all'"),
        ({"soft_training": "hard"}, "no soft_training 'hard'"),
        ({"glancing": 1.5}, "glancing must be from 0 to 1, got 1.5"),
        ({"glancing": float("nan")}, "glancing must be from 0 to 1"),
        ({"mask_token_id": 40}, "mask_token_id must be from 0 to 39, got 40"),
        ({"canvas_ratio": -1.0}, "must not be negative"),
        ({"canvas_ratio": float("inf")}, "must not be negative"),
        ({"canvas_ratio": float("nan")}, "must not be negative"),
        ({"canvas_ratio": 0.0, "canvas_extra": 0}, "nor both 0"),
        ({"output_head": "ctc", "length_predictor": True}, "length_predictor is for 'plain'"),
        ({"output_head": "dag", "dag_heads": 3}, "dag_heads must divide d_model 16, got 3"),
        ({"output_head": "dag", "dag_heads": 0}, "dag_heads must divide d_model 16, got 0"),
        ({"output_head": "dag", "bos_token_id": None}, "bos_token_id must be one token"),
        ({"pad_token_id": None}, "pad_token_id must be one token"),
        ({"eos_token_id": None}, "eos_token_id must be one token"),
        ({"decoder_layerdrop": 0.1}, "decoder_layerdrop 0.1 is not for ELMER"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_one_line(wrong, said):
    with pytest.raises(ConfigError, match=said) as caught:
        config_of(**wrong)

    assert "\n" not in str(caught.value)
