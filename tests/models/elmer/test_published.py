"""BART's format is read as what it is; BART's classes refuse what ELMER saved."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BartConfig,
    BartForCausalLM,
    BartForConditionalGeneration,
    BartModel,
    T5Config,
    T5ForConditionalGeneration,
)

from models.elmer.small import SIZES, VOCAB, config_of, shared, sources
from offramp.blocks.gates import NEVER
from offramp.errors import CheckpointError, ConfigError
from offramp.models.elmer import ElmerForConditionalGeneration, ElmerModel

GOLDEN = Path(__file__).parents[2] / "golden" / "elmer"


@pytest.fixture(scope="module")
def bart():
    torch.manual_seed(0)
    return BartForConditionalGeneration(BartConfig(**SIZES, init_std=0.3))


@pytest.fixture
def folder(tmp_path, bart):
    """A BART saved by transformers."""
    bart.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("form", ["bin", "safetensors", "sharded"])
def test_fine_tuned_weights_are_recognised_by_their_head_in_any_format(tmp_path, form):
    weights = torch.load(GOLDEN / "fine_tune" / "pytorch_model.bin", weights_only=True)
    wanted = weights["concat_head.weight"].clone()
    shutil.copy(GOLDEN / "fine_tune" / "config.json", tmp_path)
    if form == "bin":
        torch.save(weights, tmp_path / "pytorch_model.bin")
    else:
        weights = {name: tensor.clone() for name, tensor in weights.items()}
        name = "model.safetensors"
        if form == "sharded":
            name = "model-00001-of-00001.safetensors"
            index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
            (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        save_file(weights, tmp_path / name, metadata={"format": "pt"})

    model = ElmerForConditionalGeneration.from_pretrained(tmp_path)

    config = model.config
    assert (config.soft_exit, config.soft_training, config.exit_loss) == (True, "published", "all")
    assert (config.canvas_start_token_id, config.canvas_slack) == (0, False)
    assert config.mask_token_id == config.vocab_size - 1
    assert torch.equal(model.concat_head.weight, wanted)


def test_pre_trained_weights_have_no_soft_exit_unless_asked_for():
    plain = ElmerForConditionalGeneration.from_pretrained(GOLDEN / "pre_train")
    soft = ElmerForConditionalGeneration.from_pretrained(GOLDEN / "pre_train", soft_exit=True)

    assert not plain.config.soft_exit
    assert soft.config.soft_exit
    inputs = {"input_ids": torch.tensor([[0, 9, 8, 2]])}
    assert torch.equal(soft(**inputs).logits, plain(**inputs).logits)  # nothing is out of place


@pytest.mark.parametrize("source", ["a bart", "pre-trained"])
def test_what_might_be_a_bart_learns_with_slack_unless_told_otherwise(folder, source):
    source = folder if source == "a bart" else GOLDEN / "pre_train"

    config = ElmerForConditionalGeneration.from_pretrained(source).config
    told = ElmerForConditionalGeneration.from_pretrained(source, canvas_slack=False).config

    assert (config.canvas_slack, config.canvas_start_token_id) == (True, 0)
    assert (config.exit_loss, config.soft_training) == ("last", "leak_free")
    assert (told.canvas_slack, told.canvas_start_token_id) == (False, 0)


def test_what_the_configuration_file_says_of_the_canvas_is_kept(tmp_path):
    for kind in ("fine_tune", "pre_train"):
        shutil.copytree(GOLDEN / kind, tmp_path / kind)
        file = tmp_path / kind / "config.json"
        own = {"canvas_slack": kind == "fine_tune", "canvas_start_token_id": 7, "exit_loss": "last"}
        file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), **own}), "utf-8")

        config = ElmerForConditionalGeneration.from_pretrained(tmp_path / kind).config

        assert {name: getattr(config, name) for name in own} == own


@pytest.mark.parametrize("head", ["plain", "ctc", "dag"])
@pytest.mark.parametrize("by_name", [False, True])
def test_a_bart_is_a_start_for_any_head(folder, bart, head, by_name):
    more = {"output_head": head, "gates": True, "soft_exit": True}
    if by_name:
        model = ElmerForConditionalGeneration.from_pretrained(folder, **more)
    else:
        model = ElmerForConditionalGeneration.from_pretrained(
            folder, config=config_of(**more, length_predictor=head == "plain")
        )

    assert type(model) is ElmerForConditionalGeneration
    assert model.config.output_head == head
    known = model.state_dict()
    for name, tensor in bart.state_dict().items():
        assert torch.equal(known[name], tensor), name
    assert all(tensor.isfinite().all() for tensor in known.values())
    ids, mask = sources([5, 2])
    assert model.eval()(ids, mask).logits.isfinite().all()


@pytest.mark.parametrize("leftover", [7.7, float("nan")])
def test_what_a_checkpoint_lacks_is_set_and_not_left_to_chance(folder, leftover):
    weights = load_file(folder / "model.safetensors")
    del weights["final_logits_bias"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    rubbish = [torch.full((size,), leftover) for size in (1, VOCAB) for _ in range(200)]
    del rubbish  # what uninitialised memory would hold

    model = ElmerForConditionalGeneration.from_pretrained(folder, gates=True)

    assert model.final_logits_bias.tolist() == [[0.0] * VOCAB]
    for gate in model.gates.values():
        assert gate.threshold == torch.tensor(NEVER)
        assert gate.confidence(torch.randn(3, 16)).tolist() == [0.5] * 3


def test_the_start_has_the_dtype_and_the_attention_asked_for(folder):
    model = ElmerForConditionalGeneration.from_pretrained(
        pretrained_model_name_or_path=folder, dtype=torch.bfloat16, attn_implementation="eager"
    )

    assert model.dtype == torch.bfloat16
    assert model.config._attn_implementation == "eager"


def test_the_model_without_head_reads_bart_too(folder, bart):
    model = ElmerModel.from_pretrained(folder)

    assert type(model) is ElmerModel
    assert torch.equal(model.shared.weight, bart.model.shared.weight)
    assert torch.equal(model.decoder.layers[3].fc2.weight, bart.model.decoder.layers[3].fc2.weight)


@pytest.mark.parametrize("kind", [ElmerForConditionalGeneration, ElmerModel])
def test_a_source_laid_on_the_canvas_begins_small_and_is_kept_when_saved(tmp_path, folder, kind):
    model = kind.from_pretrained(folder, canvas_source=True)
    spread = next(tensor for name, tensor in model.state_dict().items() if "spread" in name)

    assert torch.equal(spread, model.config.init_std * torch.eye(16))
    spread.fill_(0.7)
    model.save_pretrained(tmp_path / "saved")
    loaded = kind.from_pretrained(tmp_path / "saved")
    assert loaded.config.canvas_source
    found = loaded.state_dict()
    assert all(torch.equal(found[name], each) for name, each in model.state_dict().items())


def test_weights_of_another_family_are_refused(tmp_path):
    t5 = T5Config(vocab_size=9, d_model=4, d_kv=2, d_ff=4, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(t5).save_pretrained(tmp_path)

    for kind in (ElmerForConditionalGeneration, ElmerModel):
        with pytest.raises(CheckpointError, match="model_type 't5'"):
            kind.from_pretrained(tmp_path)


def test_a_configuration_of_another_family_is_refused(folder):
    with pytest.raises(ConfigError, match="config must be an ElmerConfig, got BartConfig"):
        ElmerForConditionalGeneration.from_pretrained(folder, config=BartConfig())


@pytest.mark.parametrize("kind", [BartForConditionalGeneration, BartModel, BartForCausalLM])
def test_bart_s_classes_refuse_what_elmer_saved_and_say_why(tmp_path, kind):
    """They would warn of another model_type, take the weights, and write from left to right."""
    shared().save_pretrained(tmp_path)

    with pytest.raises(Exception, match="weights of an ELMER model, which writes in one pass"):
        kind.from_pretrained(tmp_path)


def test_published_weights_saved_by_us_are_refused_as_well(tmp_path):
    published = ElmerForConditionalGeneration.from_pretrained(GOLDEN / "fine_tune")
    published.save_pretrained(tmp_path)

    with pytest.raises(Exception, match="weights of an ELMER model"):
        BartForConditionalGeneration.from_pretrained(tmp_path)
    again = ElmerForConditionalGeneration.from_pretrained(tmp_path)
    assert again.config.soft_exit
    assert all(
        torch.equal(one, other)
        for one, other in zip(
            published.state_dict().values(), again.state_dict().values(), strict=True
        )
    )
