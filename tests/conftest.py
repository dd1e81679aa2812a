"""What every test shares: one thread, no network, tiny models, quiet transformers."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import pytest
import tiny
import torch
from hypothesis import settings
from torch import nn
from transformers.utils import logging

torch.set_num_threads(1)
logging.set_verbosity_error()
logging.disable_progress_bar()
settings.register_profile("offramp", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("offramp")


@pytest.fixture(autouse=True)
def _names_for_doctests(doctest_namespace):
    doctest_namespace.update(torch=torch, nn=nn)


@pytest.fixture
def tiny_llama():
    """A fresh 4-block Llama: tests may change it."""
    return tiny.model_of("llama")
