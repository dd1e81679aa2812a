"""Load models and serve them.

In:  checked options. Out: nothing; it serves until it is told to stop.
Law: a model that cannot be served is one line before anything is answered
     (tests/server/test_serving.py).
Not here: what is served (offramp.server).
"""

import os
import socket
from functools import partial
from pathlib import Path

from offramp.cli.loading import load
from offramp.cli.quiet import memory_named, quiet
from offramp.cli.seq2seq_loading import bare_name, find_source, is_elmer
from offramp.cli.serve import Serving
from offramp.cli.show import remark, show_json, show_text
from offramp.errors import ConfigError
from offramp.evaluation.seq2seq import WriteSettings
from offramp.server.address import address_of
from offramp.server.app import create_app
from offramp.server.aside import aside
from offramp.server.batching import Batching
from offramp.server.guards import access_of, is_loopback
from offramp.server.hosted import CausalHost, ElmerHost, Host, Hosts
from offramp.server.limits import Limits
from offramp.server.running import run
from offramp.server.scheduling import Room


def run_server(settings: Serving, taken: socket.socket) -> None:
    """Serve until Ctrl-C.

    Args:
        settings: What and how.
        taken: The address, which is listened on.

    Raises:
        OfframpError: A model cannot be loaded.
        KeyboardInterrupt: It was stopped.
    """
    memory = memory_named(device=settings.device, batch_size=settings.slots)
    with quiet(verbose=settings.verbose), memory:
        hosts = Hosts([aside(partial(_host, name, settings)) for name in settings.models])
        app = create_app(
            hosts,
            limits=Limits(
                body=settings.max_body_bytes,
                prompt=settings.max_prompt_tokens,
                new_tokens=settings.max_new_tokens,
            ),
            access=access_of(
                settings.host,
                key=settings.api_key,
                names=settings.allowed_hosts,
                origins=settings.allowed_origins,
            ),
        )
        url, names = address_of(taken), [each.name for each in hosts]
        if settings.json:
            show_json({"url": url, "models": names})
        else:
            show_text(f"serving {', '.join(names)} at {url}")
            remark(f"OpenAI's clients: base_url {url}/v1; Ctrl-C stops")
        if settings.api_key is None and not is_loopback(settings.host):
            remark(f"anybody who reaches {settings.host} may ask; set OFFRAMP_API_KEY to ask a key")
        run(app, taken, grace=settings.grace, verbose=settings.verbose)


def _host(name: str | None, settings: Serving) -> Host:
    """Load a model.

    Raises:
        ConfigError: It is an encoder-decoder other than ELMER.
        CheckpointError: It cannot be loaded.
    """
    if name is not None and is_elmer(name):
        source = find_source(name)
        writer = source.load(WriteSettings(), dtype=settings.dtype, device=settings.device)
        return ElmerHost(_called(bare_name(name)), writer.model, tokenizer=writer.tokenizer)
    loaded = load(name, dtype=settings.dtype, device=settings.device, exits=settings.exits_from)
    if loaded.model.config.is_encoder_decoder:
        raise ConfigError(
            f"--model {name} reads a source and writes token by token, which is not served; name a "
            "decoder or an ELMER model"
        )
    room = Room(slots=settings.slots, waiting=settings.queue, tokens=settings.cache_tokens)
    writers = Batching(loaded.model, room=room, engine=settings.runtime)
    return CausalHost(
        _called(loaded.name), loaded.model, tokenizer=loaded.tokenizer, writers=writers
    )


def _called(name: str) -> str:
    """Give the name by which clients ask for a model: of a folder only its own."""
    return Path(name).resolve().name if os.path.isdir(name) else name
