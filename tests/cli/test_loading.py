"""Any model of transformers answers; what cannot be loaded is one line."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from offramp import (
    AutoMultiExitModel,
    MultiExitConfiguration,
    attach_exits,
    save_exits,
)


def test_exits_that_a_checkpoint_brings_are_kept(generate, refused, make_folder, tmp_path):
    config = MultiExitConfiguration("lens", lm_head_layer_indices=(1, 3))
    model = AutoMultiExitModel.from_pretrained(make_folder(), config)
    with torch.no_grad():
        for parameter in model.exits.parameters():
            parameter.normal_(0, 0.5)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(model.name_or_path).save_pretrained(tmp_path)

    ran = generate("a", "--exit", 3, model=str(tmp_path))

    assert ran.code == 0
    assert ran.out != generate("a", "--exit", 3).out
    refused(generate("a", "--exit", 2, model=str(tmp_path)), "attached exits: 1, 3")


def test_a_folder_of_exits_alone_is_answered_by_its_base(generate, folder, tmp_path):
    model = attach_exits(AutoMultiExitModel.from_pretrained(folder), (2,), "direct")
    save_exits(model, tmp_path)

    assert generate("a", "--exit", 2, model=str(tmp_path)).out == generate("a", "--exit", 2).out


def test_an_encoder_decoder_answers_with_exits(generate, make_folder):
    t5 = make_folder("t5", template=None)

    plain = generate("a ferry", "--json", model=t5)
    contrast = generate("a ferry", "--json", "--contrast", "original:2", model=t5)

    assert plain.code == contrast.code == 0, plain.err + contrast.err
    assert 1 <= plain.results[0]["new_tokens"] <= 8
    assert plain.texts != contrast.texts


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("no/such-model", "cannot"),
        ("./nowhere", "--model './nowhere' is no folder, nor a hub name"),
        ("", "is no folder, nor a hub name"),
    ],
)
def test_a_model_that_is_not_there_is_one_line(generate, refused, model, said):
    refused(generate("a", model=model), said)


def test_a_folder_without_a_model_is_one_line(generate, refused, tmp_path):
    refused(generate("a", model=str(tmp_path)), "cannot load", str(tmp_path))


def test_a_model_without_a_tokenizer_is_one_line(generate, refused, folder, tmp_path):
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path)

    refused(generate("a", model=str(tmp_path)), "cannot load the tokenizer of", str(tmp_path))


def test_a_model_with_a_foreign_tokenizer_is_one_line(generate, refused, make_folder):
    refused(generate("a", model=make_folder(vocab_size=61)), "give the model its own tokenizer")


def test_an_embedded_model_that_cannot_be_fetched_is_one_line(
    offramp, refused, tmp_path, monkeypatch
):
    monkeypatch.setenv("OFFRAMP_CACHE", str(tmp_path))
    monkeypatch.setenv("OFFRAMP_DEFAULT_WHEEL", str(tmp_path / "none.whl"))

    refused(offramp("generate", "a"), "OFFRAMP_DEFAULT_WHEEL must name the wheel")


def test_out_of_memory_is_one_line(generate, refused, monkeypatch):
    def exhausted(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr("offramp.models.multiexit.MultiExitModel.generate", exhausted)

    refused(generate("a", "--batch-size", 4), "out of memory with --device auto and --batch-size 4")
