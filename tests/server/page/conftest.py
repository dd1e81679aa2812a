"""One Chromium for all tests of the page; without one they are skipped (tests/SKIPS.md)."""

import shutil
import threading
import time
from contextlib import contextmanager
from os import geteuid

import pytest
import torch
import uvicorn
from playwright.sync_api import expect, sync_playwright
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import tiny
from offramp import attach_exits
from offramp.server.app import create_app
from offramp.server.batching import Batching
from offramp.server.guards import Access
from offramp.server.hosted import CausalHost, ElmerHost, Hosts
from offramp.server.limits import Limits
from small_seq2seq import elmer_of

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE = 30_000
"""Milliseconds until a test gives up; an idle machine needs a hundredth."""
CONTEXT = 4096
SPECIAL = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
HOSTILE = ["<img src=x onerror=alert(3)>", "<script>alert(4)</script>", "&lt;b&gt;", "</span>"]
WORDS = [" the", " keeper", " lamp", " of", " sea", " and", " light", " ship", "ing", "ed", ".\n"]
TEMPLATE = "{% for message in messages %}user: {{ message.content }}\n{% endfor %}assistant:"


def tokenizer_of_words():
    """Give the tokens a model may write: letters, words, and what a page must not take for HTML."""
    letters = {letter for letter in map(chr, range(33, 127))} | {"Ġ", "Ċ"}
    words = [word.replace(" ", "Ġ").replace("\n", "Ċ") for word in WORDS]
    names = dict.fromkeys([*SPECIAL.values(), *sorted(letters), *words])
    bare = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, []))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bare.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, chat_template=TEMPLATE, **SPECIAL)
    tokenizer.add_tokens(HOSTILE)
    return tokenizer


def causal_host():
    """Host a tiny model with three exits that never ends its text."""
    tokenizer = tokenizer_of_words()
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT}
    model = attach_exits(tiny.model_of("llama", **sizes), (1, 2, 3), "direct")
    model.generation_config.eos_token_id = None
    with torch.no_grad():  # written often, from wherever a text begins
        model.get_output_embeddings().weight[-len(HOSTILE) :] *= 4
    return CausalHost("tiny", model, tokenizer=tokenizer, writers=Batching(model))


def elmer_host():
    """Host a tiny ELMER model."""
    tokenizer = tokenizer_of_words()
    model = elmer_of(vocab_size=len(tokenizer), max_position_embeddings=128)
    return ElmerHost("elmer", model, tokenizer=tokenizer)


@contextmanager
def serving(*hosts, key=None, limits=None):
    """Serve models on a free port, and give the address."""
    app = create_app(Hosts(hosts), access=Access(key=key), limits=limits or Limits())
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def site():
    """A server of both kinds of models."""
    with serving(causal_host(), elmer_host()) as address:
        yield address


@pytest.fixture
def crowded():
    """A server that answers one request at a time."""
    with serving(causal_host(), limits=Limits(requests=1)) as address:
        yield address


@pytest.fixture
def locked():
    """A server that wants a key."""
    with serving(causal_host(), key="open sesame") as address:
        yield address


@pytest.fixture(scope="module")
def chromium():
    """The system's browser, without a window."""
    if BROWSER is None:
        pytest.skip("needs Debian's chromium: apt-get install chromium")
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as driver:
        root = ["--no-sandbox"] if geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=BROWSER, args=root)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Open an address as a new reader; whatever the console complains of fails the test."""

    @contextmanager
    def opened(address, *, complaints=(), **options):
        heard = []
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("dialog", lambda dialog: (heard.append(dialog.message), dialog.dismiss()))
        page.on(
            "console", lambda said: said.type in ("error", "warning") and heard.append(said.text)
        )
        page.goto(address)
        try:
            yield page
            unexpected = [each for each in heard if not any(known in each for known in complaints)]
            assert unexpected == []
        finally:
            context.close()

    return opened
