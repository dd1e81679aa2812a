"""Exits on a base whose weights are int8 (torchao, which runs on any processor)."""

import pytest
import torch
from transformers import TorchAoConfig

import tiny
from offramp import AutoMultiExitModel, Contrast, MultiExitConfiguration, attach_exits
from offramp.blocks.projections import can_gather
from offramp.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore")


def quantised(folder, config, *, head: bool):
    torchao = pytest.importorskip("torchao.quantization")
    quantization = TorchAoConfig(
        torchao.Int8WeightOnlyConfig(), include_input_output_embeddings=head
    )
    return AutoMultiExitModel.from_pretrained(
        folder, config, quantization_config=quantization, dtype=torch.float32
    )


@pytest.fixture
def base(tmp_path):
    tiny.model_of("llama").save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("head", [False, True], ids=["plain head", "int8 head"])
@pytest.mark.parametrize("projection", ["cast", "direct", "lens", "block"])
def test_exits_follow_the_type_of_the_state_and_contrast_works(projection, head, base):
    model = quantised(base, MultiExitConfiguration(projection, "1;3"), head=head)
    ids = tiny.prompt(model)["input_ids"]

    made = model.generate(ids, max_new_tokens=4, do_sample=False, decoding=Contrast(lower=1))
    with torch.no_grad():
        sparse, dense = (
            model(ids, decoding=Contrast(lower=1, alpha=0.9, sparse=s), logits_to_keep=1).logits
            for s in (True, False)
        )

    assert made.shape[1] > 7
    assert can_gather(model.lm_head) is not head
    assert torch.allclose(sparse, dense, atol=1e-4)
    assert {each.dtype for each in model.exits.parameters()} <= {torch.float32, torch.int8}


def test_own_heads_cannot_copy_an_int8_head_and_say_so(base):
    model = quantised(base, MultiExitConfiguration("direct", "1"), head=True)

    with pytest.raises(ConfigError, match="use 'lens' or 'cast'"):
        attach_exits(model, (2,), "head")


def test_exits_saved_on_a_float_base_load_on_its_int8_form(base, tmp_path):
    model = AutoMultiExitModel.from_pretrained(base, MultiExitConfiguration("lens", "1;3"))
    model.save_pretrained(tmp_path / "saved")

    loaded = quantised(tmp_path / "saved", None, head=False)

    assert loaded.exit_numbers == (1, 3)
