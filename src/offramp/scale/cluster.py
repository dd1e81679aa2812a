"""Find machines to work on: a cluster of Ray, of this machine's own or one that runs already.

In:  an address, and what a worker needs. Out: a connection, and how many workers there are.
Law: a cluster that was started here ends with the ``with``, one that ran before goes on running;
     what Ray says is never printed on stdout (tests/scale/test_pool.py).
Not here: the work (offramp.scale.pool).
"""

import io
import logging
import os
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from offramp.errors import ConfigError, ScaleError, first_line

OWN = "local"
STORE = 256 * 2**20
"""Bytes that a cluster of this machine's own keeps for rows on their way; Ray takes 30 % of the
memory, which the models need."""
PATIENCE = 10
"""Seconds in which a cluster that is there answers."""
_SAID = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
"""Nothing is told to anybody unasked, and nothing is kept back to be printed at the exit."""
_QUIET = {"RAY_BACKEND_LOG_LEVEL": "fatal"}


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Which machines, and what each worker gets of them.

    Attributes:
        address: Of a cluster that runs, as Ray writes it (``auto``, ``host:6379``,
            ``ray://host:10001``); None starts one on this machine.
        workers: How many, each with a model of its own; None: as many as there is room for.
        cpus: Threads of each.
        gpus: GPUs of each, also a part of one; None: one where the cluster has any, else none.

    Raises:
        ConfigError: A number is out of its range.
    """

    address: str | None = None
    workers: int | None = None
    cpus: int = 1
    gpus: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("workers", self.workers), ("cpus", self.cpus)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be 1 or more, got {value}")
        if self.gpus is not None and not (
            self.gpus >= 0 and (self.gpus <= 1 or self.gpus % 1 == 0)
        ):
            raise ConfigError(
                f"gpus must be a whole number or a part of one GPU, got {self.gpus}; try 1 or 0.5"
            )


@dataclass(frozen=True, kw_only=True)
class Room:
    """What a cluster has for us.

    Attributes:
        workers: How many.
        cpus: Threads of each.
        gpus: GPUs of each.
        node: The machine that this process runs on, by Ray's name.
    """

    workers: int
    cpus: int
    gpus: float
    node: str


def check_ray() -> None:
    """Refuse to begin without Ray.

    Raises:
        ConfigError: It is not installed.
    """
    if find_spec("ray") is None:
        raise ConfigError(
            "--engine ray needs ray, which is not installed; run pip install 'offramp[ray]'"
        )


@contextmanager
def connected(cluster: Cluster, *, verbose: bool = False) -> Iterator[Room]:
    """Join a cluster, or start one on this machine until the block ends.

    Args:
        cluster: Which.
        verbose: Let Ray and its workers log, on stderr.

    Raises:
        ConfigError: Ray is not installed.
        ScaleError: There is no such cluster, or it has no room for a worker.
    """
    check_ray()
    for name, value in (*_SAID.items(), *(() if verbose else _QUIET.items())):
        os.environ.setdefault(name, value)
    import ray.data  # noqa: PLC0415 - only an extra brings it

    if not verbose:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
    ours = not ray.is_initialized()
    with redirect_stdout(_MainThread(sys.stdout)):
        if ours:
            _join(cluster, verbose=verbose)
        try:
            yield _room(cluster)
        finally:
            if ours:
                ray.shutdown()


def _join(cluster: Cluster, *, verbose: bool) -> None:
    import ray  # noqa: PLC0415

    named: dict[str, Any] = {"address": cluster.address or OWN, "log_to_driver": verbose}
    if cluster.address is None:
        workers = cluster.workers or max((os.cpu_count() or 1) // cluster.cpus, 1)
        named |= {"num_cpus": workers * cluster.cpus, "object_store_memory": STORE}
        named |= {"include_dashboard": False}
    try:
        _knock(cluster.address or "")
        with warnings.catch_warnings(), nullcontext() if verbose else _stderr_dropped():
            warnings.simplefilter("ignore")
            ray.init(logging_level=logging.INFO if verbose else logging.ERROR, **named)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        with suppress(Exception):
            ray.shutdown()
        where = f"of {cluster.address}" if cluster.address else "on this machine"
        raise ScaleError(
            f"cannot join a Ray cluster {where}: {first_line(error)[:200]}; check that "
            "ray start --head has run there, or leave --ray-address out"
        ) from None


def _knock(address: str) -> None:
    """Find out in seconds what Ray would try for minutes: whether anybody is there.

    Raises:
        OSError: Nobody is.
    """
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE):
            pass


@contextmanager
def _stderr_dropped() -> Iterator[None]:
    """Drop what code that is not Python says on stderr; whatever matters is raised, too."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _room(cluster: Cluster) -> Room:
    import ray  # noqa: PLC0415

    there = ray.cluster_resources()
    gpus = cluster.gpus
    if gpus is None:
        gpus = 1.0 if there.get("GPU", 0) else 0.0
    most = int(there.get("CPU", 0) // cluster.cpus)
    if gpus:
        most = min(most, int(there.get("GPU", 0) // gpus))
    wanted = cluster.workers or most
    if not 0 < wanted <= most:
        raise ScaleError(
            f"the cluster has {there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs, room "
            f"for {most} workers of {cluster.cpus} CPUs and {gpus:g} GPUs, not for "
            f"{max(wanted, 1)}; ask for fewer or smaller ones"
        )
    node = ray.get_runtime_context().get_node_id()
    return Room(workers=wanted, cpus=cluster.cpus, gpus=gpus, node=node)


class _MainThread(io.TextIOBase):
    """Stdout for this thread; what threads of Ray print goes to stderr, for it is no result."""

    def __init__(self, out: Any) -> None:
        self._out, self._thread = out, threading.get_ident()

    def write(self, text: str) -> int:
        return int(self._here.write(text))

    def flush(self) -> None:
        self._here.flush()

    def isatty(self) -> bool:
        return bool(self._out.isatty())

    @property
    def closed(self) -> bool:
        return bool(self._out.closed)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return str(self._out.encoding)

    @property
    def _here(self) -> Any:
        return self._out if threading.get_ident() == self._thread else sys.stderr
