"""A report compares decodings that take tokens in the same manner, and has a picture."""

import pytest
import torch

from offramp.evaluation.open_ended import Opening
from offramp.evaluation.open_ended_picture import draw_open_ended
from offramp.evaluation.open_ended_report import Way, report_of
from offramp.evaluation.resampling import Draws
from offramp.evaluation.seq2seq import Written

ROWS = 22


def opening(row):
    return Opening(prompt=f"prompt {row}", reference=f"what came after {row} then", place=f"{row}")


def way(strategy, decoding, texts):
    written = [Written(text=text, tokens=(1,), finished="stop" in text) for text in texts]
    return Way(strategy=strategy, decoding=decoding, texts=tuple(written))


def embed(texts):
    """Vectors of a text's own letters."""
    rows = [[float(text.count(letter)) for letter in "abdert0123456789"] for text in texts]
    return torch.tensor(rows, dtype=torch.float64)


def ways(order):
    loops = [f"a b a b a b {row} stop" for row in order]
    straight = [f"one two three four {row} {row + 1}" for row in order]
    return [
        way("greedy", "original", loops),
        way("greedy", "exit 2", straight),
        way("top-p:0.95", "original", straight),
        way("top-p:0.95", "exit 2", loops),
    ]


def report(order=range(ROWS), **more):
    options = {"embed": embed, "embedding_model": "letters", "draws": Draws(samples=100), **more}
    return report_of([opening(row) for row in order], ways(order), **options)


def test_each_decoding_is_compared_within_its_strategy():
    found = report()

    assert [each.against_first is None for each in found.ways] == [True, False, True, False]
    by_name = [
        {} if each.against_first is None else {x.name: x.value for x in each.against_first}
        for each in found.ways
    ]
    assert by_name[1]["diversity"] == pytest.approx(-by_name[3]["diversity"])
    assert by_name[1]["diversity"] > 0
    assert [each.ended for each in found.ways] == [1, 0, 0, 1]
    assert found.strategies == ("greedy", "top-p:0.95")
    assert found.decodings == ("original", "exit 2")


def test_the_order_of_the_rows_changes_nothing_at_all():
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(3)).tolist()

    assert report(order).as_json() == report().as_json()


def test_without_embeddings_there_is_neither_coherence_nor_mauve():
    with_all, without = report(), report(embed=None)

    names = [each.name for each in without.ways[0].scores]
    assert names == ["seq_rep_2", "seq_rep_3", "seq_rep_4", "diversity", "words"]
    assert [each.name for each in with_all.ways[0].scores] == [*names, "coherence", "mauve"]
    assert [each.name for each in with_all.people] == [*names, "coherence"]


@pytest.mark.parametrize("name", ["out.svg", "out.png"])
def test_the_picture_names_every_way_and_is_the_same_each_time(tmp_path, name):
    draw_open_ended(report(), tmp_path / name, title="tiny")
    first = (tmp_path / name).read_bytes()

    draw_open_ended(report(), tmp_path / name, title="tiny")

    assert (tmp_path / name).read_bytes() == first
    if name.endswith("svg"):
        for words in ("exit 2", "original", "people", "top-p:0.95", "diversity", "MAUVE", "tiny"):
            assert words in first.decode()
