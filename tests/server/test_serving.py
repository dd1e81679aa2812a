"""The server as its users meet it: a process, the official client, transformers' chat, Ctrl-C."""

import asyncio
import json
import os
import signal
import sys
import time

import httpx
import openai
import pytest

from offramp.cli import main
from offramp.server.address import listen
from small_server import byte_tokenizer, causal_host, causal_model, running, served

LONG = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model in hub format whose texts end by length alone."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model = causal_model()
    model.base_class.save_pretrained(model, folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server(folder):
    """A server of it and of the ELMER model that ships; gives its URL."""
    with served("--model", folder, "--model", "elmer-g2p", OFFRAMP_API_KEY="secret") as (_, url):
        yield url


@pytest.fixture(scope="module")
def client(server):
    """The official client."""
    with openai.OpenAI(base_url=f"{server}/v1", api_key="secret", max_retries=0) as client:
        yield client


def value(url, name):
    """A count of the server."""
    text = httpx.get(f"{url}/metrics", headers={"Authorization": "Bearer secret"}).text
    lines = [line for line in text.splitlines() if line.startswith(name)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_openais_client_lists_models_with_our_facts(client):
    listed = client.models.list().data

    assert [each.id for each in listed] == ["tiny", "elmer-g2p"]
    assert client.models.retrieve("tiny").offramp["exits"] == [1, 2, 3]


def test_lm_evals_client_scores_as_lm_eval_does_beside_the_model(server, folder, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    lm_eval = pytest.importorskip("lm_eval.models.openai_completions")
    from lm_eval.api.instance import Instance  # noqa: PLC0415 - only the extra "lm-eval" has it

    from offramp.evaluation.harness.model import OfframpLM  # noqa: PLC0415

    remote = lm_eval.LocalCompletionsAPI(
        base_url=f"{server}/v1/completions",
        model="tiny",
        tokenizer=str(folder),
        max_length=128 + 2,  # theirs counts a token to be written, and the last one given
        batch_size=2,
    )
    questions = [("a ferry", " waits"), ("the tide", " is late today"), ("x" * 200, "y")]
    asked = [
        Instance(request_type="loglikelihood", doc={}, arguments=each, idx=place)
        for place, each in enumerate(questions)
    ]

    found = remote.loglikelihood(asked)

    expected = OfframpLM(pretrained=str(folder), max_length=128).loglikelihood(asked)
    assert [each for each, _ in found] == pytest.approx([each for each, _ in expected], abs=1e-3)
    assert [each for _, each in found] == [each for _, each in expected]


@pytest.mark.parametrize("in_pieces", [False, True])
def test_who_sends_too_much_gets_an_answer_however_much_it_is(server, in_pieces):
    much = [b"x" * 2**16] * 160
    headers = {"Authorization": "Bearer secret"}

    for _ in range(5):
        content = iter(much) if in_pieces else b"".join(much)
        answer = httpx.post(f"{server}/v1/completions", content=content, headers=headers)
        assert answer.status_code == 413, answer.text


def test_openais_client_gets_completions_and_chats(client):
    text = client.completions.create(model="tiny", prompt="a ferry", max_tokens=6, logprobs=2)
    said = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "a ferry"}],
        max_completion_tokens=6,
        n=2,
        seed=1,
        temperature=1.0,
        logprobs=True,
        top_logprobs=2,
        extra_body={"offramp": {"decoding": "exit", "exit": 2, "tokens": True}},
    )

    assert text.usage.completion_tokens == 6
    assert len(text.choices[0].logprobs.tokens) == 6
    assert [choice.index for choice in said.choices] == [0, 1]
    assert said.choices[0].message.role == "assistant"
    assert len(said.choices[0].logprobs.content[0].top_logprobs) == 2
    assert {token["exit"] for token in said.choices[0].offramp["tokens"]} == {2}


def test_openais_client_streams(client):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "max_tokens": 12}

    whole = client.chat.completions.create(**body).choices[0].message.content
    stream = client.chat.completions.create(
        **body, stream=True, stream_options={"include_usage": True}
    )
    parts = list(stream)

    assert "".join(each.choices[0].delta.content or "" for each in parts[:-1]) == whole
    assert parts[-2].choices[0].finish_reason == "length"
    assert parts[-1].usage.completion_tokens == 12
    assert (
        "".join(
            each.choices[0].text
            for each in client.completions.create(
                model="tiny", prompt="a", max_tokens=8, stream=True
            )
        )
        == client.completions.create(model="tiny", prompt="a", max_tokens=8).choices[0].text
    )


