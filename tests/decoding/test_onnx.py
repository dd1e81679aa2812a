"""Every way of decoding runs on ONNX Runtime's engines and writes what it would elsewhere."""

import pytest
import torch

import tiny
from offramp import (
    Autoregressive,
    Contrast,
    DoLa,
    EarlyExit,
    FixedExit,
    SelfSpeculation,
    attach_exits,
)
from offramp.errors import ConfigError

NEW = 10
NAMES = ["onnxruntime", "onnxruntime-int8", "onnxruntime-int4"]
EXACT = ["onnxruntime", "onnxruntime-int4"]
"""Int8 rounds states as well, so its texts may part where two tokens are nearly alike."""
TARGETS = [None, Contrast(lower=1), FixedExit(exit=3), DoLa(layers=(1,))]
WAYS = [
    SelfSpeculation(draft_exit=2, draft_length=3),
    SelfSpeculation(draft_exit=1, draft_length="auto", surest=0.02, lookup=2),
    EarlyExit(rule="top_gap", threshold=1.0),
]
MODELS = {}


def model_with_exits(family="llama"):
    if family not in MODELS:
        model = tiny.model_of(family, head_dim=16)
        MODELS[family] = attach_exits(model, (1, 2, 3), "cast")
    return MODELS[family]


def told(model, decoding, *, rows=3):
    ids = torch.randint(3, tiny.VOCAB, (rows, 6), generator=torch.Generator().manual_seed(4))
    mask = torch.ones_like(ids)
    mask[-1, :2] = 0
    return model.generate(
        ids, attention_mask=mask, decoding=decoding, max_new_tokens=NEW, do_sample=False
    ).tolist()


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_float32_writes_the_text_of_the_model(family, target):
    model = model_with_exits(family)

    ours = told(model, Autoregressive(target=target, engine="onnxruntime"))

    assert ours == told(model, target)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("way", WAYS, ids=["speculation", "lookup", "early exit"])
def test_every_way_writes_the_plain_text_of_its_engine(name, way):
    model = model_with_exits()
    way = type(way)(**{**vars(way), "engine": name})

    assert told(model, way) == told(model, Autoregressive(engine=name))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cache", ["defer", "copy"])
def test_texts_that_leave_early_are_written_to_their_ends(name, cache):
    model = model_with_exits()
    way = EarlyExit(rule="top_probability", threshold=0.2, cache=cache, engine=name)

    texts = told(model, way)

    assert len(texts) == 3
    assert (texts == told(model, EarlyExit(**{**vars(way), "engine": "plain"}))) or (
        name != "onnxruntime"
    )


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("target", TARGETS[1:], ids=str)
def test_speculation_writes_the_text_of_its_target(name, target):
    model = model_with_exits()

    drafted = told(model, SelfSpeculation(draft_exit=1, draft_length=2, target=target, engine=name))

    assert drafted == told(model, Autoregressive(target=target, engine=name))


def test_int8_refuses_drafts_that_could_change_the_text():
    model = model_with_exits()
    way = SelfSpeculation(draft_exit=1, draft_length=2, engine="onnxruntime-int8")

    with pytest.raises(ConfigError, match="rounds states, so drafts could change the text"):
        told(model, way)
