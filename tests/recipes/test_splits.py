"""Splits of calibration join texts that were played alone."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from offramp.evaluation.replay import Ladder, Recorded, replay

RECIPE = Path(__file__).parent.parent.parent / "recipes" / "default_exits"


@pytest.fixture
def splits(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPE))
    for name in ("splits", "train"):  # another recipe has a train of its own
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module("splits")
    for name in ("splits", "train"):
        sys.modules.pop(name, None)


def test_texts_played_alone_and_joined_are_as_played_together(splits):
    draw = torch.Generator().manual_seed(0)
    ladder = Ladder(exits=(2, 4), depth=8)
    texts = [
        Recorded(torch.rand(n, 2, generator=draw), torch.rand(n, 2, generator=draw) > 0.3)
        for n in (3, 1, 12, 7)
    ]

    joined = splits.joined(splits.played(texts, ladder))

    together = replay(texts, ladder=ladder)
    assert torch.equal(joined.changed, together.changed)
    assert torch.equal(joined.tokens, together.tokens)
    torch.testing.assert_close(joined.blocks, together.blocks)


def test_what_holds_is_counted_over_all_splits(splits):
    draw = torch.Generator().manual_seed(0)
    ladder = Ladder(exits=(2,), depth=4)
    texts = [
        Recorded(torch.rand(20, 1, generator=draw), torch.rand(20, 1, generator=draw) > 0.03)
        for _ in range(300)
    ]

    found = list(zip(*splits.splits(splits.played(texts, ladder), 5), strict=True))
    facts = [splits.summary(list(each)) for each in found]

    assert [each["bound"] for each in facts] == [0.1, 0.05, 0.02]
    assert facts[0]["held"] == facts[0]["usable"] == 1.0
    assert 0 < facts[0]["saved_lowest"] <= facts[0]["saved"] <= facts[0]["saved_highest"] <= 0.5
