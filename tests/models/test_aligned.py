"""Loaded weights begin where a cache line does, and are what they were."""

import torch
from safetensors.torch import load_file

import tiny
from models.elmer.small import fresh
from offramp import AutoMultiExitModel
from offramp.models.aligned import LINE, align
from offramp.models.elmer import ElmerForConditionalGeneration


def places(model):
    return {parameter.data_ptr() % LINE for parameter in model.parameters()}


def assert_amid_a_line(folder):
    weights = load_file(folder / "model.safetensors")
    assert any(weight.data_ptr() % LINE for weight in weights.values())


def test_weights_of_a_file_are_moved_to_the_beginning_of_a_line(tmp_path):
    made = tiny.model_of("llama", tie_word_embeddings=True)
    made.save_pretrained(tmp_path)
    assert_amid_a_line(tmp_path)

    model = AutoMultiExitModel.from_pretrained(tmp_path)

    assert places(model) == {0}
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    for name, weight in made.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name])


def test_an_elmer_too(tmp_path):
    fresh().save_pretrained(tmp_path)
    assert_amid_a_line(tmp_path)

    assert places(ElmerForConditionalGeneration.from_pretrained(tmp_path)) == {0}


def test_two_names_of_the_same_memory_stay_so():
    memory = torch.arange(9.0)[1:].view(2, 4)
    pair = torch.nn.ModuleList([torch.nn.Linear(4, 2), torch.nn.Linear(4, 2)])
    for layer in pair:
        layer.weight.data = memory

    align(pair)

    assert places(pair[0]) == {0}
    assert pair[0].weight.data_ptr() == pair[1].weight.data_ptr()
    assert torch.equal(pair[1].weight, memory)
