"""Every command that writes files, on tiny models, and how to see that its files are whole.

In:  a folder to make models and texts in. Out: command lines, and what their results are.
Law: a result is compared by values: bits of weights, lines in order; only times may differ.
Not here: killing (benchmarks/kills.py).
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

TESTS = Path(__file__).parent.parent / "tests"
sys.path.insert(0, str(TESTS))  # the tiny models of the tests

import small_pretraining  # noqa: E402
import small_seq2seq  # noqa: E402
import tiny  # noqa: E402
from cli.conftest import TEMPLATE, byte_tokenizer  # noqa: E402

VOCABULARY, CONTEXT = 515, 128
TIMES = ("seconds", "date", "machine", "speed", "created", "partial")
CPU = ("--device", "cpu")
STEPS = ("--max-steps", "6", "--save-steps", "2", "--log-steps", "1", "--batch-size", "4", *CPU)


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command that writes.

    Attributes:
        arguments: All but the place that it writes to.
        option: Names the place.
        place: A file's name, or a folder's.
    """

    arguments: tuple[str, ...]
    option: str = "--output"
    place: str = "out"

    def line(self, folder: Path) -> list[str]:
        """Give the command line that writes into a folder."""
        return [*self.arguments, self.option, str(folder / self.place)]


def material(folder: Path) -> None:
    """Make models and texts."""
    sizes = {"vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT}
    tiny.model_of("llama", **sizes).save_pretrained(folder / "lm")
    byte_tokenizer(adds_bos=False, chat_template=TEMPLATE).save_pretrained(folder / "lm")
    small_seq2seq.elmer_of(**sizes).save_pretrained(folder / "elmer")
    byte_tokenizer(adds_bos=False).save_pretrained(folder / "elmer")
    small_pretraining.config_of(dropout=0.0).save_pretrained(folder / "bare")
    small_pretraining.tokenizer_of().save_pretrained(folder / "bare")
    prompts = "".join(f"prompt {n} {'x' * (n % 7)}\n" for n in range(40))
    (folder / "prompts.txt").write_text(prompts)
    (folder / "text.txt").write_text("A ferry carries people across the water. It is slow! " * 60)
    documents = "\n\n".join(f"{n} is a number of boats that go out to sea " * 3 for n in range(12))
    (folder / "documents.txt").write_text(documents)
    pairs = [{"source": f"word {n} {'y' * (n % 5)}", "target": f"{n} drow"} for n in range(36)]
    for name in ("pairs.jsonl", "dev.jsonl"):
        (folder / name).write_text("".join(json.dumps(each) + "\n" for each in pairs))


def commands(folder: Path) -> dict[str, Command]:
    """Name the commands."""
    lm, elmer, bare = (("--model", str(folder / name)) for name in ("lm", "elmer", "bare"))
    text, pairs = ("--data", str(folder / "text.txt")), ("--pairs", str(folder / "pairs.jsonl"))
    prompts = ("--file", str(folder / "prompts.txt"))
    sampled = ("--do-sample", "--seed", "5", "--batch-size", "3", "--max-new-tokens", "12")
    train = ("train", *lm, "--exits", "1;2", "--projection", "lens", *STEPS)
    open_ended = ("--open-ended", "--embeddings", "none", "--prompt-words", "4")
    trace = ("trace", "A ferry carries people.", *lm, "--no-chat", "--max-new-tokens", "40")
    lines = "out.jsonl"
    return {
        "generate": Command(arguments=("generate", *lm, *prompts, *sampled), place=lines),
        "generate (ELMER)": Command(
            arguments=("generate", *elmer, *prompts, "--batch-size", "3"), place=lines
        ),
        "distill-data": Command(
            arguments=("distill-data", *elmer, *pairs, "--batch-size", "3"), place=lines
        ),
        "evaluate --pairs": Command(
            arguments=("evaluate", *elmer, *pairs, "--batch-size", "3", "--samples", "100"),
            place=lines,
        ),
        "evaluate --open-ended": Command(
            arguments=(
                *("evaluate", *lm, "--data", str(folder / "documents.txt"), *open_ended),
                *("--max-new-tokens", "12", "--batch-size", "2", "--samples", "100"),
            ),
            place=lines,
        ),
        "evaluate --picture": Command(
            arguments=("evaluate", *lm, *text, "--limit", "200"),
            option="--picture",
            place="out.svg",
        ),
        "train": Command(arguments=(*train, *text, "--closed-form", "--gates")),
        "train --data self": Command(
            arguments=(
                *(*train, "--data", "self", "--self-tokens", "400"),
                *("--prompts", str(folder / "prompts.txt")),
            )
        ),
        "train --unfreeze": Command(arguments=(*train, *text, "--unfreeze")),
        "pretrain": Command(
            arguments=(
                *("pretrain", *bare, "--text", str(folder / "text.txt"), *STEPS),
                *("--rows-per-step", "4", "--block-size", "48", "--workers", "0", "--warmup", "0"),
            )
        ),
        "finetune": Command(
            arguments=(
                *("finetune", *elmer, *pairs, "--held-out", str(folder / "dev.jsonl")),
                *("--max-steps", "6", "--eval-steps", "2", "--batch-size", "4", *CPU),
            )
        ),
        "calibrate": Command(
            arguments=(
                *("calibrate", *lm, *text, "--rule", "top_gap", "--no-timing"),
                *("--block-size", "8"),
            )
        ),
        "export": Command(arguments=("export", *lm, "--exit", "2")),
        "trace": Command(arguments=(*trace, *CPU), place="out.html"),
        "trace (picture)": Command(arguments=(*trace, *CPU), place="out.svg"),
        "lm-eval": Command(arguments=("lm-eval",), option="--local-tasks"),
    }


def values(folder: Path) -> dict[str, Any]:
    """Read every result file of a folder; what only going on needs is left out.

    Raises:
        ValueError: A file under its final name is not whole.
    """
    return {str(path.relative_to(folder)): READERS[path.suffix](path) for path in results(folder)}


def results(folder: Path) -> Iterator[Path]:
    """Name the files of a folder that count as results."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        hidden = any(part.startswith((".", "checkpoint-", "runs")) for part in inside)
        if path.is_file() and not hidden and path.suffix in READERS:
            yield path


def half(folder: Path) -> list[str]:
    """Name the files that are half there under their final names."""
    found = []
    for path in results(folder):
        try:
            READERS[path.suffix](path)
        except Exception as error:
            found.append(f"{path.name}: {type(error).__name__}: {error}"[:160])
    return found


def _lines(path: Path) -> list[Any]:
    """Read whole lines; a cut last one belongs to the promise, the next run drops it."""
    lines = path.read_bytes().split(b"\n")[:-1]
    return [_timeless(json.loads(line)) for line in lines]


def _json(path: Path) -> Any:
    return _timeless(json.loads(path.read_text(encoding="utf-8")))


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(value[name]) for name in value if name not in TIMES}
    return [_timeless(each) for each in value] if isinstance(value, list) else value


def _tensors(path: Path) -> dict[str, list[Any]]:
    return {
        name: [str(each.dtype), list(each.shape), each.double().flatten().tolist()]
        for name, each in load_file(path).items()
    }


def _torch(path: Path) -> str:
    torch.load(path, weights_only=True, map_location="meta")
    return "whole"


def _marked_up(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if not text.rstrip().endswith(f"</{path.suffix[1:]}>"):
        raise ValueError("cut off")
    return "whole"


def _task(path: Path) -> Any:
    """Read a task of lm-eval, but for where its questions lie."""
    task = json.loads(path.read_text(encoding="utf-8"))  # YAML that is JSON
    return {name: value for name, value in task.items() if name != "dataset_kwargs"}


READERS: dict[str, Callable[[Path], Any]] = {
    ".jsonl": _lines,
    ".json": _json,
    ".safetensors": _tensors,
    ".pt": _torch,
    ".svg": _marked_up,
    ".html": _marked_up,
    ".yaml": _task,
}
