"""What the app says of itself, its page, and how it fails."""

import re

import pytest

import tiny
from offramp.errors import ConfigError
from offramp.models.attach import with_exits
from offramp.server.hosted import CausalHost, Hosts
from offramp.server.pages import FOLDER
from small_server import byte_tokenizer, causal_host, causal_model, client_of

pytestmark = pytest.mark.anyio


async def test_models_are_listed_with_what_they_can_do(client, host):
    listed = (await client.get("/v1/models")).json()["data"]

    assert [each["id"] for each in listed] == ["tiny", "tiny-elmer"]
    assert listed[0]["offramp"] == {
        "kind": "causal",
        "depth": 4,
        "exits": [1, 2, 3],
        "decodings": ["plain", "contrast", "exit", "dola", "early_exit", "speculation"],
        "default_contrast": {"upper": "original", "lower": 2, "alpha": 0.1},
        "calibrated": False,
        "gates": False,
        "chat": True,
        "context": 256,
    }
    assert (await client.get("/v1/models/tiny")).json() == listed[0]
    missing = await client.get("/v1/models/other/name")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_model_without_exits_offers_what_it_can_do_and_does_it():
    sizes = {"vocab_size": 259, "max_position_embeddings": 256}
    host = causal_host(model=with_exits(tiny.model_of("llama", **sizes)))
    assert host.decodings == ("plain", "dola")
    async with client_of(host) as (client, _):
        for decoding in host.decodings:
            body = {"prompt": "a", "max_tokens": 2, "decoding": decoding}
            assert (await client.post("/v1/completions", json=body)).status_code == 200


def test_models_need_names_of_their_own():
    host = CausalHost("a", causal_model(), tokenizer=byte_tokenizer(), writers=None)

    for hosts in ([], [host, host]):
        with pytest.raises(ConfigError, match="need different names"):
            Hosts(hosts)


async def test_a_fault_of_the_server_is_not_told(client, host, monkeypatch):
    def breaks(*_, **__):
        raise RuntimeError("the secret path /etc/shadow")

    monkeypatch.setattr(host.vocabulary, "encode", breaks)

    answer = await client.post("/v1/completions", json={"prompt": "a"})

    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


async def test_a_stream_that_fails_says_so_and_nothing_more(client, host, monkeypatch):
    def breaks(*_):
        raise RuntimeError("the secret path /etc/shadow")

    monkeypatch.setattr(host.vocabulary, "decode", breaks)

    body = {"prompt": [5, 6], "max_tokens": 4, "stream": True}
    answer = await client.post("/v1/completions", json=body)

    assert '"type": "server_error"' in answer.text
    assert "secret" not in answer.text
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("GET", "/v1/completions", 405), ("DELETE", "/v1/models", 405)],
)
async def test_what_is_not_there_is_said_in_openais_form(client, method, path, status):
    answer = await client.request(method, path)

    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (b"", "application/json", "must be a JSON object"),
        (b"[]", "application/json", "must be a JSON object"),
        (b'{"prompt": "a"}', "text/plain", "must be a JSON object"),
        (b'{"prompt": "a"', "application/json", "the body is no JSON"),
        (b'{"prompt": ' + b"[" * 100_000, "application/json", "parsing the body"),
        (b'{"prompt": "a", "seed": 1' + b"0" * 9_000 + b"}", "application/json", ""),
        (b"\xff\xfe", "application/json", ""),
    ],
)
async def test_a_body_that_is_no_json_object_is_said_to_be_none(client, content, kind, said):
    headers = {"Content-Type": kind}
    answer = await client.post("/v1/completions", content=content, headers=headers)

    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


async def test_the_page_and_its_files_come_from_the_package_with_a_strict_policy(client):
    index = await client.get("/")

    assert index.content == (FOLDER / "index.html").read_bytes()
    policy = index.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    named = re.findall(r'(?:src|href)="([\w./-]+)"', index.text)
    assert "page.css" in named
    for name in named:
        answer = await client.get(f"/{name}")
        assert answer.status_code == 200
        assert answer.content == (FOLDER / name).read_bytes()


@pytest.mark.parametrize("path", ["/../app.py", "/%2e%2e/app.py", "/app.py", "/page/index.html"])
async def test_nothing_else_of_the_package_is_given(client, path):
    assert (await client.get(path)).status_code == 404


async def test_metrics_count_texts_tokens_and_requests(client):
    def value(text, name):
        return sum(float(each) for each in re.findall(rf"^{name} (\S+)$", text, re.MULTILINE))

    exits = r'offramp_new_tokens_total\{exit="2",model="tiny"\}'
    body = {"prompt": "a", "max_tokens": 5, "exit": 2}
    await client.post("/v1/completions", json=body)
    await client.post('/nothing"evil', json=body)

    text = (await client.get("/metrics")).text

    assert value(text, exits) == 5
    assert value(text, r'offramp_texts_total\{ending="length",model="tiny"\}') == 1
    requests = r'offramp_requests_total\{path="/v1/completions",status="200"\}'
    assert value(text, requests) == 1
    assert value(text, r'offramp_requests_total\{path="other",status="404"\}') == 1
    assert value(text, r'offramp_texts_running\{model="tiny"\}') == 0
    assert "evil" not in text


async def test_transformers_chat_is_told_that_the_model_is_ready(client):
    answer = await client.post("/load_model", json={"model": "tiny"})

    assert '"status": "ready"' in answer.text
    assert (await client.get("/health")).status_code == 200


async def test_a_text_in_tokens_joins_to_the_text(client, host):
    answer = (await client.post("/v1/tokenize", json={"text": "a ferry"})).json()

    assert answer == {"ids": host.vocabulary.encode("a ferry"), "tokens": [*"a ferry"]}
