"""The bound holds as often as promised, on populations whose true risk is known, and saves blocks.

A population is some thousand texts; a split draws some of them, calibrates, and looks up the risk
of the chosen threshold in the whole population.
"""

import dataclasses
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offramp.errors import ConfigError, InputError
from offramp.evaluation.calibration import Calibration, _token_losses, calibrate
from offramp.evaluation.replay import Ladder, Recorded, Replay, replay, threshold_grid
from offramp.evaluation.risk import learn_then_test

LADDER = Ladder(exits=(6, 12, 18), depth=24)
NUM_TEXTS, BOUND, CONFIDENCE = 150, 0.1, 0.9
SPLITS, FEW = 300, 80


def most(count):
    """How often, in so many splits, a bound may be broken that is broken in one of ten."""
    return 1 - CONFIDENCE + 3 * math.sqrt(CONFIDENCE * (1 - CONFIDENCE) / count)


def population(*, texts=2000, tokens=10, misled=0.0, lengths=None, seed=0):
    """Texts of their own difficulty, which their tokens share; deeper exits master more of it.

    Exits may be ``misled`` about whole texts: too sure in one, too unsure in the next. With
    ``lengths``, texts in which they are too sure have the second length, the others the first.
    """
    generator = torch.Generator().manual_seed(seed)
    difficulty, mood = torch.randn(2, texts, 1, 1, generator=generator)
    noise = torch.randn(texts, tokens, 1, generator=generator)
    margin = torch.tensor([-0.5, 0.5, 2.0]) - 0.7 * difficulty - 0.7 * noise
    agrees = margin + 0.3 * torch.randn(margin.shape, generator=generator) > 0
    sure = 2 * margin + misled * mood + torch.randn(margin.shape, generator=generator)
    sizes = [tokens if lengths is None else lengths[int(each > 0)] for each in mood.flatten()]
    return [
        Recorded(confidence[:size], right[:size])
        for confidence, right, size in zip(sure.sigmoid(), agrees, sizes, strict=True)
    ]


GRID = torch.cat((torch.ones(1), torch.linspace(6, 0, 150).sigmoid()))
"""Finer than the default where risks here meet their bounds: a coarse step hides broken ones."""


@pytest.fixture(scope="module")
def played():
    return replay(population(misled=3.0), ladder=LADDER, thresholds=GRID)


def made(changed, tokens):
    return Replay(
        ladder=Ladder(exits=(6,), depth=24),
        thresholds=torch.ones(len(changed)),
        changed=changed,
        tokens=tokens,
        blocks=torch.full((len(changed),), 24.0, dtype=torch.float64),
    )


