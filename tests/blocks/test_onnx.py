"""What is ONNX Runtime's own among the engines: sessions, rounded weights, refusals."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import tiny
from offramp.blocks import products
from offramp.blocks.anatomy import anatomy_of
from offramp.blocks.engines import engine_for
from offramp.blocks.engines.block_weights import BLOCK, in_blocks
from offramp.blocks.engines.onnx import BITS, FEW
from offramp.blocks.engines.onnx_sessions import sessions_of
from offramp.blocks.projections import can_gather
from offramp.errors import ConfigError

HEAD_WIDTH = {"head_dim": 16}


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def model_of(family="llama", **extra):
    return tiny.model_of(family, **{**HEAD_WIDTH, **extra})


def states_of(engine, *, stops=(4,)):
    pieces = [(engine.row(), 6)]
    states = engine.embed(torch.arange(3, 9), pieces)
    for start, stop in zip((0, *stops), stops, strict=False):
        states = engine.run(states, start, stop, pieces)
    return states


def unpacked(numbers, scales, *, bits):
    if bits == 4:
        numbers = torch.stack((numbers & 15, numbers >> 4), dim=-1).flatten(-2)
    return ((numbers.float() - 2 ** (bits - 1)) * scales[..., None]).flatten(1)


def rounded_(model, *, bits):
    """Give a model the weights that an engine of few bits has."""
    for module in model.model.layers.modules():
        if isinstance(module, nn.Linear):
            numbers, scales = in_blocks(module.weight, bits=bits)
            weight = unpacked(numbers, scales, bits=bits)
            module.weight.copy_(weight[:, : module.in_features])
    return model


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("depth", [BLOCK, 3 * BLOCK + 5])
def test_a_rounded_weight_is_within_half_a_scale_of_what_it_was(bits, depth):
    matrix = torch.randn(7, depth, generator=torch.Generator().manual_seed(1))
    matrix[2] = 0

    numbers, scales = in_blocks(matrix, bits=bits)

    error = (unpacked(numbers, scales, bits=bits)[:, :depth] - matrix).abs()
    half = scales.abs().repeat_interleave(BLOCK, 1)[:, :depth] / 2
    beyond = 2 if bits == 4 else 1  # the largest number of the other sign has no room in 4 bits
    assert (error <= beyond * half + 1e-6).all()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_an_engine_of_few_bits_is_near_a_model_of_the_same_weights(family, bits):
    engine = engine_for(anatomy_of(model_of(family)), f"onnxruntime-int{bits}")
    plain = engine_for(anatomy_of(rounded_(model_of(family), bits=bits)), "plain")

    ours, exact = states_of(engine, stops=(1,)), states_of(plain, stops=(1,))

    allowed = 1e-5 if bits == 4 else 0.02  # with 8 bits states are rounded as well
    assert (ours - exact).norm() / exact.norm() < allowed


def test_a_span_that_ends_within_a_session_makes_two_of_it_and_no_block_is_in_two():
    model = model_of()
    engine = engine_for(anatomy_of(model), "onnxruntime")
    whole = states_of(engine)

    apart = states_of(engine, stops=(1, 4))

    sessions = sessions_of(anatomy_of(model), bits=None)
    assert sorted(sessions._built) == [(0, 1), (1, 4)]
    torch.testing.assert_close(apart, whole, rtol=1e-5, atol=1e-5)


def test_a_cut_that_nobody_uses_any_more_is_given_up(monkeypatch):
    monkeypatch.setattr("offramp.blocks.engines.onnx_sessions.UNUSED", 2)
    model = model_of()
    anatomy = anatomy_of(model)
    engine = engine_for(anatomy, "onnxruntime")
    whole = states_of(engine)
    torch.testing.assert_close(states_of(engine, stops=(1, 3, 4)), whole, rtol=1e-5, atol=1e-5)
    sessions = sessions_of(anatomy, bits=None)

    marks = []
    for stops in ((4,), (3, 4), (4,), (4,), (4,), (4,)):
        torch.testing.assert_close(states_of(engine, stops=stops), whole, rtol=1e-5, atol=1e-5)
        marks.append(sorted(sessions._built))

    assert marks[1] == [(0, 1), (1, 3), (3, 4)]
    assert marks[2] == [(0, 3), (3, 4)]  # the third span that went through 1
    assert marks[-1] == [(0, 4)]


@pytest.mark.parametrize(
    ("name", "most", "together"),
    [
        ("onnxruntime", 2**31, True),
        ("onnxruntime", 100, False),
        ("onnxruntime-int8", 2**31, False),
        ("onnxruntime-int4", 2**31, True),
    ],
)
def test_texts_are_multiplied_together_where_a_copy_of_the_weights_is_small(
    monkeypatch, name, most, together
):
    monkeypatch.setattr(products, "PACKED_BYTES", most)
    model = model_of("qwen3")
    engine = engine_for(anatomy_of(model), name)
    tokens = torch.arange(3, 13)

    alone = [[(engine.row(), 6)], [(engine.row(), 4)]]
    pieces = [(engine.row(), count) for count in (6, 4)]
    for _ in range(2):  # the second time each has a past
        parts = tokens.split([6, 4])
        one_by_one = [
            engine.run(engine.embed(part, piece), 0, 4, piece)
            for part, piece in zip(parts, alone, strict=True)
        ]
        found = engine.run(engine.embed(tokens, pieces), 0, 4, pieces)
        torch.testing.assert_close(found, torch.cat(one_by_one), rtol=1e-4, atol=1e-4)

    halves = sessions_of(anatomy_of(model), bits=BITS[name])._halves
    assert bool(halves) == together


def test_long_parts_of_texts_are_run_one_after_the_other():
    model = model_of()
    engine = engine_for(anatomy_of(model), "onnxruntime")
    pieces = [(engine.row(), FEW), (engine.row(), FEW)]

    engine.run(engine.embed(torch.arange(2 * FEW), pieces), 0, 4, pieces)

    assert not sessions_of(anatomy_of(model), bits=None)._halves


def test_engines_of_one_model_share_sessions():
    model = model_of()
    states_of(engine_for(anatomy_of(model), "onnxruntime"))
    before = sessions_of(anatomy_of(model), bits=None)

    states_of(engine_for(anatomy_of(model), "onnxruntime"))

    assert sessions_of(anatomy_of(model), bits=None) is before


def test_a_weight_that_was_changed_in_place_is_seen_by_the_next_engine():
    model = model_of()
    states_of(engine_for(anatomy_of(model), "onnxruntime"))
    model.model.layers[2].mlp.up_proj.weight.mul_(1.5)

    ours, plain = (
        states_of(engine_for(anatomy_of(model), name)) for name in ("onnxruntime", "plain")
    )

    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-int8"])
def test_rows_of_the_head_can_be_read_where_it_has_the_models_own_weights(name):
    model = model_of()
    engine = engine_for(anatomy_of(model), name)
    state = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(1))

    scores = engine.anatomy.head(state)

    exact = name == "onnxruntime"
    torch.testing.assert_close(scores, model.lm_head(state), rtol=1e-4, atol=1e-4 if exact else 0.1)
    assert can_gather(engine.anatomy.head) == exact


@pytest.mark.parametrize(
    ("family", "extra"),
    [
        ("gpt2", {}),
        ("llama", {"head_dim": 8}),
        ("llama", {"hidden_act": "gelu"}),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}),
    ],
    ids=str,
)
def test_what_it_does_not_know_is_refused(family, extra):
    model = tiny.model_of(family, **extra) if family == "gpt2" else model_of(family, **extra)

    with pytest.raises(ConfigError, match="use 'auto'"):
        engine_for(anatomy_of(model), "onnxruntime")


def test_a_model_of_another_dtype_is_refused():
    with pytest.raises(ConfigError, match="float32"):
        engine_for(anatomy_of(model_of().to(torch.bfloat16)), "onnxruntime")


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-int4"])
def test_a_state_hardly_depends_on_how_many_tokens_are_run_at_once(name):
    engine = engine_for(anatomy_of(model_of()), name)
    pieces = [(engine.row(), 1)]

    apart = torch.cat(
        [engine.run(engine.embed(torch.tensor([t]), pieces), 0, 4, pieces) for t in range(3, 9)]
    )

    torch.testing.assert_close(apart, states_of(engine), rtol=1e-5, atol=1e-4)


def test_a_missing_package_says_what_to_install(monkeypatch):
    for module in list(sys.modules):
        if module.startswith("offramp.blocks.engines.onnx"):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(ConfigError, match=r"needs the package onnxruntime; pip install .offramp"):
        engine_for(anatomy_of(model_of()), "onnxruntime")


ARENAS = """
import torch
import tiny
from offramp.blocks.anatomy import anatomy_of
from offramp.blocks.engines import engine_for

def private():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) // 1024

torch.set_num_threads(1)
model = tiny.model_of("llama", head_dim=16, num_hidden_layers=24, max_position_embeddings=4096)
engine = engine_for(anatomy_of(model), "onnxruntime")

def read(length):
    pieces = [(engine.row(), length)]
    states = engine.embed(torch.randint(3, tiny.VOCAB, (length,)), pieces)
    for start in range(24):
        states = engine.run(states, start, start + 1, pieces)

with torch.no_grad():
    read(8)
    before = private()
    read(1500)
print(private() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read in /proc")
def test_sessions_share_the_memory_that_a_long_prompt_needs():
    """24 sessions with an arena each would keep 24 times the memory of one."""
    path = str(Path(__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    run = subprocess.run(
        [sys.executable, "-c", ARENAS], capture_output=True, text=True, env=environment, check=False
    )

    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 40
