"""What a server has answered is forgotten."""

import asyncio
import gc
import random
from contextlib import suppress

import pytest

from small_server import client_of

pytestmark = pytest.mark.anyio

WAYS = (
    {},
    {"decoding": "contrast"},
    {"decoding": "early_exit", "offramp": {"threshold": 0.9}},
    {"decoding": "speculation"},
    {"echo": True, "logprobs": 2},
    {"n": 3, "stop": "e"},
    {"max_tokens": 10**7},
    {"prompt": 5},
)


async def asked(client, draw):
    """Ask for something; one of five clients leaves at once."""
    body = {"prompt": "".join(draw.choices("abcdef ", k=40)), "max_tokens": 12, "temperature": 0.7}
    body |= {"stream": draw.random() < 0.5, **draw.choice(WAYS)}
    request = client.post("/v1/completions", json=body)
    if draw.random() < 0.2:
        with suppress(TimeoutError):
            await asyncio.wait_for(request, 1e-4)
    else:
        await request


async def objects_after(client, count):
    draw = random.Random(0)
    for _ in range(count // 8):
        await asyncio.gather(*(asked(client, draw) for _ in range(8)))
    await asyncio.sleep(0.2)  # those who have left are still being let go
    gc.collect()
    return len(gc.get_objects())


async def test_objects_do_not_grow_with_requests(host):
    async with client_of(host) as (client, _):
        await objects_after(client, 64)
        before = await objects_after(client, 64)
        after = await objects_after(client, 128)

    assert after - before < 64, "less than one for two requests"
