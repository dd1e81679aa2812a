"""Let in what may come in: who asks, from where, how much at a time.

In:  a request. Out: the same with its body read, or a refusal in OpenAI's form.
Law: nothing behind this reads a body that is too long, or serves a stranger; who sends one still
     gets an answer (tests/server/test_guards.py, tests/server/test_serving.py).
Not here: what is in the body (offramp.server.schemas).

A page of another site can make a browser send requests to this machine. Its name in ``Host`` gives
away a name that was bent to point here (DNS rebinding), ``Origin`` any other page.
"""

import asyncio
import hmac
import ipaddress
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from offramp.server.errors import Refusal, closing
from offramp.server.events import LEFT
from offramp.server.service import Service

OPEN_TO_ALL = ("/healthz", "/health")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Of every answer that does not say otherwise."""
DRAINED, DRAIN_SECONDS = 64 * 2**20, 5.0
"""So much of a body that is too long is still taken off the line, for so long."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may ask.

    Attributes:
        key: A secret that requests must bring; None is everybody.
        hosts: Names by which the server may be called; None is any.
        origins: Other pages that may ask, such as ``https://example.org``.
    """

    key: str | None = None
    hosts: frozenset[str] | None = frozenset(LOOPBACK)
    origins: frozenset[str] = frozenset()


def access_of(
    bound: str, *, key: str | None, names: Sequence[str] = (), origins: Sequence[str] = ()
) -> Access:
    """Choose who may ask.

    Args:
        bound: The address that is listened on. On loopback only its own names are let in; elsewhere
            any name, unless some are given.
        key: A secret that requests must bring.
        names: Further names by which the server may be called.
        origins: Other pages that may ask.

    Example:
        >>> access_of("127.0.0.1", key=None).hosts is None, access_of("0.0.0.0", key=None).hosts
        (False, None)
    """
    known = {*LOOPBACK, bound.strip("[]").lower(), *(name.lower() for name in names)}
    hosts = frozenset(known) if names or is_loopback(bound) else None
    return Access(key=key, hosts=hosts, origins=frozenset(origins))


def is_loopback(host: str) -> bool:
    """Tell whether an address can be reached from this machine only.

    Example:
        >>> is_loopback("localhost"), is_loopback("127.0.0.2"), is_loopback("0.0.0.0")
        (True, True, False)
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Guard:
    """Stands before an app.

    Args:
        app: What is guarded.
        api: The FastAPI app in it.
        service: What its endpoints share.
        access: Who may ask.
        free: Paths that need no key.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        api: FastAPI,
        service: Service,
        access: Access,
        free: Sequence[str],
    ) -> None:
        self.api, self.service = api, service
        self._app, self._access, self._limits = app, access, service.limits
        self._free = frozenset((*free, *OPEN_TO_ALL))
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), LEFT

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        self._open += 1
        try:
            await self._serve(scope, receive, noted)
        finally:
            self._open -= 1
            path = getattr(scope.get("route"), "path", "other")
            self.service.metrics.requests.labels(path, str(status)).inc()
            self.service.metrics.seconds.labels(path).observe(time.perf_counter() - begun)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope)
            replay = await self._read(Headers(scope=scope), receive)
        except Refusal as error:
            await error.response(scope, receive, send)
            return
        await self._app(scope, replay, send)

    def _check(self, scope: Scope) -> None:
        """Refuse a stranger, and whoever comes when the server is full or closing."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._access.hosts is not None and _name_of(host) not in self._access.hosts:
            raise Refusal(
                403,
                "this server is not called by that name; ask by localhost, or start it with "
                "--allowed-host",
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        if not (origin is None or origin in self._access.origins or _is_own(origin, host)):
            raise Refusal(
                403,
                "pages of other sites may not ask this server; start it with --allow-origin",
                code="origin_not_allowed",
            )
        asks_leave = scope["method"] == "OPTIONS" and origin in self._access.origins
        if scope["path"] in self._free or asks_leave:  # browsers ask leave without a key
            return
        if self._access.key is not None:
            self._authenticate(headers)
        if self.service.closing:
            raise closing()
        if self._open > self._limits.requests:
            raise Refusal(
                429,
                f"{self._limits.requests} requests are open already; ask again in a second",
                code="busy",
                headers={"Retry-After": "1"},
            )

    def _authenticate(self, headers: Headers) -> None:
        """Compare keys, in a time that tells nothing of how much of one was right."""
        kind, _, given = headers.get("authorization", "").partition(" ")
        expected = (self._access.key or "").encode()
        same = hmac.compare_digest(given.strip().encode(errors="replace"), expected)
        if kind.lower() != "bearer" or not same:
            raise Refusal(
                401,
                "this server wants its key; send it as Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def _read(self, headers: Headers, receive: Receive) -> Receive:
        """Read a body that is short enough, and give what hands it on."""
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._limits.body:
            await _drained(receive)
            raise self._too_long()
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while True:
                    message = await receive()
                    body += message.get("body", b"")
                    if len(body) > self._limits.body:
                        if message.get("more_body"):
                            await _drained(receive)
                        raise self._too_long()
                    if message["type"] == "http.disconnect" or not message.get("more_body"):
                        break
        except TimeoutError:
            raise Refusal(
                408, f"the body took longer than {self._limits.body_seconds:g} s to arrive"
            ) from None
        first: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]
        if message["type"] == "http.disconnect":
            first = [message]

        async def replay() -> Message:
            return first.pop() if first else await receive()

        return replay

    def _too_long(self) -> Refusal:
        return Refusal(
            413,
            f"the body is longer than {self._limits.body} bytes; shorten it",
            code="body_too_long",
            headers={"Connection": "close"},
        )


async def _drained(receive: Receive) -> None:
    """Read on and keep nothing: a client that is cut off while it sends sees no answer."""
    left = DRAINED
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return


def _name_of(host: str) -> str:
    """Give the name in a ``Host`` header, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _is_own(origin: str, host: str) -> bool:
    """Tell whether a page that asks came from this server itself."""
    return origin.partition("://")[2].lower() == host.lower()
