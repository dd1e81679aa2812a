"""A tiny model with exits and gates, in folders, and lm-eval without a network."""

import pytest

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

import torch
from transformers import AutoModelForCausalLM

import tiny
from cli.conftest import CONTEXT, VOCABULARY, byte_tokenizer
from offramp import attach_exits
from offramp.blocks.projections import add_gate_
from offramp.models.storage import save_exits


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Let nobody reach the hub."""
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> str:
    """A 4-block Llama of plain transformers, with a tokenizer of bytes."""
    folder = tmp_path_factory.mktemp("plain")
    sizes = {"vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT}
    tiny.model_of("llama", **sizes).save_pretrained(folder)
    byte_tokenizer(adds_bos=False).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def exits(plain, tmp_path_factory) -> str:
    """Exits with gates for it, in a folder of their own, which names it."""
    folder = tmp_path_factory.mktemp("exits")
    model = attach_exits(AutoModelForCausalLM.from_pretrained(plain), (1, 2, 3), "lens")
    generator = torch.Generator().manual_seed(4)
    for exit in (1, 2, 3):
        gate = add_gate_(model.exits[str(exit)], model.anatomy, exit)
        torch.nn.init.normal_(gate.linear.weight, std=0.5, generator=generator)
    save_exits(model, folder)
    return str(folder)
