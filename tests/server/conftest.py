"""A tiny model behind the server, and a client of it."""

import asyncio

import pytest

from small_server import causal_host, client_of, elmer_host


@pytest.fixture
def anyio_backend():
    """The server runs on asyncio."""
    return "asyncio"


@pytest.fixture(scope="session")
def host():
    """A tiny model whose texts end by length alone."""
    host = causal_host()
    yield host
    asyncio.run(host.writers.close(grace=0.0))


@pytest.fixture(scope="session")
def elmer():
    """A tiny ELMER model."""
    return elmer_host()


@pytest.fixture
async def client(host, elmer):
    """A client of both."""
    async with client_of(host, elmer) as (client, _):
        yield client


@pytest.fixture
def write(client):
    """Ask for a completion; gives the JSON."""

    async def ask(prompt="a ferry", path="/v1/completions", status=200, **fields):
        answer = await client.post(path, json={"prompt": prompt, **fields})
        assert answer.status_code == status, answer.text
        return answer.json()

    return ask


@pytest.fixture
def chat(client):
    """Ask for an answer; gives the JSON."""

    async def ask(*messages, status=200, **fields):
        said = [{"role": "user", "content": each} for each in messages or ("a ferry",)]
        answer = await client.post("/v1/chat/completions", json={"messages": said, **fields})
        assert answer.status_code == status, answer.text
        return answer.json()

    return ask
