"""Ways to decode are timed side by side; no test here waits for a clock."""

from math import comb

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
from decoding.test_loops import model_with_exits, with_drafter
from offramp import Autoregressive, Contrast, EarlyExit, SelfSpeculation, attach_exits
from offramp.errors import ConfigError, InputError
from offramp.evaluation.candidates import name_of, speculations
from offramp.evaluation.latency import (
    PLAIN,
    TRANSFORMERS,
    Stopwatch,
    compare,
    fastest,
    halve,
    ratio_of,
)


class Scripted:
    """A model whose answers take as long as their name says, by a clock of its own."""

    device = torch.device("cpu")
    default_decoding = None

    class config:  # noqa: N801
        is_encoder_decoder = False

    def __init__(self, seconds):
        self.seconds, self.now, self.asked = seconds, 0.0, []

    def generate(self, ids, *, decoding, max_new_tokens, **options):
        self.asked.append(decoding)
        self.now += self.seconds(decoding)
        return torch.cat((ids, ids.new_ones(1, max_new_tokens)), -1)

    def watch(self, prompts=2, **options):
        each = [torch.tensor([1, 2, 3])] * prompts
        return Stopwatch(self, each, max_new_tokens=10, clock=lambda: self.now, **options)


def by_kind(decoding):
    if decoding is None:
        return 3.0
    if isinstance(decoding, Autoregressive):
        return 2.0
    return 1.0 if isinstance(decoding, EarlyExit) else 4.0


def test_every_way_is_compared_with_plain_decoding_and_with_transformers():
    model = Scripted(by_kind)

    ways = {"early": EarlyExit(threshold=0.5), "drafts": SelfSpeculation(draft_exit=1)}
    timings = {each.name: each for each in compare(model.watch(), ways, rounds=5)}

    assert list(timings) == [TRANSFORMERS, PLAIN, "early", "drafts"]
    assert timings["early"].against_plain.median == pytest.approx(2.0)
    assert timings["early"].against_transformers.median == pytest.approx(3.0)
    assert timings["drafts"].against_plain.median == pytest.approx(0.5)
    assert timings["early"].seconds == pytest.approx(0.1)
    assert timings["early"].tokens == 20
    assert timings["early"].spread == pytest.approx(0)
    assert len(model.asked) == 4 * (1 + 5 * 2)  # a round to warm up has one prompt


def test_ways_take_turns_within_a_round():
    model = Scripted(by_kind)

    compare(model.watch(prompts=1), {"early": EarlyExit(threshold=0.5)}, rounds=5)

    kinds = [type(each).__name__ for each in model.asked]
    rounds = [sorted(kinds[at : at + 3]) for at in range(0, len(kinds), 3)]
    assert rounds == [["Autoregressive", "EarlyExit", "NoneType"]] * 6
    assert len({tuple(kinds[at : at + 3]) for at in range(0, len(kinds), 3)}) > 1


def test_what_is_slower_than_plain_decoding_is_not_worth_it():
    timings = compare(Scripted(by_kind).watch(), {"a": SelfSpeculation(draft_exit=1)}, rounds=5)

    best, used = fastest(timings, ("a",))

    assert best is not None
    assert (best.name, used) == ("a", False)
    assert fastest(timings, ()) == (None, False)


def test_what_is_surely_faster_is_worth_it():
    ways = {"a": SelfSpeculation(draft_exit=1), "b": EarlyExit(threshold=0.5)}
    timings = compare(Scripted(by_kind).watch(), ways, rounds=5)

    best, used = fastest(timings, ("a", "b"))

    assert best is not None
    assert (best.name, used) == ("b", True)


def test_one_slow_round_takes_the_certainty():
    ours, plain = [1.0, 1.0, 1.0, 1.0, 3.0], [2.0] * 5

    assert ratio_of(ours, plain).median == 2
    assert ratio_of(ours, plain).low < 1


@given(rounds=st.integers(5, 40), outside=st.integers(0, 18))
def test_the_interval_is_the_narrowest_that_holds_the_median(rounds, outside):
    ratios = [1.0 + place for place in range(rounds)]
    found = ratio_of([1.0] * rounds, ratios)

    dropped = int(found.low - 1)
    missed = [2 * sum(comb(rounds, n) for n in range(k + 1)) / 2**rounds for k in range(rounds)]
    assert found.high == rounds - dropped
    assert dropped == 0 or missed[dropped] <= 0.05
    assert missed[dropped + 1] > 0.05


def test_the_slower_half_drops_out_until_the_finalists():
    places = {f"{n}": SelfSpeculation(draft_exit=n) for n in range(1, 10)}
    model = Scripted(lambda decoding: float(decoding.draft_exit))
    heats = []

    left = halve(model.watch(prompts=8), places, finalists=2, advance=heats.append)

    assert list(left) == ["1", "2"]
    assert len(heats) == 2
    assert len(model.asked) == 9 * 1 + 4 * 2


def test_a_race_of_real_ways_writes_the_same_text():
    model = with_drafter(model_with_exits())
    ways = speculations(model)
    watch = Stopwatch(model, [torch.tensor([5, 6, 7])], max_new_tokens=4)

    found = watch.round(ways)

    assert len({tokens for _, tokens in found.values()}) == 1
    assert all(seconds > 0 for seconds, _ in found.values())


def test_the_drafter_and_a_few_exits_are_tried():
    model = with_drafter(model_with_exits())

    ways = speculations(model)

    assert {way.draft_exit for way in ways.values()} == {"drafter", 1, 2}
    assert {way.draft_length for way in ways.values()} == {1, 2, 4, "auto"}
    assert {way.lookup for way in ways.values()} == {0, 4}
    assert "drafter, length auto, lookup 4" in ways
    assert name_of(ways["exit 1, length 2"]) == "exit 1, length 2"
    assert speculations(attach_exits(tiny.model_of("llama"), (4,))) == {}
    mixed = attach_exits(tiny.model_of("llama"), (1,), "block")
    attach_exits(mixed, (2,), "lens")
    assert {way.draft_exit for way in speculations(mixed).values()} == {2}


def test_what_cannot_be_timed_is_refused():
    model = Scripted(by_kind)

    with pytest.raises(ConfigError, match="got 4 rounds"):
        compare(model.watch(), {}, rounds=4)
    with pytest.raises(ConfigError, match="got 2 rounds"):
        ratio_of([1.0, 1.0], [1.0, 1.0])
    with pytest.raises(InputError, match="no prompt to time with"):
        Stopwatch(model, [])
    model.default_decoding = Contrast(lower=1)
    with pytest.raises(ConfigError, match="set default_decoding to None"):
        model.watch()
