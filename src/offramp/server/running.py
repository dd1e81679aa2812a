"""Listen, and stop in good order.

In:  an app and a socket. Out: nothing; it returns when the server was told to stop.
Law: at the first Ctrl-C or SIGTERM no text is begun, those that are being written may end within
     the grace, whoever is left is told; at the second it stops at once
     (tests/server/test_serving.py).
Not here: which addresses do what (offramp.server.app).
"""

import asyncio
import socket

import uvicorn

from offramp.errors import ConfigError
from offramp.server.guards import Guard

CONNECTIONS = 1024
"""Connections at a time; more are answered 503 by uvicorn itself."""
AFTER_GRACE = 2.0
"""Seconds for the last events of texts that were cancelled."""
BACKLOG = 512


def listen(host: str, port: int) -> socket.socket:
    """Take an address.

    Args:
        host: A name or address of this machine.
        port: 0 takes a free one.

    Raises:
        ConfigError: It cannot be had.
    """
    try:
        found = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        taken = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(
            f"--host {host} is no address of this machine ({error.strerror}); try 127.0.0.1"
        ) from None
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
        taken.listen(BACKLOG)
    except OSError as error:
        taken.close()
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror}; name another --port, 0 takes "
            "a free one"
        ) from None
    return taken


def address_of(taken: socket.socket) -> str:
    """Give the URL of what is listened on.

    Example:
        >>> with listen("127.0.0.1", 0) as taken:
        ...     address_of(taken).rpartition(":")[0]
        'http://127.0.0.1'
    """
    host, port = taken.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(app: Guard, taken: socket.socket, *, grace: float, verbose: bool) -> None:
    """Serve until told to stop.

    Args:
        app: What answers.
        taken: The address.
        grace: Seconds that texts may still take when it stops.
        verbose: Log every request on stderr.

    Raises:
        KeyboardInterrupt: It was Ctrl-C that stopped it.
    """
    config = uvicorn.Config(
        app,
        log_level="info" if verbose else "error",
        access_log=verbose,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=int(grace + AFTER_GRACE) + 1,
        lifespan="off",
    )
    _Server(config, app, grace=grace).run(sockets=[taken])


class _Server(uvicorn.Server):
    """Ends texts before it ends connections."""

    def __init__(self, config: uvicorn.Config, app: Guard, *, grace: float) -> None:
        super().__init__(config)
        self._app, self._grace = app, grace

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop, with the writers' texts first."""
        service = self._app.service
        ending = asyncio.create_task(service.close(grace=self._grace))
        try:
            await super().shutdown(sockets)
        finally:
            if self.force_exit:
                await service.close(grace=0.0)
            await ending
