import pytest

import tiny
from offramp.errors import ConfigError
from offramp.models.truncated import truncated_config

LAST = tiny.DEPTH - 1


def cut(config, kept, *, tied=True):
    return truncated_config(config, depth=tiny.DEPTH, kept=kept, tied=tied)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("llama", "num_hidden_layers"),
        ("gpt2", "n_layer"),
        ("gpt_neo", "num_layers"),
        ("t5", "num_decoder_layers"),
        ("bart", "decoder_layers"),
    ],
)
def test_the_number_of_blocks_is_said_by_the_familys_own_name(family, name):
    assert getattr(cut(tiny.config_of(family), [0, 1]), name) == 2


@pytest.mark.parametrize("name", ["num_layers", "encoder_layers"])
def test_an_encoder_keeps_its_blocks(name):
    family = {"num_layers": "t5", "encoder_layers": "bart"}[name]
    config = tiny.config_of(family, **{name: tiny.DEPTH})

    assert getattr(cut(config, [0]), name) == tiny.DEPTH


@pytest.mark.parametrize("kept", [[0], [0, 1, 2], [0, LAST], [0, 1, 2, LAST]])
@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("gemma2", "layer_types"),
        ("gpt_neo", "attention_layers"),
        ("smollm3", "no_rope_layers"),
        ("qwen3_moe", "mlp_layer_types"),
    ],
)
def test_each_block_is_described_as_it_was(family, name, kept):
    config = tiny.config_of(family)
    before = getattr(config, name, None)

    after = getattr(cut(config, kept), name, None)

    assert after == (None if before is None else [before[block] for block in kept])


def test_numbers_of_blocks_follow_them():
    config = tiny.config_of("qwen2_moe", mlp_only_layers=[0, LAST])

    assert cut(config, [0, 1]).mlp_only_layers == [0]
    assert cut(config, [0, 1, LAST]).mlp_only_layers == [0, 2]


def test_settings_of_single_blocks_follow_them():
    config = tiny.config_of("llama", per_layer_config={1: {"intermediate_size": 40}})

    after = cut(config, [0, 1, 1])

    assert [each.intermediate_size for each in after.per_layer_config] == [48, 40, 40]


def test_settings_of_blocks_that_are_gone_go():
    config = tiny.config_of("llama", per_layer_config={LAST: {"intermediate_size": 40}})

    assert not cut(config, [0, 1]).is_heterogeneous


def test_a_part_of_a_configuration_is_cut_in_its_place():
    config = tiny.config_of("gemma3")

    after = cut(config, [0, 1], tied=False)

    assert after.text_config.num_hidden_layers == 2
    assert len(after.text_config.layer_types) == 2
    assert after.tie_word_embeddings is False
    assert config.text_config.num_hidden_layers == tiny.DEPTH


def test_the_whole_models_configuration_is_left_as_it_is():
    config = tiny.config_of("gemma2")
    before = config.to_dict()

    cut(config, [0], tied=False)

    assert config.to_dict() == before


def test_another_number_of_blocks_than_it_says_is_refused():
    with pytest.raises(
        ConfigError, match=r"does not say that there are 9 blocks.*layers is 4; use"
    ):
        truncated_config(tiny.config_of("llama"), depth=9, kept=[0], tied=True)
