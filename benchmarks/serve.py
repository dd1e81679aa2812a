"""Measure ``offramp serve`` beside ``transformers serve``: clients over HTTP on loopback.

The embedded default model, float32, the same checkpoint for all, each server with as many threads
for its products. 1, 2, 4, 8 and 16 clients ask for greedy answers of up to ``--new-tokens`` by
/v1/chat/completions, event by event, each its next request as soon as it has its answer. In each
round every server has its turn with every number of clients, in an order that turns; the others are
idle meanwhile. Tokens are counted by the model's tokenizer on the texts that came. On a machine
that others use too, tokens for each second that processors worked for the server say more than
those for each second of the clock.

Servers:
    offramp                 offramp serve
    transformers            transformers serve
    transformers-batching   the same with --continuous-batching

One that does not come up or fails its first request is left out, with the reason in the JSON.

Example:
    python benchmarks/serve.py --seconds 20 --rounds 3 --out benchmarks/results/serve.json
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

from serve_clients import Answer, closed_loop, conversations, summed
from serve_servers import COMMANDS, Server, Skipped, plain_checkpoint, serving, settings_of

PROMPTS = Path(__file__).parent / "speed_prompts.json"
OURS = "offramp"
AIMS = (
    ("1 client, over transformers serve", ("offramp", 1), ("transformers", 1), 1.2),
    ("8 clients, over our own 1", ("offramp", 8), ("offramp", 1), 2.5),
    ("8 clients, over transformers serve", ("offramp", 8), ("transformers", 8), 1.0),
)


class Bench:
    """Servers that are up, and what they are asked.

    Args:
        asked: The command line.
        tokenizer: Of the model.
    """

    def __init__(self, asked: argparse.Namespace, tokenizer: Any) -> None:
        self.asked, self.tokenizer = asked, tokenizer
        given = json.loads(PROMPTS.read_text(encoding="utf-8"))["prompts"]["30"]
        self.conversations = list(conversations(given))
        random.Random(asked.seed).shuffle(self.conversations)
        self.servers: list[Server] = []
        self.skipped: dict[str, str] = {}
        self.texts: dict[str, dict[int, str]] = {}

    def start(self, stack: ExitStack, folder: Path, logs: Path) -> None:
        """Start all servers, and let each answer once."""
        for name in self.asked.servers:
            try:
                log = logs / f"{name}.log"
                server = stack.enter_context(
                    serving(name, folder, threads=self.asked.threads, log=log)
                )
                answers, _ = self._loop(server, clients=1, seconds=0.01)
                if answers[0].failure:
                    raise Skipped(f"{name} failed its first request: {answers[0].failure}")
            except Skipped as reason:
                self.skipped[name] = str(reason)
            else:
                self.servers.append(server)

    def round(self, number: int) -> list[dict[str, Any]]:
        """Give every server its turn with every number of clients."""
        found = []
        for clients in self.asked.clients:
            turn = number % max(1, len(self.servers))
            for server in self.servers[turn:] + self.servers[:turn]:
                before = server.processor_seconds()
                answers, window = self._loop(server, clients=clients, seconds=self.asked.seconds)
                worked = server.processor_seconds() - before
                self._note(server, answers)
                row = {"round": number, "server": server.name, "clients": clients}
                row |= summed(answers, window, self._count) | server.memory()
                tokens = sum(self._count(each.text) for each in answers)
                row["tokens_per_processor_second"] = round(tokens / max(worked, 1e-9), 3)
                found.append(row)
                print(
                    f"round {number + 1}, {clients} clients, {server.name}: "
                    f"{row['tokens_per_second']} tokens/s, "
                    f"{row['tokens_per_processor_second']} for each second of a processor",
                    file=sys.stderr,
                    flush=True,
                )
        return found

    def differing(self) -> dict[str, str]:
        """Say of how many prompts each server's text differs from ours."""
        ours = self.texts.get(OURS, {})
        found = {}
        for name, texts in self.texts.items():
            both = ours.keys() & texts.keys()
            found[name] = f"{sum(ours[at] != texts[at] for at in both)} of {len(both)}"
        return found

    def _loop(
        self, server: Server, *, clients: int, seconds: float
    ) -> tuple[list[Answer], tuple[float, float]]:
        return asyncio.run(
            closed_loop(
                server,
                self.conversations,
                clients=clients,
                seconds=seconds,
                new_tokens=self.asked.new_tokens,
            )
        )

    def _note(self, server: Server, answers: list[Answer]) -> None:
        texts = self.texts.setdefault(server.name, {})
        texts.update({each.prompt: each.text for each in answers if not each.failure})

    def _count(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False).input_ids)