def test_openais_client_raises_its_own_errors(client, server):
    with pytest.raises(openai.NotFoundError, match="no model 'other' is served"):
        client.completions.create(model="other", prompt="a")
    with pytest.raises(openai.BadRequestError, match="exit 9 does not exist"):
        client.completions.create(model="tiny", prompt="a", extra_body={"exit": 9})
    stranger = openai.OpenAI(base_url=f"{server}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="wants its key"):
        stranger.models.list()


def test_a_shipped_elmer_model_answers_generate(server):
    answer = httpx.post(
        f"{server}/v1/generate",
        json={"model": "elmer-g2p", "texts": ["light", "ferry"]},
        headers={"Authorization": "Bearer secret"},
    ).json()

    assert answer["texts"][0] == "L AY T"
    assert len(answer["exits"][1]) >= len(answer["texts"][1].split())


def test_a_client_that_leaves_a_stream_frees_its_slot(client, server):
    before = value(server, 'offramp_texts_total{ending="cancelled"')

    stream = client.completions.create(model="tiny", prompt="a", max_tokens=LONG, stream=True)
    next(iter(stream))
    stream.close()

    assert soon(lambda: value(server, "offramp_texts_running") == 0)
    assert soon(lambda: value(server, 'offramp_texts_total{ending="cancelled"') == before + 1)


def test_a_client_that_leaves_while_it_waits_frees_its_slot(server):
    headers = {"Authorization": "Bearer secret"}
    body = {"model": "tiny", "prompt": "a", "max_tokens": LONG, "n": 32}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server}/v1/completions", json=body, headers=headers, timeout=0.15)

    assert soon(lambda: value(server, "offramp_texts_running") == 0)
    assert value(server, "offramp_texts_waiting") == 0


def soon(holds, seconds=20.0):
    """Tell whether something comes true."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.anyio
async def test_transformers_chat_works_unchanged(tmp_path):
    """Its own way out of the conversation is !exit; the n is for more than eight tokens."""
    async with running(causal_host()) as (_, url), httpx.AsyncClient() as client:
        chat = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "transformers.cli.transformers", "chat"),
            *("tiny", url, "max_new_tokens=8", "do_sample=False"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=tmp_path,
            env={**os.environ, "HF_HUB_OFFLINE": "0"},  # else its client reaches nobody at all
        )
        shown, _ = await chat.communicate(b"a ferry\nn\n!exit\n")
        body = {"messages": [{"role": "user", "content": "a ferry"}], "max_tokens": 8}
        answer = (await client.post(f"{url}/v1/chat/completions", json=body)).json()

    out = shown.decode()
    assert chat.returncode == 0, out[-2000:]
    assert "tiny was already loaded" in out
    text = answer["choices"][0]["message"]["content"]
    said = out.rpartition("<tiny>")[2]
    assert [each for each in text if each.isalnum() and each not in said] == []
    assert any(each.isalnum() for each in text)


def test_ctrl_c_lets_texts_end_and_is_one_line(folder):
    with served("--model", folder, "--grace", 20, "--json") as (process, url):
        with httpx.stream(
            "POST",
            f"{url}/v1/completions",
            json={"prompt": "a", "max_tokens": LONG, "stream": True},
            timeout=60,
        ) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGINT)
            rest = [line for line in lines if line]
        _, err = process.communicate(timeout=30)

    assert rest[-1] == "data: [DONE]"
    assert '"finish_reason": "length"' in rest[-2]
    assert process.returncode == 130
    assert [line for line in err.splitlines() if "offramp" in line or "nterrupt" in line] == [
        "interrupted"
    ]


@pytest.mark.anyio
async def test_without_grace_streams_are_told_that_the_server_stops():
    body = {"prompt": "a", "max_tokens": LONG, "stream": True, "n": 8}
    async with (
        running(causal_host(), grace=0.0) as (server, url),
        httpx.AsyncClient() as client,
        client.stream("POST", f"{url}/v1/completions", json=body) as answer,
    ):
        lines = answer.aiter_lines()
        await anext(lines)
        server.should_exit = True
        rest = [line.removeprefix("data: ") async for line in lines if line]

    assert rest[-1] == "[DONE]"
    assert json.loads(rest[-2])["error"]["code"] == "shutting_down"


def test_a_port_that_is_taken_is_one_line(capsys):
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as ended:
            main(["serve", "--port", str(port), "--model", "nothing"])

    shown = capsys.readouterr()
    assert (ended.value.code, shown.out) == (2, "")
    assert shown.err == (
        f"error: cannot listen on 127.0.0.1 port {port}: Address already in use; name another "
        "--port, 0 takes a free one\n"
    )


def test_the_runtime_is_chosen_and_one_that_does_not_fit_is_one_line(folder, capsys):
    with served("--model", folder, "--runtime", "family", "--cache-tokens", "64") as (_, url):
        body = {"model": folder.name, "prompt": "x" * 48, "max_tokens": 4}
        refused = httpx.post(f"{url}/v1/completions", json=body)
        body["prompt"] = "x" * 8
        answer = httpx.post(f"{url}/v1/completions", json=body)

    assert answer.json()["usage"]["completion_tokens"] == 4
    assert refused.status_code == 400
    assert "48" in refused.json()["error"]["message"]

    with pytest.raises(SystemExit) as ended:
        main(["serve", "--port", "0", "--model", str(folder), "--runtime", "warp"])

    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: no engine 'warp'; use auto, plain, packed")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "no.such.host.invalid"], "is no address of this machine"),
        (["--api-key", " "], "the API key is empty"),
        (["--api-key", "clé"], "printable ASCII"),
        (["--allow-origin", "example.org"], "try https://example.org"),
        (["--model", "a", "--model", "b", "--exits-from", "c"], "belongs to one model"),
        (["--model", "/nowhere/at/all"], "is no folder, nor a hub name"),
    ],
)
def test_what_cannot_be_served_is_one_line(capsys, arguments, said):
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--port", "0", *arguments])

    shown = capsys.readouterr()
    assert (ended.value.code, shown.out) == (2, "")
    assert said in shown.err
    assert shown.err.count("\n") == 1
