"""Exits, places and layers of texts are counted."""

import pytest

from offramp.decoding.oneshot import OneShot
from offramp.evaluation.one_pass import one_pass_of
from offramp.evaluation.seq2seq import Writer, WriteSettings, Written
from small_seq2seq import elmer_of


def written(exits, *, canvas_length=4, positions=12.0):
    return Written(
        text="",
        tokens=tuple(range(len(exits))),
        finished=True,
        exits=exits,
        canvas_length=canvas_length,
        positions=positions,
    )


def test_every_token_is_counted_once_at_its_exit():
    found = one_pass_of([written((1, 1, 3)), written((3, 2))], depth=4)

    assert found.exits == {1: 2, 2: 1, 3: 2, 4: 0}
    assert found.mean_exit == pytest.approx(10 / 5)
    assert found.canvas_length == 4
    assert found.used == pytest.approx(5 / 8)
    assert found.run == pytest.approx(24 / 32)


def test_empty_texts_have_no_exits_but_a_canvas():
    found = one_pass_of([written(())], depth=3)

    assert found.mean_exit == 0
    assert found.used == 0
    assert found.run == 1


def test_passes_that_refine_a_text_are_run_like_the_first(byte_tokenizer):
    model = elmer_of(vocab_size=3 + 256, max_position_embeddings=64)

    for steps in (0, 1, 2):
        settings = WriteSettings(decoding=OneShot(refine_steps=steps))
        texts = Writer(model, byte_tokenizer, settings).write_all(["a ferry"])
        assert one_pass_of(texts, depth=4).run == 1 + steps


def test_texts_of_another_kind_have_none():
    assert one_pass_of([Written(text="", tokens=(1,), finished=True)], depth=3) is None
    assert one_pass_of([], depth=3) is None
