"""Pairs to learn to copy from: nothing is in a target but what its source says there."""

import importlib
import sys

import pytest

TEXTS = [" ".join(f"w{number}" for number in range(size)) for size in range(4, 60)]


@pytest.fixture
def copies(monkeypatch):
    for name in ("copies", "noisy", "train"):  # another recipe has a train of its own
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module("copies")
    for name in ("copies", "noisy", "train"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("most", [8, 16])
def test_a_target_is_a_run_of_its_source(copies, most):
    found = list(copies.pairs(TEXTS, most, seed=0))

    assert len(found) == len([text for text in TEXTS if len(text.split()) >= 8])
    for pair in found:
        source, target = pair["source"].split(), pair["target"].split()
        start = source.index(target[0])
        assert source[start : start + len(target)] == target
        assert 4 <= len(target) <= most


def test_half_of_the_sources_are_shuffled_and_half_of_the_runs_begin_them(copies):
    found = list(copies.pairs(TEXTS * 20, 16, seed=0))

    shuffled = sum(pair["source"] not in TEXTS for pair in found) / len(found)
    begun = sum(pair["source"].startswith(pair["target"] + " ") for pair in found) / len(found)
    assert shuffled == pytest.approx(0.5, abs=0.05)
    assert begun == pytest.approx(0.5, abs=0.08)  # a few runs begin it by chance


def test_the_same_seed_gives_the_same_pairs(copies):
    assert list(copies.pairs(TEXTS, 16, seed=3)) == list(copies.pairs(TEXTS, 16, seed=3))
