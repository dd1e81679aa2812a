"""A tiny model behind the server, in this process or in one of its own."""

import asyncio
import os
import re
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager

import httpx
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import tiny
from offramp.blocks.gates import Gate
from offramp.models.attach import attach_exits
from offramp.server.address import address_of, listen
from offramp.server.app import create_app
from offramp.server.batching import Batching
from offramp.server.hosted import CausalHost, ElmerHost, Hosts
from offramp.server.running import server_of
from offramp.server.scheduling import Room
from small_seq2seq import elmer_of

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role not in ('system', 'user', 'assistant') %}"
    "{{ raise_exception('unknown role ' + message.role) }}{% endif %}"
    "{{ message.role }}: {{ message.content }}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
SPECIAL = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
VOCABULARY, CONTEXT = 3 + 256, 256


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte: whatever is not ASCII needs several."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*SPECIAL.values(), *alphabet]
    bare = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, []))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bare.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bare, chat_template=TEMPLATE, **SPECIAL)


def causal_model(**extra):
    """Build a Llama of 4 blocks with exits, whose texts never end by themselves."""
    sizes = {"vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT}
    model = attach_exits(tiny.model_of("llama", **{**sizes, **extra}), (1, 2, 3), "direct")
    model.generation_config.eos_token_id = None
    return model


def add_gates_(model) -> None:
    """Give each exit a gate that is sure of about every second token."""
    torch.manual_seed(3)
    for exit in model.exit_numbers:
        model.exits[str(exit)].gate = Gate(32)


def causal_host(name="tiny", *, room=None, model=None) -> CausalHost:
    """Host a tiny model with the writers that the server has."""
    model = model or causal_model()
    writers = Batching(model, room=room or Room(slots=4, waiting=8))
    return CausalHost(name, model, tokenizer=byte_tokenizer(), writers=writers)


def elmer_host(name="tiny-elmer", **options) -> ElmerHost:
    """Host a tiny ELMER model."""
    sizes = {"vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT}
    return ElmerHost(name, elmer_of(**sizes, **options), tokenizer=byte_tokenizer())


@asynccontextmanager
async def client_of(*hosts, **options):
    """Ask an app in this process; yields a client and the app."""
    app = create_app(Hosts(hosts), **options)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
        yield client, app


@asynccontextmanager
async def running(*hosts, grace=0.0, **options):
    """Listen in this process; yields the server and its URL."""
    server = server_of(create_app(Hosts(hosts), **options), grace=grace)
    with listen("127.0.0.1", 0) as taken:
        url = address_of(taken)
        serving = asyncio.create_task(server.serve(sockets=[taken]))
        try:
            yield server, url
        finally:
            server.should_exit = True
            await serving


@contextmanager
def served(*arguments, **environment):
    """Run ``offramp serve`` in a process of its own; yields it and its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "offramp.cli", "serve", "--port", "0", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    try:
        line = process.stdout.readline()
        found = re.search(r"http://\S+:\d+", line)
        assert found, (line, process.communicate(timeout=20))
        yield process, found[0]
    finally:
        process.kill()
        process.communicate()
