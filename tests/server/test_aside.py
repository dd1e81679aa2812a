"""What computes beside the writer leaves it its processors."""

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from offramp.errors import Busy, InputError
from offramp.server.aside import WAITING, Turns, aside

pytestmark = pytest.mark.anyio

HELPERS = """
import asyncio, os, time
import torch
from offramp.blocks.engines import engine_for
from offramp.server import batching
from offramp.server.aside import aside
from small_server import causal_host, causal_model, client_of

def count():
    time.sleep(0.5)  # threads that have ended are gone a little later
    counts.append(len(os.listdir("/proc/self/task")))

async def used(host):
    async with client_of(host) as (client, _):
        for path in ("/v1/completions", "/v1/trace"):
            answer = await client.post(path, json={"prompt": "a ferry" * 9})
            assert answer.status_code == 200, answer.text
            count()

def engine(*arguments):
    large @ large  # as a large model's engine does in setting up
    return engine_for(*arguments)

batching.engine_for = engine
model = aside(lambda: causal_model(hidden_size=128, intermediate_size=1024))
large, counts = aside(lambda: torch.ones(1024, 1024)), []
count()
host = causal_host(model=model)
count()
asyncio.run(used(host))
large @ large
count()
print(*(after - before for before, after in zip(counts, counts[1:])))
asyncio.run(host.writers.close(grace=0.0))
"""
"""Prints how many threads more there are once a server is made, has written, has traced, and once
the loop's thread has multiplied."""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_only_the_writer_keeps_helpers():
    tests = Path(__file__).parent.parent
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(tests)}

    run = subprocess.run(
        [sys.executable, "-c", HELPERS],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    made, written, traced, multiplied = map(int, run.stdout.split())
    assert made == 1, "the writer's thread and no helpers"
    assert written > 0, "its helpers"
    assert traced <= 1, "the thread that takes turns and no helpers"
    assert multiplied > 0, "the loop's helpers, which it had none of"


def test_work_is_done_in_a_thread_that_has_ended():
    seen = aside(threading.current_thread)

    assert seen is not threading.current_thread()
    assert not seen.is_alive()


def test_what_work_raises_is_raised():
    with pytest.raises(InputError, match="no text"):
        aside(lambda: (_ for _ in ()).throw(InputError("no text")))


async def test_turns_are_taken_in_order_and_one_at_a_time():
    turns, at_work, most, order = Turns("sums"), [], [], []

    def work(number):
        at_work.append(number)
        most.append(len(at_work))
        order.append(number)
        at_work.remove(number)
        return number

    found = await asyncio.gather(*(turns.take(lambda each=each: work(each)) for each in range(6)))

    assert found == order == list(range(6))
    assert max(most) == 1
    turns.close()


async def test_who_leaves_before_his_turn_is_passed_over():
    turns, held, begun = Turns("sums"), threading.Event(), []
    first = asyncio.create_task(turns.take(held.wait))
    others = [
        asyncio.create_task(turns.take(lambda each=each: begun.append(each)))
        for each in range(WAITING - 1)
    ]
    await asyncio.sleep(0)

    with pytest.raises(Busy, match="sums wait already"):
        await turns.take(lambda: None)
    others[0].cancel()
    await asyncio.wait(others[:1])
    held.set()
    await asyncio.gather(first, *others[1:])

    assert begun == list(range(1, WAITING - 1))
    turns.close()
