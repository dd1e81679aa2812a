"""Take an address to listen on, before anything slow is begun.

In:  a host and a port. Out: a socket that listens.
Law: an address that cannot be had is one line (tests/server/test_serving.py).
Not here: answering (offramp.server.running). It imports neither torch nor FastAPI.
"""

import socket

from offramp.errors import ConfigError

BACKLOG = 512
"""Connections that may wait to be taken."""


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
