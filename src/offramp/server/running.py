"""Serve, and stop in good order.

In:  an app and a socket. Out: nothing; it returns when the server was told to stop.
Law: at the first Ctrl-C or SIGTERM no text is begun, those that are being written may end within
     the grace, whoever is left is told; at the second it stops at once
     (tests/server/test_serving.py).
Not here: which addresses do what (offramp.server.app), taking one (offramp.server.address).
"""

import asyncio
import socket

import uvicorn

from offramp.server.guards import Guard

CONNECTIONS = 1024
"""Connections at a time; more are answered 503 by uvicorn itself."""
AFTER_GRACE = 2.0
"""Seconds for the last events of texts that were cancelled."""


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
    server_of(app, grace=grace, verbose=verbose).run(sockets=[taken])


def server_of(app: Guard, *, grace: float, verbose: bool = False) -> "Server":
    """Make a server that is not running yet; see ``run``."""
    config = uvicorn.Config(
        app,
        log_level="info" if verbose else "error",
        access_log=verbose,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=int(grace + AFTER_GRACE) + 1,
        lifespan="off",
    )
    return Server(config, app, grace=grace)


class Server(uvicorn.Server):
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