def medians(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give one row for each server and number of clients: medians over rounds."""
    found = []
    for server, clients in dict.fromkeys((row["server"], row["clients"]) for row in rows):
        mine = [row for row in rows if (row["server"], row["clients"]) == (server, clients)]
        found.append(
            {
                "server": server,
                "clients": clients,
                **{
                    rate: statistics.median(row[rate] for row in mine)
                    for rate in ("tokens_per_second", "tokens_per_processor_second")
                },
                **{
                    f"{wait}_{cut}": _median([row[wait][cut] for row in mine])
                    for wait in ("first_token_ms", "between_tokens_ms")
                    for cut in ("p50", "p99")
                },
            }
        )
    return found


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 2) if known else None


def targets(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Hold throughput against the aims: medians of the ratios within rounds, and their range."""
    speed = {
        (row["round"], row["server"], row["clients"]): row["tokens_per_second"] for row in rows
    }
    found = []
    for what, over, under, least in AIMS:
        ratios = [
            speed[number, *over] / speed[number, *under]
            for number in sorted({row["round"] for row in rows})
            if speed.get((number, *over)) and speed.get((number, *under))
        ]
        if ratios:
            middle = round(statistics.median(ratios), 3)
            low, high = round(min(ratios), 3), round(max(ratios), 3)
            met = middle >= least
            found.append(
                {"aim": what, "least": least, "got": middle, "low": low, "high": high, "met": met}
            )
    return found


def table(result: dict[str, Any]) -> str:
    """Write the medians and the aims as Markdown."""
    lines = [
        "| server | clients | tokens/s | for each processor's second | first token ms, p50, p99 "
        "| between tokens ms, p50, p99 |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["medians"]:
        lines.append(
            f"| {row['server']} | {row['clients']} | {row['tokens_per_second']:.1f} "
            f"| {row['tokens_per_processor_second']:.1f} "
            f"| {row['first_token_ms_p50']}, {row['first_token_ms_p99']} "
            f"| {row['between_tokens_ms_p50']}, {row['between_tokens_ms_p99']} |"
        )
    for each in result["targets"]:
        lines.append(
            f"{each['aim']}: {each['got']} ({each['low']} to {each['high']}), aim "
            f"{each['least']}: {'met' if each['met'] else 'missed'}"
        )
    lines += [f"{name}: left out, {reason}" for name, reason in result["skipped"].items()]
    return "\n".join(lines)


def heading(asked: argparse.Namespace) -> dict[str, Any]:
    """Say what was measured, with what."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    packages = ("torch", "transformers", "offramp", "fastapi", "uvicorn", "httpx")
    return {
        "benchmark": "serve",
        "settings": settings_of(asked),
        "packages": {name: version(name) for name in packages},
        "commands": {name: COMMANDS[name] for name in asked.servers},
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
    }


def command_line() -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--seconds", type=float, default=20.0, help="of one closed loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2, help="of each server")
    parser.add_argument("--servers", nargs="+", default=list(COMMANDS), choices=list(COMMANDS))
    parser.add_argument("--folder", type=Path, help="a plain checkpoint; default: the embedded one")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts' order")
    parser.add_argument("--note", default="", help="what else ran on the machine")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/serve.json"))
    return parser.parse_args()


def main() -> None:
    """Measure, write JSON after every round, and print a table."""
    asked = command_line()
    result: dict[str, Any] = heading(asked)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        if asked.folder is None:
            folder, tokenizer = plain_checkpoint(Path(scratch) / "smollm2")
        else:
            from transformers import AutoTokenizer  # noqa: PLC0415 - slow to import

            folder, tokenizer = asked.folder, AutoTokenizer.from_pretrained(asked.folder)
        bench = Bench(asked, tokenizer)
        bench.start(stack, folder, Path(scratch))
        rows: list[dict[str, Any]] = []
        for number in range(asked.rounds):
            rows += bench.round(number)
            result |= {
                "rows": rows,
                "medians": medians(rows),
                "targets": targets(rows),
                "skipped": bench.skipped,
                "texts_differing_from_ours": bench.differing(),
            }
            asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))


if __name__ == "__main__":
    main()
