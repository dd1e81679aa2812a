"""Every engine gives each text what the model's own forward gives it alone."""

import pytest
import torch

import tiny
from offramp.blocks.anatomy import CHECKED, anatomy_of
from offramp.blocks.engines import engine_for
from offramp.blocks.engines.plain import FAMILIES
from offramp.errors import CacheError, ConfigError

CAUSAL = sorted(CHECKED - {"t5", "bart"})
ONNX_FAMILIES = ("llama", "qwen2", "qwen3")
ENGINES = [
    *((family, "plain") for family in sorted(FAMILIES - {"mistral"})),
    *((family, "packed") for family in sorted(FAMILIES - {"mistral"})),
    *((family, "family") for family in CAUSAL),
    *((family, "onnxruntime") for family in ONNX_FAMILIES),
]
HEAD_WIDTH = {"head_dim": 16}
"""ONNX Runtime turns heads of a multiple of 16 only."""


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def made(family, name, **extra):
    model = tiny.model_of(family, **(HEAD_WIDTH if name == "onnxruntime" else extra))
    return model, engine_for(anatomy_of(model), name)


def texts(*lengths, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, tiny.VOCAB, (length,), generator=generator) for length in lengths]


def own(model, text):
    """Last states of the model's own forward, normed."""
    return model.get_decoder()(text[None]).last_hidden_state[0]


def fed(engine, rows, parts):
    pieces = [(row, len(part)) for row, part in zip(rows, parts, strict=True)]
    depth = engine.anatomy.depth
    states = engine.run(engine.embed(torch.cat(parts), pieces), 0, depth, pieces)
    return engine.anatomy.finish(states).split([len(part) for part in parts])


@pytest.mark.parametrize(("family", "name"), ENGINES)
def test_texts_run_together_in_parts_are_the_model_own_forward_of_each(family, name):
    model, engine = made(family, name)
    whole = texts(9, 12, 4)
    rows = [engine.row() for _ in whole]

    first = fed(engine, rows, [text[:3] for text in whole])
    second = fed(engine, rows[:2], [whole[0][3:4], whole[1][3:9]])
    third = fed(engine, rows, [whole[0][4:], whole[1][9:], whole[2][3:]])

    expected = [own(model, text) for text in whole]
    got = [
        torch.cat((first[0], second[0], third[0])),
        torch.cat((first[1], second[1], third[1])),
        torch.cat((first[2], third[2])),
    ]
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "name"), ENGINES)
def test_a_row_that_was_cut_is_as_if_the_tokens_had_never_come(family, name):
    model, engine = made(family, name)
    text, other = texts(10, 10)
    row = engine.row()

    fed(engine, [row], [text[:5]])
    for wrong in (other[5:8], other[5:9]):
        fed(engine, [row], [wrong])
        row.cut(5)
    rest = fed(engine, [row], [text[5:]])[0]

    assert list(row.lengths) == [10] * engine.anatomy.depth
    torch.testing.assert_close(rest, own(model, text)[5:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "name"), ENGINES)
def test_tokens_filled_later_are_as_if_run_at_once(family, name):
    model, engine = made(family, name)
    text = texts(8)[0]
    row, depth = engine.row(), engine.anatomy.depth
    fed(engine, [row], [text[:4]])

    low = engine.run(engine.embed(text[4:7], [(row, 3)]), 0, 2, [(row, 3)])
    lower = engine.run(engine.embed(text[7:], [(row, 1)]), 0, 2, [(row, 1)])
    assert list(row.lengths) == [8, 8, *[4] * (depth - 2)]
    last = engine.run(torch.cat((low, lower)), 2, depth, [(row, 4)])

    last = engine.anatomy.finish(last)
    torch.testing.assert_close(last, own(model, text)[4:], rtol=1e-4, atol=1e-4)


def test_copied_states_are_remembered_alike_by_all_engines():
    remembered = []
    for name in ("plain", "family", "onnxruntime"):
        _, engine = made("llama", name, **HEAD_WIDTH)
        text = texts(6)[0]
        row = engine.row()
        fed(engine, [row], [text[:4]])
        state = engine.run(engine.embed(text[4:5], [(row, 1)]), 0, 2, [(row, 1)])
        engine.copy_up(state, 2, [(row, 1)])
        remembered.append(fed(engine, [row], [text[5:]])[0])

    for other in remembered[1:]:
        torch.testing.assert_close(remembered[0], other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["plain", "onnxruntime"])
def test_blocks_that_have_seen_different_numbers_of_tokens_do_not_run_together(name):
    _, engine = made("llama", name)
    row = engine.row()
    pieces = [(row, 2)]
    engine.run(engine.embed(torch.tensor([4, 5]), pieces), 0, 2, pieces)

    with pytest.raises(CacheError, match=r"have seen \[0, 2\] tokens"):
        engine.run(torch.zeros(2, 32), 1, 3, pieces)


@pytest.mark.parametrize("name", ["plain", "onnxruntime"])
def test_a_cache_grows_beyond_its_first_room(name):
    model, engine = made("llama", name)
    text = texts(60)[0].repeat(5)[:300]
    row = engine.row()

    parts = [fed(engine, [row], [part])[0] for part in text.split(100)]

    torch.testing.assert_close(torch.cat(parts), own(model, text), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["gpt2", "mistral"])
def test_plain_refuses_what_it_does_not_know(family):
    with pytest.raises(ConfigError, match="use 'family'"):
        made(family, "plain")


def test_an_unknown_engine_is_refused():
    with pytest.raises(ConfigError, match="no engine 'fast'"):
        made("llama", "fast")
