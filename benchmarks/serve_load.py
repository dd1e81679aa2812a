"""Load ``offramp serve`` for an hour with good, cancelled, malformed and oversized requests.

Clients draw what they ask from a seed:
    good        a chat or a completion of any decoding, whole or event by event, greedy or drawn
    cancelled   the same event by event, and the client leaves after some events
    malformed   no JSON, wrong types, decodings and exits that do not exist
    oversized   a body, a prompt, a length, a number of texts beyond what is allowed

What must hold: each good request is answered in full, or refused with 429 and a Retry-After, after
which it is asked again; each malformed or oversized one gets an answer of 400 to 422 in OpenAI's
form; nothing gets a 5xx or no answer. Every ``--every`` seconds memory of the server (Linux) and
the texts that run and wait are read. At the end the clients stop, and the texts that still run
after ``--settle`` seconds are stuck slots. A fixed request is asked at the beginning and at the end
and must give the same text. The slope of the memory is fitted to the second half.

The result is written at every reading, so that a cut loses nothing. Exit code 1 says that something
did not hold.

Example:
    python benchmarks/serve_load.py --minutes 60 --out benchmarks/results/serve_load.json
"""

import argparse
import asyncio
import json
import random
import re
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy
from serve_clients import content_of, conversations
from serve_servers import Server, plain_checkpoint, serving, settings_of

PROMPTS = Path(__file__).parent / "speed_prompts.json"
ANSWER_SECONDS = 300.0
SHARES = {"good": 0.6, "cancelled": 0.2, "malformed": 0.12, "oversized": 0.08}
DECODINGS: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"decoding": "plain"},
    {"decoding": "dola"},
    {"decoding": "contrast"},
    {"decoding": "exit"},
    {"decoding": "early_exit", "offramp": {"threshold": 0.9}},
    {"decoding": "speculation"},
)
MALFORMED: tuple[Any, ...] = (
    b"{",
    b"\xff\xfe",
    b"[]",
    {"model": 5},
    {"messages": "hello"},
    {"messages": []},
    {"messages": [{"role": "user"}]},
    {"messages": [{"role": "user", "content": "a"}], "temperature": "hot"},
    {"messages": [{"role": "user", "content": "a"}], "max_tokens": -1},
    {"messages": [{"role": "user", "content": "a"}], "top_p": 7},
    {"messages": [{"role": "user", "content": "a"}], "decoding": "telepathy"},
    {"messages": [{"role": "user", "content": "a"}], "decoding": "exit", "exit": 999},
)
OVERSIZED: tuple[dict[str, Any], ...] = (
    {"messages": [{"role": "user", "content": "word " * 20_000}]},
    {"messages": [{"role": "user", "content": "x" * 3_000_000}]},
    {"messages": [{"role": "user", "content": "a"}], "max_tokens": 10_000_000},
    {"messages": [{"role": "user", "content": "a"}], "n": 5_000},
)
GAUGE = re.compile(r"^offramp_texts_(running|waiting)\b[^ ]* ([0-9.e+]+)$", re.MULTILINE)


