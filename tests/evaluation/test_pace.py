"""Writers are timed in turn, from text to text; no test here waits for a clock."""

import pytest
import torch

from offramp.errors import ConfigError
from offramp.evaluation.pace import Race
from offramp.evaluation.seq2seq import Writer, WriteSettings, Written


class Scripted(Writer):
    """A writer that takes so many seconds a call and so many more a text, by a shared clock."""

    def __init__(self, clock, name, *, call, text, batch_size=4):
        self.model = torch.nn.Linear(1, 1)
        self.model.device = torch.device("cpu")
        self.clock, self.name, self.call, self.text = clock, name, call, text
        self.settings = WriteSettings(batch_size=batch_size)

    def batches(self, sources):
        size = self.settings.batch_size
        return [tuple(range(at, at + size)) for at in range(0, len(sources), size)]

    def write(self, sources):
        self.clock.append((self.name, self.call + self.text * len(sources)))
        return [Written(text="", tokens=(1, 2), finished=True)] * len(sources)


@pytest.fixture
def laps():
    return []


@pytest.fixture
def race(laps):
    writers = {
        "steps": Scripted(laps, "steps", call=4.0, text=1.0),
        "once": Scripted(laps, "once", call=0.0, text=2.0),
    }
    return Race(writers, clock=lambda: sum(seconds for _, seconds in laps))


def test_one_source_alone_and_full_batches_are_timed(race):
    found = race.run(["a", "b", "c"], rows=6)

    assert found["steps"].latency == pytest.approx(5.0)
    assert found["steps"].latency_slow == pytest.approx(5.0)
    assert found["steps"].throughput == pytest.approx(4 / 8)
    assert found["steps"].tokens_per_second == pytest.approx(1.0)
    assert found["once"].latency_ratio.median == pytest.approx(2.5)
    assert found["once"].throughput_ratio.median == pytest.approx(1.0)
    assert found["steps"].latency_ratio.median == pytest.approx(1.0)
    assert (found["once"].rows, found["once"].batch_size) == (6, 4)


def test_writers_take_turns_and_the_first_call_is_not_counted(race, laps):
    race.run(["a"], rows=20, rounds=5)

    names = [name for name, _ in laps]
    assert names[:2] == ["steps", "once"]
    alone = [tuple(names[at : at + 2]) for at in range(0, 42, 2)]
    assert all(sorted(each) == ["once", "steps"] for each in alone)
    assert len(set(alone)) == 2
    assert len(names) == 2 * (1 + 20 + 1 + 5)


def test_the_clock_waits_for_the_device(laps, monkeypatch):
    """It does not stop when work was begun; fault 3 of ELMER's released code."""
    writer, seen = Scripted(laps, "one", call=1.0, text=1.0, batch_size=1), []
    writer.model.device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: seen.append(len(laps)))

    def clock():
        seen.append("clock")
        return 0.5 * len(seen)

    Race({"one": writer}, clock=clock).run(["a"], rows=5, rounds=5)

    lap = [1, "clock", 2, "clock"]
    assert seen[:4] == lap
    assert seen[1::2] == ["clock"] * 20


def test_the_bar_moves_with_every_source_and_round(race):
    seen = []

    race.run(["a"], rows=5, rounds=6, advance=seen.append)

    assert seen == [1] * 11


def test_too_little_to_time_is_refused(race):
    for sources, rows, rounds in (([], 5, 5), (["a"], 4, 5), (["a"], 5, 4)):
        with pytest.raises(ConfigError, match="use at least 5 of both, and a source"):
            race.run(sources, rows=rows, rounds=rounds)
