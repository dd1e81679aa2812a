"""Show what every exit would have said about a text.

In:  a request. Out: a trace as JSON.
Law: a trace is the library's own, of the very tokens that were written
     (tests/server/test_trace.py).
Not here: tracing (offramp.trace, offramp.models.tracing).

Traces take turns, beside the thread that writes, on modules of their own.
"""

from collections.abc import Callable, Sequence
from typing import Any

from offramp.decoding.protocol import DecodingLoop
from offramp.server.aside import Turns
from offramp.server.choosing import decoding_of
from offramp.server.errors import Refusal
from offramp.server.hosted import CausalHost, ElmerHost, Host
from offramp.server.limits import Limits
from offramp.server.prompting import conversation, encoded, ids_of
from offramp.server.schemas import ExitFields, TraceRequest


class Tracer:
    """Traces for several clients; used from one asyncio loop.

    Args:
        limits: Of the server.
        turns: Of all that hooks into a model's twin.
    """

    def __init__(self, limits: Limits, turns: Turns) -> None:
        self._limits, self._turns = limits, turns

    async def trace(self, request: TraceRequest, host: Host) -> dict[str, Any]:
        """Trace a text.

        Raises:
            Busy: Too many wait already.
            Refusal: The request is unclear or too much.
            OfframpError: The model cannot be asked so.
        """
        return await self._turns.take(await self._work(request, host))

    async def _work(self, request: TraceRequest, host: Host) -> Callable[[], dict[str, Any]]:
        if isinstance(host, ElmerHost):
            return self._of_canvas(request, host)
        tokens = await _tokens(request, host)
        window = slice(*request.window) if request.window else slice(None)
        self._check(len(tokens), window, self._asked(request, host.model.exit_numbers))
        own = request.offramp
        rule = decoding_of(host, ExitFields(decoding=request.decoding), own)
        if isinstance(rule, DecodingLoop):
            raise Refusal(
                400, "a trace shows what contrast, dola and exit change; name one of these"
            )

        def trace() -> dict[str, Any]:
            found = host.twin.trace(
                tokens,
                tokenizer=host.tokenizer,
                exits=request.exits,
                top=request.top,
                positions=window,
                decoding=rule,
            )
            return _plain(found, host)

        return trace

    def _of_canvas(self, request: TraceRequest, host: ElmerHost) -> Callable[[], dict[str, Any]]:
        source = request.text if request.text is not None else request.prompt
        if source is None or request.messages or request.written:
            raise Refusal(
                400, f"{host.name} reads one source; send it as text and nothing else", param="text"
            )
        window = slice(*request.window) if request.window else slice(None)
        self._check(host.context, window, self._asked(request, host.exits))

        def trace() -> dict[str, Any]:
            found = host.twin.trace(
                source,
                tokenizer=host.tokenizer,
                exits=request.exits,
                top=request.top,
                positions=window,
            )
            return _plain(found, host)

        return trace

    def _asked(self, request: TraceRequest, exits: Sequence[int]) -> int:
        return 1 + len(request.exits or exits)

    def _check(self, length: int, window: slice, exits: int) -> None:
        """Refuse what would take long to compute and longer to send."""
        places = len(range(*window.indices(length)))
        if places * exits > self._limits.traced:
            raise Refusal(
                400,
                f"{places} positions at {exits} exits are more than {self._limits.traced} answers; "
                "ask for a window or fewer exits",
                param="window",
            )


async def _tokens(request: TraceRequest, host: CausalHost) -> list[int]:
    """Give the tokens of a text: what was prompted, then what was written."""
    given = [name for name in ("prompt", "messages", "text") if getattr(request, name) is not None]
    if len(given) > 1 or not (given or request.written):
        raise Refusal(
            400,
            f"a trace is of one prompt, messages or text, got {', '.join(given) or 'none'}; send "
            "one of them",
        )
    if request.messages is not None:
        tokens = await conversation(request.messages, host)
    elif request.text is not None:
        tokens = await encoded(request.text, host)
    else:
        tokens = await ids_of(request.prompt or (), host)
    return tokens + await ids_of(request.written or (), host)


def _plain(found: Any, host: Host) -> dict[str, Any]:
    """Give a trace as JSON, under the name by which the model is served."""
    return {**found.to_dict(), "model": host.name}