class Load:
    """Clients, and what came of their requests.

    Args:
        server: Is asked.
        asked: The command line.
    """

    def __init__(self, server: Server, asked: argparse.Namespace) -> None:
        self.server, self.asked = server, asked
        self.draw = random.Random(asked.seed)
        given = json.loads(PROMPTS.read_text(encoding="utf-8"))["prompts"]["30"]
        self.conversations = list(conversations(given))
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.readings: list[dict[str, float]] = []
        self.decodings = self._offered()

    def _offered(self) -> list[dict[str, Any]]:
        """Keep the decodings that the model offers."""
        facts = httpx.get(f"{self.server.url}/v1/models", timeout=30).json()["data"][0]["offramp"]
        known = {None, *facts["decodings"]}
        offered = [each for each in DECODINGS if each.get("decoding") in known]
        below = [exit for exit in facts["exits"] if exit < facts["depth"]]
        middle = {"exit": below[len(below) // 2]} if below else {}
        return [each | middle if each.get("decoding") == "exit" else each for each in offered]

    async def run(self, write: Any) -> None:
        """Ask until the time is over, and read memory meanwhile."""
        self.start = time.monotonic()
        self.end = self.start + 60 * self.asked.minutes
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=ANSWER_SECONDS, limits=limits) as client:
            self.client = client
            first = await self._fixed()
            clients = [asyncio.create_task(self._client()) for _ in range(self.asked.clients)]
            while time.monotonic() < self.end and not all(each.done() for each in clients):
                await self._read()
                write()
                await asyncio.sleep(min(self.asked.every, max(0, self.end - time.monotonic())))
            await asyncio.gather(*clients)
            await asyncio.sleep(self.asked.settle)
            await self._read()
            if await self._fixed() != first:
                self.faults.append("the fixed request gave another text at the end")

    async def _client(self) -> None:
        kinds, weights = list(SHARES), list(SHARES.values())
        while time.monotonic() < self.end:
            (kind,) = self.draw.choices(kinds, weights)
            self.counts[f"{kind}: asked"] += 1
            try:
                outcome = await getattr(self, f"_{kind}")()
            except httpx.HTTPError as error:
                outcome = f"unanswered ({type(error).__name__})"
                self._fault(kind, outcome)
            self.counts[f"{kind}: {outcome}"] += 1

    def _fault(self, kind: str, what: str) -> None:
        if len(self.faults) < 50:
            self.faults.append(f"{kind}: {what}")

    def _request(self) -> tuple[str, dict[str, Any]]:
        """Draw a good request: its path and body."""
        draw = self.draw
        messages = draw.choice(self.conversations)
        body = {
            **draw.choice(self.decodings),
            "max_tokens": draw.choice((1, 4, 16, 64)),
            "temperature": draw.choice((0, 0, 0.7)),
            "seed": draw.randrange(100),
        }
        if draw.random() < 0.5:
            return "/v1/chat/completions", {**body, "messages": messages}
        return "/v1/completions", {**body, "prompt": messages[-1]["content"]}

    async def _good(self) -> str:
        path, body = self._request()
        body["stream"] = self.draw.random() < 0.5
        while True:
            response = await self.client.post(self.server.url + path, json=body)
            if response.status_code != 429:
                break
            self.counts["good: refused for now (429)"] += 1
            if "retry-after" not in response.headers:
                self._fault("good", "429 without Retry-After")
            await asyncio.sleep(min(5.0, float(response.headers.get("retry-after", 1))))
        if response.status_code != 200:
            self._fault("good", f"{response.status_code} {response.text[:200]} for {body}")
            return f"failed ({response.status_code})"
        whole = response.text
        ended = "data: [DONE]" in whole if body["stream"] else "finish_reason" in whole
        if not ended or '"error"' in whole:
            self._fault("good", f"no end of {body}: {whole[-300:]}")
            return "broken off"
        return "answered"

    async def _cancelled(self) -> str:
        path, body = self._request()
        body |= {"stream": True, "max_tokens": 256}
        leave = self.draw.choice((0, 1, 2, 5, 20))
        seen = 0
        async with self.client.stream("POST", self.server.url + path, json=body) as response:
            if response.status_code == 429:
                return "refused for now (429)"
            if response.status_code != 200:
                self._fault("cancelled", f"{response.status_code} for {body}")
                return f"failed ({response.status_code})"
            async for line in response.aiter_lines():
                seen += line.startswith("data: ")
                if seen > leave:
                    return "left"
        return "ended before"

    async def _malformed(self) -> str:
        body = self.draw.choice(MALFORMED)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self._refused("malformed", content)

    async def _oversized(self) -> str:
        return await self._refused("oversized", json.dumps(self.draw.choice(OVERSIZED)).encode())

    async def _refused(self, kind: str, content: bytes) -> str:
        """Send what must be refused in OpenAI's form."""
        response = await self.client.post(
            f"{self.server.url}/v1/chat/completions",
            content=content,
            headers={"content-type": "application/json"},
        )
        status = response.status_code
        try:
            told = bool(response.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            told = False
        if not 400 <= status < 500 or not told:
            self._fault(kind, f"{status} {response.text[:200]} for {content[:100]!r}")
        return f"answered with {status}"

    async def _fixed(self) -> str:
        body = {"messages": self.conversations[0], "max_tokens": 24, "temperature": 0}
        body["stream"] = True
        response = await self.client.post(f"{self.server.url}/v1/chat/completions", json=body)
        return "".join(map(content_of, response.text.splitlines()))

    async def _read(self) -> None:
        """Read memory and slots."""
        metrics = (await self.client.get(f"{self.server.url}/metrics")).text
        slots = {name: float(value) for name, value in GAUGE.findall(metrics)}
        seconds = round(time.monotonic() - self.start, 1)
        self.readings.append({"seconds": seconds, **slots, **self.server.memory()})

    def result(self) -> dict[str, Any]:
        """Sum up."""
        last = self.readings[-1] if self.readings else {}
        half = self.readings[len(self.readings) // 2 :]
        slope = None
        if len(half) > 2:
            hours = [each["seconds"] / 3600 for each in half]
            fit = numpy.polyfit(hours, [each["private"] for each in half], 1)
            slope = round(float(fit[0]), 2)
        return {
            "counts": dict(sorted(self.counts.items())),
            "faults": self.faults,
            "stuck_slots": int(last.get("running", 0) + last.get("waiting", 0)),
            "private_mb_per_hour_second_half": slope,
            "readings": self.readings,
        }


def command_line() -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--every", type=float, default=15.0, help="seconds between readings")
    parser.add_argument("--settle", type=float, default=5.0, help="seconds at the end")
    parser.add_argument("--threads", type=int, default=2, help="of the server")
    parser.add_argument("--folder", type=Path, help="a plain checkpoint; default: the embedded one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/serve_load.json"))
    return parser.parse_args()


def main() -> int:
    """Load the server, write JSON, and print what did not hold."""
    asked = command_line()
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.folder or plain_checkpoint(Path(scratch) / "smollm2")[0]
        log = Path(scratch) / "log"
        with serving("offramp", folder, threads=asked.threads, log=log) as server:
            load = Load(server, asked)

            def write() -> None:
                found = {"benchmark": "serve_load", "settings": settings_of(asked)}
                found |= {"offramp": version("offramp"), **load.result()}
                asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

            asyncio.run(load.run(write))
            alive = server.process.poll() is None
            code = server.stop()
            if not alive or code not in (0, 130, -2):
                load.faults.append(f"the server ended with {code}, alive until then: {alive}")
            write()
        if "Traceback" in log.read_text(encoding="utf-8", errors="replace"):
            load.faults.append("the server's log has a traceback")
            write()
    found = load.result()
    print(json.dumps({**found, "readings": len(found["readings"])}, indent=1))
    return int(bool(found["faults"] or found["stuck_slots"]))


if __name__ == "__main__":
    sys.exit(main())
