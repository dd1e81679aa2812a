"""Who is let in, and how much at a time."""

import asyncio

import httpx
import pytest

from offramp.server.guards import Access, access_of
from offramp.server.limits import Limits
from small_server import client_of

pytestmark = pytest.mark.anyio

BODY = {"prompt": "a", "max_tokens": 2}


def code(answer):
    return answer.json()["error"]["code"]


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:99", 200),
        ("LOCALHOST", 200),
        ("evil.example:8000", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
async def test_a_server_on_loopback_answers_to_its_own_names_only(client, name, status):
    for path in ("/v1/models", "/", "/healthz"):
        answer = await client.get(path, headers={"Host": name})

        assert answer.status_code == status
        assert status == 200 or code(answer) == "host_not_allowed"


async def test_further_names_are_let_in_where_they_are_named(host):
    access = access_of("127.0.0.1", key=None, names=["chat.example.org"])
    async with client_of(host, access=access) as (client, _):
        answer = await client.get("/v1/models", headers={"Host": "chat.example.org"})

    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:8000", 200),
        ("http://localhost:9000", 403),
        ("https://evil.example", 403),
        ("null", 403),
    ],
)
async def test_pages_from_elsewhere_may_not_ask(client, origin, status):
    answer = await client.post("/v1/completions", json=BODY, headers={"Origin": origin})

    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers


async def test_a_page_that_is_named_may_ask(host):
    access = access_of("127.0.0.1", key="secret", origins=["https://page.example"])
    headers = {"Origin": "https://page.example", "Authorization": "Bearer secret"}
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "Authorization",
    }
    async with client_of(host, access=access) as (client, _):
        first = await client.options(
            "/v1/completions", headers={"Origin": "https://page.example", **asked}
        )
        answer = await client.post("/v1/completions", json=BODY, headers=headers)

    assert first.status_code == 200
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://page.example"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Bearer secre"}, 401),
        ({"Authorization": "Basic secret"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Bearer secret"}, 200),
        ({"Authorization": "bearer  secret "}, 200),
    ],
)
async def test_a_key_is_asked_of_all_that_tells_or_costs_something(host, headers, status):
    async with client_of(host, access=Access(key="secret")) as (client, _):
        for path in ("/v1/models", "/metrics", "/openapi.json"):
            answer = await client.get(path, headers=headers)
            assert answer.status_code == status
        answer = await client.post("/v1/completions", json=BODY, headers=headers)
        free = [(await client.get(path)).status_code for path in ("/", "/page.css", "/healthz")]

    assert answer.status_code == status
    assert free == [200, 200, 200]
    if status == 401:
        assert code(answer) == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_long_body_is_refused_whether_it_says_so_or_not(host):
    async def in_pieces():
        for _ in range(20):
            yield b"a" * 100

    async with client_of(host, limits=Limits(body=1000)) as (client, _):
        for content in (b"a" * 2000, in_pieces()):
            answer = await client.post("/v1/completions", content=content)
            assert answer.status_code == 413
            assert code(answer) == "body_too_long"
        fits = await client.post("/v1/completions", json=BODY)

    assert fits.status_code == 200


async def test_a_body_that_never_ends_is_given_up(host):
    async def slowly():
        yield b"{"
        await asyncio.sleep(5)

    async with client_of(host, limits=Limits(body_seconds=0.1)) as (client, _):
        answer = await client.post("/v1/completions", content=slowly())

    assert answer.status_code == 408


async def test_only_so_many_requests_are_open_at_a_time(host):
    async with client_of(host, limits=Limits(requests=2)) as (client, _):
        body = {"prompt": "a", "max_tokens": 150}
        asked = [client.post("/v1/completions", json=body) for _ in range(4)]
        answers = await asyncio.gather(*asked)
        health = await client.get("/healthz")

    assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["retry-after"] == "1"
    assert health.status_code == 200


async def test_every_answer_forbids_what_a_browser_might_make_of_it(client):
    for path in ("/v1/models", "/nothing", "/"):
        headers = (await client.get(path)).headers

        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]


async def test_a_client_that_leaves_frees_its_slot(host):
    """The transport of httpx waits for answers, so the app is called by hand."""
    async with client_of(host) as (_, app):
        body = b'{"prompt": "a", "max_tokens": 200, "stream": true}'
        sent, left = [], asyncio.Event()

        async def receive():
            if not sent:
                sent.append(None)
                return {"type": "http.request", "body": body, "more_body": False}
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)
            if len(sent) == 6:
                left.set()

        scope = httpx.Request("POST", "http://localhost/v1/completions")
        headers = [(name.lower(), value) for name, value in scope.headers.raw]
        headers.append((b"content-type", b"application/json"))
        await app(
            {
                "type": "http",
                "method": "POST",
                "path": "/v1/completions",
                "raw_path": b"/v1/completions",
                "root_path": "",
                "query_string": b"",
                "headers": headers,
                "scheme": "http",
                "http_version": "1.1",
                "server": ("localhost", 80),
                "client": ("127.0.0.1", 1),
            },
            receive,
            send,
        )
        for _ in range(100):
            if host.writers.counts().running == 0:
                break
            await asyncio.sleep(0.02)

        assert host.writers.counts().running == 0
        assert len(sent) < 100
        assert sent[-1].get("more_body", True)
