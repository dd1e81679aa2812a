"""Count what the server does, for Prometheus.

In:  requests, texts and tokens as they come. Out: the text that /metrics gives.
Law: nothing that a client sends becomes a label (tests/server/test_app.py).
Not here: how busy the writers are, which they say themselves (offramp.server.jobs).

Each app has a registry of its own, so that two in one process do not mix.
"""

from collections import Counter as Tally
from collections.abc import Iterator, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from offramp.server.hosted import CausalHost, Hosts

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
GAPS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2)


class Metrics:
    """All that is counted.

    Args:
        hosts: The models that are served.
    """

    def __init__(self, hosts: Hosts) -> None:
        registry = self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        registry.register(_Busy(hosts))
        self.requests = Counter(
            "offramp_requests", "Requests that ended.", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "offramp_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ["path"],
            registry=registry,
            buckets=SECONDS,
        )
        self.first = Histogram(
            "offramp_time_to_first_token_seconds",
            "From a request to the first text of an answer.",
            ["model"],
            registry=registry,
            buckets=SECONDS,
        )
        self.gaps = Histogram(
            "offramp_time_between_tokens_seconds",
            "Between two pieces of a text.",
            ["model"],
            registry=registry,
            buckets=GAPS,
        )
        self.prompts = Counter(
            "offramp_prompt_tokens", "Tokens of prompts.", ["model"], registry=registry
        )
        self.tokens = Counter(
            "offramp_new_tokens",
            "Tokens written, by the exit that gave them.",
            ["model", "exit"],
            registry=registry,
        )
        self.texts = Counter(
            "offramp_texts", "Texts that ended, and how.", ["model", "ending"], registry=registry
        )

    def of(self, model: str) -> "ModelMetrics":
        """Give what is counted for one model."""
        return ModelMetrics(self, model)

    def exposition(self) -> bytes:
        """Give all of it in the text format of Prometheus."""
        return generate_latest(self._registry)


class ModelMetrics:
    """What is counted for one model."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics, self._model = metrics, model

    def seen(self, seconds: float, again: bool) -> None:
        """Count a piece of text.

        Args:
            seconds: Since the piece before, or since the request.
            again: Whether there was one before.
        """
        kind = self._metrics.gaps if again else self._metrics.first
        kind.labels(self._model).observe(seconds)

    def ended(self, *, prompt: int, exits: Sequence[int], ending: str) -> None:
        """Count a text that has ended or was cancelled.

        Args:
            prompt: Tokens of its prompt.
            exits: Those that gave its tokens.
            ending: How it ended.
        """
        metrics = self._metrics
        metrics.prompts.labels(self._model).inc(prompt)
        for exit, count in Tally(exits).items():
            metrics.tokens.labels(self._model, str(exit)).inc(count)
        metrics.texts.labels(self._model, ending).inc()


class _Busy(Collector):
    """Asks the writers how busy they are, when somebody looks."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

    def collect(self) -> Iterator[Metric]:
        words = {"running": "that are written", "waiting": "that wait", "free": "that could run"}
        gauges = {
            name: GaugeMetricFamily(f"offramp_texts_{name}", f"Texts {text}.", labels=["model"])
            for name, text in words.items()
        }
        for host in self._hosts:
            if isinstance(host, CausalHost):
                for name, value in vars(host.writers.counts()).items():
                    gauges[name].add_metric([host.name], value)
            else:
                gauges["waiting"].add_metric([host.name], host.one_pass.waiting)
        yield from gauges.values()
