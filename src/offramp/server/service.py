"""What all endpoints share, and its end.

In:  models and limits. Out: one object that lives as long as the app.
Law: once it is closing no text is begun, and all texts end within the grace
     (tests/server/test_serving.py).
Not here: the endpoints (offramp.server.app, offramp.server.openai_routes).
"""

import asyncio
from typing import cast

from starlette.requests import HTTPConnection

from offramp.server.aside import Turns
from offramp.server.hosted import CausalHost, Hosts
from offramp.server.limits import Limits
from offramp.server.metrics import Metrics
from offramp.server.tracing import Tracer


class Service:
    """Models, limits and counts.

    Attributes:
        hosts: The models.
        limits: How much a client may ask for.
        metrics: What is counted.
        turns: Of all that hooks into a model's twin: traces and scores of prompts.
        tracer: Makes traces.
        closing: Whether it is about to stop.
    """

    def __init__(self, hosts: Hosts, limits: Limits) -> None:
        self.hosts, self.limits = hosts, limits
        self.metrics, self.turns = Metrics(hosts), Turns("traces and scores of prompts")
        self.tracer = Tracer(limits, self.turns)
        self.closing = False

    async def close(self, *, grace: float) -> None:
        """Begin no more texts, and end those that are being written.

        Args:
            grace: Seconds that they may still take.
        """
        self.closing = True
        causal = [host for host in self.hosts if isinstance(host, CausalHost)]
        await asyncio.gather(*(host.writers.close(grace=grace) for host in causal))
        for host in self.hosts:
            if not isinstance(host, CausalHost):
                host.one_pass.close()
        self.turns.close()


def service_of(connection: HTTPConnection) -> Service:
    """Give the service of the app that serves a request."""
    return cast(Service, connection.app.state.service)