def splits(played, num_texts=NUM_TEXTS, count=SPLITS):
    """Draw texts of a population again and again."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        chosen = torch.randint(len(played.tokens), (num_texts,), generator=generator)
        yield dataclasses.replace(
            played, changed=played.changed[:, chosen], tokens=played.tokens[chosen]
        )


def broken(rows, risk, bound=BOUND):
    """Give the share of splits whose row has a risk above the bound; no row never has."""
    return sum(row is not None and risk[row].item() > bound for row in rows) / len(rows)


def row_of(found, played):
    if found.threshold is None:
        return None
    return int((played.thresholds == found.threshold).nonzero())


@pytest.mark.parametrize("test", ["betting", "hoeffding-bentkus"])
def test_the_bound_holds_as_often_as_promised_and_blocks_are_saved(played, test):
    found = [
        calibrate(split, rule="gate", bound=BOUND, confidence=CONFIDENCE, test=test)
        for split in splits(played)
    ]

    rows = [row_of(each, played) for each in found]

    assert broken(rows, played.losses.mean(-1)) <= most(SPLITS)
    assert all(each.usable and each.reason == "" for each in found)
    possible = played.saved[played.losses.mean(-1) <= BOUND].max().item()
    assert possible > 0.2
    saved = sum(each.saved for each in found) / SPLITS
    assert saved > (0.8 if test == "betting" else 0.7) * possible


def test_taking_the_boldest_that_looks_right_breaks_the_bound_too_often(played):
    """The same splits tell a promise from none."""
    rows = []
    for split in splits(played):
        row = int((split.losses.mean(-1) <= BOUND).long().cumprod(0).sum()) - 1
        rows.append(row)

    assert broken(rows, played.losses.mean(-1)) > 2 * most(SPLITS)


def test_near_the_bound_the_promise_is_neither_broken_nor_wasteful_unless_tokens_count_as_texts():
    """Four thresholds; at the boldest the risk is a little above the bound. Tokens are alike."""
    changed = torch.zeros(4, 10_000, dtype=torch.float64)
    for row, risk in enumerate((0.0, 0.0, 0.05, 0.102)):
        changed[row, : round(risk * 10_000)] = 1
    played = made(changed, torch.ones(10_000, dtype=torch.long))

    by_text, by_token = [], []
    for split in splits(played, num_texts=200):
        tokens = split.losses.repeat_interleave(20, -1)
        for losses, rows in ((split.losses, by_text), (tokens, by_token)):
            rows.append(
                learn_then_test(losses, bound=BOUND, confidence=CONFIDENCE, test="binomial")
            )

    assert 0.02 < broken(by_text, changed.mean(-1)) <= most(SPLITS)
    assert broken(by_token, changed.mean(-1)) > 1.5 * most(SPLITS)


def test_a_grid_of_other_texts_keeps_the_bound():
    others = torch.cat([text.confidence for text in population(misled=3.0, seed=5)])
    grid = threshold_grid(100, like=others)
    played = replay(population(misled=3.0), ladder=LADDER, thresholds=grid)

    found = [
        calibrate(split, rule="gate", bound=BOUND, confidence=CONFIDENCE)
        for split in splits(played, count=FEW)
    ]

    assert broken([row_of(each, played) for each in found], played.losses.mean(-1)) <= most(FEW)
    assert all(each.usable for each in found)


def test_offsets_keep_the_bound_too():
    ladder = dataclasses.replace(LADDER, offsets=(1.0, 0.0, -2.0))
    played = replay(population(misled=3.0), ladder=ladder, thresholds=GRID)

    found = [
        calibrate(split, rule="gate", bound=BOUND, confidence=CONFIDENCE)
        for split in splits(played, count=FEW)
    ]

    assert broken([row_of(each, played) for each in found], played.losses.mean(-1)) <= most(FEW)
    assert all(each.usable and len(set(each.thresholds)) == 3 for each in found)


def test_the_share_of_all_tokens_has_a_bound_of_its_own():
    """Exits are too sure in long texts, so more tokens change than texts suggest."""
    texts = population(misled=2.0, lengths=(2, 10))
    played = replay(texts, ladder=LADDER, thresholds=GRID)
    of_tokens = played.changed.sum(-1) / played.tokens.sum()

    rows = {"text": [], "token": []}
    for split in splits(played, count=FEW):
        for per, kept in rows.items():
            found = calibrate(
                split, rule="gate", bound=BOUND, confidence=CONFIDENCE, per=per, longest=10
            )
            kept.append(row_of(found, played))

    assert broken(rows["token"], of_tokens) <= most(FEW)
    assert broken(rows["text"], played.losses.mean(-1)) <= most(FEW)
    assert broken(rows["text"], of_tokens) > 0.5
    assert played.saved[min(rows["token"])] > 0


@given(
    texts=st.lists(
        st.integers(1, 9).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
        min_size=1,
        max_size=9,
    ),
    bound=st.floats(0.01, 0.99),
    longest=st.integers(9, 20),
)
def test_token_losses_are_below_the_bound_just_where_the_share_of_tokens_is(texts, bound, longest):
    changed, tokens = torch.tensor(texts, dtype=torch.float64).unbind(-1)
    played = made(changed[None], tokens.long())

    losses = _token_losses(played, bound, longest)

    gap = changed.sum() - bound * tokens.sum()
    assert losses.min() >= 0
    assert losses.max() <= 1
    torch.testing.assert_close((losses.mean() - bound) * longest * len(texts), gap)


@pytest.mark.parametrize("agreement", [0.9, 0.95, 0.98])
def test_known_early_answers_are_taken(agreement):
    """Every token has one exit from which on it is right, and exits know it."""
    generator = torch.Generator().manual_seed(0)
    texts, best = [], []
    for _ in range(400):
        place = torch.randint(3, (20, 1), generator=generator)
        agrees = torch.arange(3) >= place
        texts.append(Recorded(0.1 + 0.8 * agrees.float(), agrees))
        best.append(torch.tensor(LADDER.exits)[place].double().mean())
    oracle = 1 - torch.stack(best).mean().item() / 24

    found = calibrate(replay(texts, ladder=LADDER), rule="known", bound=1 - agreement)

    assert found.risk == 0
    assert found.saved == pytest.approx(oracle)
    assert found.saved > 0.45


def test_confidences_that_are_all_the_same_save_nothing():
    texts = [Recorded(torch.full_like(each.confidence, 0.7), each.agrees) for each in population()]

    found = calibrate(replay(texts, ladder=LADDER), rule="constant", bound=0.05)

    assert (found.saved, found.risk, found.usable) == (0, 0, False)
    assert found.threshold >= 0.7
    assert found.reason.startswith("no threshold that saves a block shows a risk below 0.05 with")


def test_confidences_that_know_nothing_save_no_more_than_the_bound_pays_for():
    generator = torch.Generator().manual_seed(0)
    texts = [
        Recorded(torch.rand(each.confidence.shape, generator=generator), each.agrees)
        for each in population()
    ]
    played = replay(texts, ladder=LADDER, thresholds=GRID)

    found = [
        calibrate(split, rule="noise", bound=0.05, confidence=CONFIDENCE)
        for split in splits(played, count=FEW)
    ]

    assert broken([row_of(each, played) for each in found], played.losses.mean(-1), 0.05) <= most(
        FEW
    )
    assert max(each.saved for each in found) < 0.1


@pytest.mark.parametrize(("test", "needed"), [("betting", 62), ("hoeffding-bentkus", 59)])
def test_too_few_texts_are_told_how_many_it_takes(test, needed):
    right = Recorded(torch.ones(5, 3) * 0.9, torch.ones(5, 3, dtype=torch.bool))

    few = calibrate(replay([right] * (needed - 1), ladder=LADDER), rule="g", bound=0.05, test=test)
    enough = calibrate(replay([right] * needed, ladder=LADDER), rule="g", bound=0.05, test=test)

    assert (few.threshold, few.risk, few.saved, few.usable) == (None, None, 0, False)
    assert few.thresholds is None
    assert few.reason == (
        f"{needed - 1} texts cannot show a risk below 0.05 with confidence 0.95, even if no token "
        f"changes; give at least {needed}"
    )
    assert enough.usable
    assert enough.saved == 0.75


def test_a_grid_that_begins_too_bold_says_so():
    wrong = Recorded(torch.ones(5, 3) * 0.9, torch.zeros(5, 3, dtype=torch.bool))
    played = replay([wrong] * 90, ladder=LADDER, thresholds=torch.tensor([0.5]))

    found = calibrate(played, rule="gate", bound=0.05)

    assert found.threshold is None
    assert "begin at 1 or give more texts" in found.reason


def an_example(**changes):
    fields = {
        "rule": "gate",
        "ladder": dataclasses.replace(LADDER, offsets=(0.5, 0.0, -0.5)),
        "per": "text",
        "test": "betting",
        "bound": 0.05,
        "confidence": 0.95,
        "threshold": 0.75,
        "risk": 0.03,
        "mean_blocks": 18.0,
        "num_texts": 100,
        "num_tokens": 5000,
    }
    return Calibration(**(fields | changes))


@pytest.mark.parametrize(
    "changes",
    [{}, {"ladder": LADDER}, {"threshold": None, "risk": None, "mean_blocks": 24.0}],
)
def test_a_calibration_survives_json(changes):
    found = an_example(**changes)

    read = Calibration.from_dict(json.loads(json.dumps(found.as_dict(), allow_nan=False)))

    assert read == found
    assert list(read.as_dict().items()) == list(found.as_dict().items())


def test_json_says_what_follows():
    written = an_example().as_dict()

    assert written["usable"] is True
    assert written["saved"] == 0.25
    assert written["thresholds"] == pytest.approx([0.8318, 0.75, 0.6453], abs=1e-4)
    assert written["reason"] == ""


def test_a_calibration_can_be_checked_on_other_texts(played):
    found = calibrate(played, rule="gate", bound=BOUND)

    again = replay(
        population(misled=3.0, seed=7),
        ladder=found.ladder,
        thresholds=torch.tensor([found.threshold]),
    )

    assert again.losses.mean().item() == pytest.approx(found.risk, abs=0.02)
    assert again.saved.item() == pytest.approx(found.saved, abs=0.02)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bound": "low"}, "'bound' cannot be 'low'"),
        ({"bound": True}, "'bound' cannot be True"),
        ({"depth": 24.5}, "'depth' cannot be 24.5"),
        ({"exits": 6}, "'exits' cannot be 6"),
        ({"exits": [6, "12", 18]}, "'exits' cannot be"),
        ({"confidence": None}, "'confidence' cannot be None"),
        ({"bound": 1.0}, "impossible calibration: bound must be"),
        ({"per": "word"}, "'per' cannot be 'word'"),
        ({"test": "t"}, "'test' cannot be 't'"),
        ({"threshold": None}, "contradict each other"),
        ({"risk": math.nan}, "risk must be from 0 to 1, got nan"),
        ({"mean_blocks": 25.0}, "mean_blocks must be from 0 to 24, got 25"),
        ({"num_texts": 0}, "got 0 texts"),
        ({"exits": [18, 12, 6]}, "exits must ascend"),
        ({"usable": False}, "says usable is False, but the rest makes it True"),
        ({"saved": 0.5}, "says saved is 0.5"),
        ({"thresholds": [0.5, 0.5]}, "says thresholds is"),
        ({"thresholds": None}, "says thresholds is None"),
        ({"secret": 1}, r"unknown \['secret'\]"),
    ],
)
def test_what_is_no_calibration_is_refused(changes, said):
    with pytest.raises(InputError, match=said):
        Calibration.from_dict(an_example().as_dict() | changes)


def test_a_missing_field_is_named():
    written = an_example().as_dict()
    del written["bound"]

    with pytest.raises(InputError, match=r"missing \['bound'\]"):
        Calibration.from_dict(written)


def test_what_cannot_be_calibrated_is_refused(played):
    with pytest.raises(ConfigError, match="bound must be more than 0"):
        calibrate(played, rule="gate", bound=0.0)
    with pytest.raises(ConfigError, match="per='token' needs longest"):
        calibrate(played, rule="gate", bound=0.1, per="token")
    with pytest.raises(InputError, match="a text has 10 tokens, more than longest=9"):
        calibrate(played, rule="gate", bound=0.1, per="token", longest=9)
