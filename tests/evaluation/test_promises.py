"""Promises are found on some texts and held against others."""

import pytest
import torch

from offramp.blocks.machine import machine_facts
from offramp.errors import ConfigError, InputError
from offramp.evaluation.contrasts import best_contrast
from offramp.evaluation.promises import BOUNDS, divide, promise
from offramp.evaluation.replay import Ladder, Recorded

LADDER = Ladder(exits=(2, 4), depth=8)


def texts(count, *, seed=0, right=0.97):
    """Exits that are mostly right where they are sure."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        sure = torch.rand(20, 2, generator=generator)
        luck = torch.rand(20, 2, generator=generator)
        found.append(Recorded(sure, (sure > 0.5) & (luck < right) | (luck < 0.3)))
    return found


def test_texts_kept_back_decide_nothing():
    mine = texts(200)

    one = promise(mine, texts(50, seed=1), ladder=LADDER, rule="gate", bound=0.05)
    other = promise(mine, texts(50, seed=2, right=0.5), ladder=LADDER, rule="gate", bound=0.05)
    none = promise(mine, [], ladder=LADDER, rule="gate", bound=0.05)

    assert [each.found for each in one] == [each.found for each in other]
    assert [each.found for each in one] == [each.found for each in none]
    assert one[0].held_out != other[0].held_out
    assert none[0].held_out is None
    assert none[0].as_dict()["held_out"] is None


def test_the_bound_asked_for_comes_first_and_the_usual_ones_after():
    found = promise(texts(200), [], ladder=LADDER, rule="gate", bound=0.05)
    other = promise(texts(200), [], ladder=LADDER, rule="gate", bound=0.2)

    assert [each.found.bound for each in found] == [0.05, 0.10, 0.02]
    assert [each.found.bound for each in other] == [0.2, *BOUNDS]


def test_what_is_kept_back_is_measured_at_the_threshold():
    kept = texts(60, seed=1)
    (first, *_) = promise(texts(200), kept, ladder=LADDER, rule="gate", bound=0.1)

    threshold = first.found.threshold
    changed, blocks = [], []
    for text in kept:
        wrong = 0
        for sure, agrees in zip(text.confidence, text.agrees, strict=True):
            place = next((n for n in range(2) if sure[n] > threshold), None)
            blocks.append(8 if place is None else LADDER.exits[place])
            wrong += place is not None and not bool(agrees[place])
        changed.append(wrong / 20)
    assert first.held_out.risk == pytest.approx(sum(changed) / 60)
    assert first.held_out.saved == pytest.approx(1 - sum(blocks) / len(blocks) / 8)
    assert first.held_out.most_saved >= 0
    assert first.held_out.num_tokens == 60 * 20


def test_where_nothing_can_be_shown_no_token_leaves():
    found = promise(texts(10), texts(5, seed=1), ladder=LADDER, rule="gate", bound=0.05)

    for each in found:
        assert not each.found.usable
        assert (each.held_out.risk, each.held_out.saved) == (0, 0)


def test_division_is_by_chance_and_leaves_no_text_out():
    every = texts(30)

    used, kept = divide(every, 1 / 3, seed=3)

    assert len(kept) == 10
    places = {id(text): n for n, text in enumerate(every)}
    assert sorted(places[id(text)] for text in (*used, *kept)) == list(range(30))
    assert [id(each) for each in divide(every, 1 / 3, seed=3)[1]] == [id(each) for each in kept]
    assert [id(each) for each in divide(every, 1 / 3, seed=4)[1]] != [id(each) for each in kept]


def test_what_cannot_be_divided_is_refused():
    with pytest.raises(ConfigError, match="got 1"):
        divide(texts(3), 1)
    with pytest.raises(InputError, match="too few"):
        divide(texts(1), 0.9)


def test_the_best_contrast_is_the_likeliest_of_the_text():
    import tiny  # noqa: PLC0415
    from evaluation.test_exits import padded  # noqa: PLC0415
    from evaluation.test_exits import texts as rows  # noqa: PLC0415
    from offramp import Contrast, attach_exits  # noqa: PLC0415
    from offramp.evaluation.exits import measure_exits  # noqa: PLC0415

    model = attach_exits(tiny.model_of("llama"), (1, 2, 3))
    found = best_contrast(model, padded(rows()))

    rules = {str(exit): Contrast(lower=exit) for exit in (1, 2, 3)}
    report = measure_exits(model, padded(rows()), rules=rules)
    losses = {each.decoding: each.cross_entropy for each in report.rules}
    assert losses[str(found.lower)] == min(losses.values()) == found.cross_entropy
    assert found.plain == pytest.approx(report.exits[-1].cross_entropy)
    assert found.used == (found.cross_entropy < found.plain)
    with pytest.raises(ConfigError, match="a contrast needs an exit"):
        best_contrast(attach_exits(tiny.model_of("llama"), (4,)), padded(rows()))


def test_the_machine_is_named():
    facts = machine_facts(torch.nn.Linear(1, 1))

    assert facts["processor"]
    assert facts["dtype"] == "float32"
    assert facts["threads"] == torch.get_num_threads()
