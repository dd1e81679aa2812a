"""Start servers of the same weights, and stop them.

In:  a folder with a plain checkpoint. Out: addresses that answer.
Not here: asking them (serve_clients.py).
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

BIN = Path(sys.executable).parent
START_SECONDS = 240.0
STOP_SECONDS = 30.0


class Skipped(Exception):  # noqa: N818 - a reason, not a fault
    """A server could not be measured, for the reason given."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """One that answers.

    Attributes:
        name: In tables.
        url: Where.
        model: By which requests name its model.
        process: Its process.
    """

    name: str
    url: str
    model: str
    process: "subprocess.Popen[bytes]"

    def memory(self) -> dict[str, float]:
        """Read its resident and its private memory, in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        found = dict(line.split(":", 1) for line in status.splitlines())
        return {
            name: round(int(found[field].split()[0]) / 1024, 1)
            for name, field in (("resident", "VmRSS"), ("private", "RssAnon"))
        }

    def processor_seconds(self) -> float:
        """Read how long processors have worked for it, all threads together."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8")
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> int:
        """Ask it to end as Ctrl-C does, and give its exit code."""
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


COMMANDS: dict[str, list[str]] = {
    "offramp": ["offramp", "serve", "--model", "{folder}", "--dtype", "float32"],
    "transformers": ["transformers", "serve", "{folder}", "--dtype", "float32"],
    "transformers-batching": [
        *("transformers", "serve", "{folder}", "--dtype", "float32", "--continuous-batching"),
    ],
}
"""What starts each; an address follows."""


@contextmanager
def serving(name: str, folder: Path, *, threads: int, log: Path) -> Iterator[Server]:
    """Start a server and stop it in the end.

    Args:
        name: One of ``COMMANDS``.
        folder: The checkpoint.
        threads: Of its products.
        log: File for what it prints.

    Raises:
        Skipped: It did not come up.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped then too
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [part.format(folder=folder) for part in COMMANDS[name]]
    command = [str(BIN / command[0]), *command[1:], "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env=_environment(threads), stdin=subprocess.DEVNULL
        )
        server = Server(
            name=name,
            url=f"http://127.0.0.1:{port}",
            model=folder.name if name == "offramp" else str(folder),
            process=process,
        )
        try:
            _await(server, log)
            yield server
        finally:
            server.stop()


def _environment(threads: int) -> dict[str, str]:
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **quiet, "OMP_NUM_THREADS": str(threads)}


def _await(server: Server, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and server.process.poll() is None:
        try:
            if httpx.get(f"{server.url}/v1/models", timeout=5.0).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise Skipped(f"{server.name} did not come up: {lines[-1] if lines else 'it said nothing'}")


def settings_of(asked: argparse.Namespace) -> dict[str, str]:
    """Give what was asked for, but for places on this machine."""
    return {name: str(value) for name, value in vars(asked).items() if not isinstance(value, Path)}


def plain_checkpoint(folder: Path) -> tuple[Path, Any]:
    """Write the default model as transformers knows it, without exits; give it and its tokenizer.

    Args:
        folder: Made if missing.
    """
    from offramp import load_default  # noqa: PLC0415 - loads torch, which a client never needs

    model, tokenizer = load_default()
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, tokenizer
