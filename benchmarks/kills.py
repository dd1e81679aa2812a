"""Kill every command that writes, at random moments, and see what the same command makes of it.

For each command of benchmarks/kills_commands.py: one run that nobody disturbs; then, ``--kills``
times, the command is started, killed by SIGKILL, SIGTERM or SIGINT (Ctrl-C) in turn at a moment
drawn from the length of a whole run, and its files are looked at: those under their final names
must be whole. Then either it is killed again, or it runs to its end, which must give what the
undisturbed run gave: the same bits of weights, the same lines, none lost, none doubled. A Ctrl-C
must end with one line and code 130, no traceback.

A command that is in the result file with so many kills is passed over, so that a run of this
benchmark can be stopped and gone on with. Processes are forked from a server that has imported all
of it, so that the moments fall into the work and not into imports; all that a command does itself
is repeated.

Example:
    python benchmarks/kills.py --kills 50 --out benchmarks/results/kills.json
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kills_commands import Command, commands, half, material, values

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
PRELOADED = ["kills_commands", "offramp.cli.run", "offramp.cli.teach", "offramp.cli.calibrating"]
PRELOADED += ["offramp.cli.pretraining", "offramp.cli.finetuning", "offramp.cli.distilling"]
PRELOADED += ["offramp.cli.seq2seq_measure", "offramp.cli.measure", "offramp.cli.exporting"]
PRELOADED += ["offramp.cli.tracing", "offramp.evaluation.harness.tasks"]
LONGEST = 400.0
"""Seconds that a run may take."""


@dataclass(kw_only=True)
class Told:
    """What was seen of one command.

    Attributes:
        kills: How often it was killed while it ran.
        early: Of these, before its first file.
        too_late: Kills that came after the end; they are not counted.
        finished: Runs after kills that went to the end.
        same: Of these, with the result of the undisturbed run.
        half_files: Files that were half there under their final names.
        bad_ends: Ends after a signal, or of a later run, that are not as promised.
        seconds: Of the undisturbed run.
    """

    kills: int = 0
    early: int = 0
    too_late: int = 0
    finished: int = 0
    same: int = 0
    half_files: list[str] = field(default_factory=list)
    bad_ends: list[str] = field(default_factory=list)
    seconds: float = 0.0


def child(line: list[str], said: str, cache: str) -> None:
    """Run a command as a shell would start it, with its words in a file."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["HF_DATASETS_CACHE"] = cache
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for number in (1, 2):
        os.dup2(file, number)
    import datasets  # noqa: PLC0415 - imported by the server already

    from offramp.cli import main  # noqa: PLC0415 - so is this

    datasets.config.HF_DATASETS_CACHE = Path(cache)
    main(line)


class Killer:
    """Kills one command.

    Args:
        name: Of the command.
        command: It.
        place: Folder for its results.
        seed: Draws the moments.
    """

    def __init__(self, name: str, command: Command, place: Path, *, seed: int) -> None:
        self.name, self.command, self.place = name, command, place
        self.draw = random.Random(f"{seed} {name}")
        self.context = multiprocessing.get_context("forkserver")
        self.told = Told()
        place.mkdir(parents=True)

    def start(self, folder: Path) -> Any:
        """Start the command."""
        folder.mkdir(exist_ok=True)
        said, cache = str(self.place / "said.txt"), str(self.place / "cache")
        run = self.context.Process(target=child, args=(self.command.line(folder), said, cache))
        run.start()
        return run

    def finish(self, folder: Path) -> str | None:
        """Run the command to its end; give what is wrong with that end."""
        run = self.start(folder)
        run.join(LONGEST)
        if run.exitcode != 0:
            run.kill()
            run.join()
            return f"code {run.exitcode}: {self.said()[-300:]}"
        return None

    def said(self) -> str:
        """Give what the last run printed."""
        return (self.place / "said.txt").read_text(encoding="utf-8", errors="replace")

    def run(self, kills: int) -> Told:
        """Kill and look, so many times."""
        whole, cut = self.place / "whole", self.place / "cut"
        ready = self.context.Process(target=int)  # the server has imported all of it then
        ready.start()
        ready.join()
        start = time.monotonic()
        wrong = self.finish(whole)
        self.told.seconds = round(time.monotonic() - start, 2)
        if wrong is not None:
            self.told.bad_ends.append(f"undisturbed: {wrong}")
            return self.told
        expected = values(whole)
        while self.told.kills < kills and self.told.too_late < 3 * kills:
            self.kill(cut)
            self.told.half_files += half(cut)
            if self.draw.random() < 0.4 or self.told.kills == kills:
                self.compare(cut, expected)
        return self.told

    def kill(self, folder: Path) -> None:
        """Start the command and kill it at a random moment."""
        kind = SIGNALS[self.told.kills % len(SIGNALS)]
        run = self.start(folder)
        run.join(self.draw.uniform(0, self.told.seconds))
        if run.exitcode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(run.pid, kind)
        run.join(60)
        if run.exitcode is None:
            self.told.bad_ends.append(f"{kind.name}: still there after 60 s")
            run.kill()
            run.join()
        if run.exitcode == 0:
            self.told.too_late += 1
            shutil.rmtree(folder)  # it is whole; an export, for one, is not made twice
            folder.mkdir()
            return
        self.told.kills += 1
        self.told.early += not any(folder.iterdir())
        self.check_end(kind, run.exitcode)

    def check_end(self, kind: signal.Signals, code: int) -> None:
        """See that the end is one that was promised."""
        said = self.said()
        right = {-kind, 130} if kind == signal.SIGINT else {-kind}
        if code not in right or "Traceback" in said:
            self.told.bad_ends.append(f"{kind.name}: code {code}: {said[-400:]}")

    def compare(self, folder: Path, expected: dict[str, Any]) -> None:
        """Run to the end and compare with the undisturbed result; then begin anew."""
        wrong = self.finish(folder)
        if wrong is not None:
            self.told.bad_ends.append(f"after kills: {wrong}")
        else:
            self.told.finished += 1
            found = values(folder)
            different = [name for name in expected if found.get(name) != expected[name]]
            different += sorted(set(found) - set(expected))
            self.told.same += not different
            if different:
                self.told.bad_ends.append(f"after kills other values in {different}")
        shutil.rmtree(folder)
        folder.mkdir()


def table(found: dict[str, dict[str, Any]]) -> str:
    """Give the rows of docs/reliability.md."""
    rows = [
        f"| `{name}` | {each['kills']} | {each['early']} | {each['finished']} | {each['same']} | "
        f"{len(each['half_files'])} | {len(each['bad_ends'])} |"
        for name, each in found.items()
    ]
    head = (
        "| command | kills | of these before its first file | runs to the end | "
        "of these the same | half files | other faults |"
    )
    return "\n".join([head, "|---|---|---|---|---|---|---|", *rows])


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of commands")
    parser.add_argument("--out", type=Path, default=Path("kills.json"))
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    found = {}
    if options.out.exists():
        found = json.loads(options.out.read_text(encoding="utf-8"))["commands"]
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        material(place)
        for name, command in commands(place).items():
            done = found.get(name, {}).get("kills", 0) >= options.kills
            if done or (options.only and name not in options.only):
                continue
            folder = place / "runs" / name.replace(" ", "_")
            told = Killer(name, command, folder, seed=options.seed).run(options.kills)
            found[name] = asdict(told)
            print(name, json.dumps(found[name]), flush=True)
            result = {"command": "python benchmarks/kills.py", "commands": found}
            options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
        print(table(found))


if __name__ == "__main__":
    main()
