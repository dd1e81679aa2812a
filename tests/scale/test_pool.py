"""Work that is spread comes back whole and in order, whoever is killed: a real Ray, SIGKILL."""

import os

import pytest
import ray

import small_spread
from offramp.errors import ConfigError, InputError, ScaleError
from offramp.scale import pool
from offramp.scale.cluster import Cluster, connected
from offramp.scale.pool import hired, spread
from small_spread import Make

COUNT = 30


@pytest.fixture(scope="module")
def room():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.path.dirname(small_spread.__file__))  # of the workers
        with connected(Cluster(workers=2)) as found:
            yield found


def test_a_killed_worker_neither_loses_nor_doubles_nor_moves_a_thing(room, tmp_path):
    made = spread(room, range(COUNT).__iter__, Make(str(tmp_path), deadly=11, refused=25))

    before = [next(made) for _ in range(25)]
    with pytest.raises(InputError, match=r"^no 25; take another$"):
        next(made)

    assert len(os.listdir(tmp_path)) == 1, "nobody was killed"
    assert [square for square, _ in before] == [number * number for number in range(25)]
    assert len({process for _, process in before}) >= 2


def test_what_kills_every_worker_ends_in_one_line(room, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "RETRIES", 1)
    made = spread(room, range(3).__iter__, Make(str(tmp_path), deadly=1, deaths=9))

    with pytest.raises(ScaleError, match=r"a worker died.*smaller --batch-size"):
        list(made)

    assert len(os.listdir(tmp_path)) == 2


def test_one_worker_can_be_asked(room, tmp_path):
    with hired(room, Make(str(tmp_path), refused=3)) as ask:
        assert ask(2)[0] == 4
        with pytest.raises(InputError, match="no 3"):
            ask(3)


def test_no_room_is_said(room):
    too_many = connected(Cluster(workers=2, cpus=2))

    with pytest.raises(ScaleError, match=r"has 2 CPUs.*room for 1 workers.*not for 2"), too_many:
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"])
def test_a_cluster_that_is_not_there_is_said_at_once(monkeypatch, address):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    with pytest.raises(ScaleError, match=r"cannot join.*leave --ray-address out") as said:
        connected(Cluster(address=address)).__enter__()

    assert address in str(said.value)


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"cpus": 0}, {"gpus": 1.5}, {"gpus": -1.0}])
def test_impossible_workers_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} must be"):
        Cluster(**wrong)
