"""Clients that ask a server one request after the other, as many at a time as are asked for.

In:  a server and conversations. Out: when each piece of each answer came; rates and waits of a
     window of time.
Law: what came before the window or after it counts for nothing; of a text that reaches over its
     edges only the share that came within counts (tests/test_benchmarks.py).
Not here: starting servers (serve_servers.py).
"""

import asyncio
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from serve_servers import Server

ANSWER_SECONDS = 300.0


@dataclass
class Answer:
    """One request and what came of it.

    Attributes:
        prompt: Which conversation.
        begun: When it was sent, by ``perf_counter``.
        pieces: When each piece of its text came.
        text: All of it.
        failure: What went wrong; empty if nothing.
    """

    prompt: int
    begun: float
    pieces: list[float] = field(default_factory=list)
    text: str = ""
    failure: str = ""


async def ask(
    client: httpx.AsyncClient, server: Server, messages: Any, *, prompt: int, new_tokens: int
) -> Answer:
    """Ask for a greedy answer, event by event."""
    answer = Answer(prompt, time.perf_counter())
    body = {
        "model": server.model,
        "messages": messages,
        "max_tokens": new_tokens,
        "temperature": 0,
        "stream": True,
    }
    parts = []
    try:
        async with client.stream(
            "POST", f"{server.url}/v1/chat/completions", json=body
        ) as response:
            if response.status_code != 200:
                answer.failure = f"{response.status_code} {(await response.aread())[:200]!r}"
                return answer
            async for line in response.aiter_lines():
                if text := content_of(line):
                    answer.pieces.append(time.perf_counter())
                    parts.append(text)
    except httpx.HTTPError as error:
        answer.failure = type(error).__name__
    answer.text = "".join(parts)
    return answer


def content_of(line: str) -> str:
    """Read the new text off a line of an event stream."""
    if not line.startswith("data: {"):
        return ""
    choices = json.loads(line.removeprefix("data: ")).get("choices") or [{}]
    return (choices[0].get("delta") or {}).get("content") or ""


async def closed_loop(
    server: Server,
    conversations: Sequence[Any],
    *,
    clients: int,
    seconds: float,
    new_tokens: int,
) -> tuple[list[Answer], tuple[float, float]]:
    """Let clients ask one after the other; give all answers, and the window of time.

    Each asks at least once. The window begins with the first requests; what has begun at its end is
    let finish.
    """
    order = itertools.count()
    answers: list[Answer] = []
    start = time.perf_counter()

    async def one(client: httpx.AsyncClient) -> None:
        while True:
            place = next(order) % len(conversations)
            messages = conversations[place]
            answers.append(await ask(client, server, messages, prompt=place, new_tokens=new_tokens))
            if time.perf_counter() - start >= seconds:
                return
            if answers[-1].failure:
                await asyncio.sleep(0.2)

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=ANSWER_SECONDS, limits=limits) as client:
        await asyncio.gather(*(one(client) for _ in range(clients)))
    return answers, (start, start + seconds)


def summed(
    answers: Sequence[Answer], window: tuple[float, float], count: Callable[[str], int]
) -> dict[str, Any]:
    """Give rates and waits of a window.

    Args:
        answers: Of one closed loop.
        window: Start and end.
        count: Counts the tokens of a text.

    Example:
        >>> answer = Answer(0, 0.0, pieces=[1.0, 2.0, 3.0, 9.0], text="a b c d")
        >>> found = summed([answer], (0.0, 4.0), lambda text: len(text.split()))
        >>> found["tokens_per_second"], found["first_token_ms"]["p50"]
        (0.75, 1000.0)
    """
    start, end = window
    good = [each for each in answers if not each.failure and each.pieces]
    tokens = 0.0
    for each in good:
        within = sum(start <= at < end for at in each.pieces)
        tokens += count(each.text) * within / len(each.pieces)
    first = [each.pieces[0] - each.begun for each in good if each.begun < end]
    gaps = [
        after - before
        for each in good
        for before, after in itertools.pairwise(each.pieces)
        if after < end
    ]
    return {
        "tokens_per_second": round(tokens / (end - start), 3),
        "requests": len(good),
        "failed": sorted({each.failure for each in answers if each.failure}),
        "first_token_ms": percentiles(first),
        "between_tokens_ms": percentiles(gaps),
    }


def percentiles(seconds: Sequence[float]) -> dict[str, float | None]:
    """Give the median and the 99th percentile in milliseconds; None of nothing."""
    if len(seconds) < 2:
        value = round(1e3 * seconds[0], 2) if seconds else None
        return {"p50": value, "p99": value}
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50": round(1e3 * cuts[49], 2), "p99": round(1e3 * cuts[98], 2)}


def conversations(prompts: Sequence[dict[str, Any]]) -> Iterator[Any]:
    """Give prompts as conversations."""
    for each in prompts:
        yield each.get("messages") or [{"role": "user", "content": each["text"]}]
