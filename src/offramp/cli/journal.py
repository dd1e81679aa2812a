"""Remember what a folder was trained with, so that no other training goes on in it.

Both ``offramp train`` and ``offramp pretrain`` keep one; what the latter trained is all its own.

In:  a folder and the facts that decide a training. Out: ``course.json`` in it, and what was
     reached so far.
Law: a folder in which something else was trained is never gone on with; ``--overwrite`` deletes
     what the command wrote and nothing else (tests/cli/test_train.py).
Not here: checkpoints, and ``training.json`` of the library (offramp.training.checkpoints).
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from offramp.cli.output import NEXT
from offramp.errors import InputError, first_line
from offramp.models.checkpoint import TABLE, TENSORS
from offramp.models.files import json_of
from offramp.training.checkpoints import FACTS
from offramp.whole import write_text_whole

NAME, SELF_TEXT, START = "course.json", "self.jsonl", "start"
FORMAT = "offramp-training"
OWN = (NAME, FACTS, TABLE, TENSORS, START, "runs", "checkpoint-*")
BASE = (
    "config.json",
    "generation_config.json",
    "model*.safetensors*",
    "tokenizer*.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
"""What a training writes that changes the base, too."""


class Journal:
    """The file ``course.json`` of a folder.

    Attributes:
        results: What was reached, by name; empty at first.
    """

    def __init__(
        self,
        folder: Path,
        facts: Mapping[str, Any],
        *,
        writer: Mapping[str, Any] | None,
        overwrite: bool,
        writing: bool,
    ) -> None:
        """Open or begin it.

        Args:
            folder: Made if missing.
            facts: What decides the training.
            writer: What decides the text that the model writes itself; None if it writes none.
            overwrite: Delete what was trained there before.
            writing: Whether this is the process that writes the file.

        Raises:
            InputError: The folder cannot be written, or holds something else.
        """
        self._path = folder / NAME
        self._facts, self._writer = _plain(facts), _plain(writer)
        stored = self._stored()
        if stored is None and any(_found(folder, (TABLE, "config.json", "checkpoint-*"))):
            raise InputError(
                f"{folder} holds a model or exits that this command did not write; name another "
                "--output"
            )
        known = stored or {"facts": None, "writer": None, "results": {}}
        self._keep_text(folder, known, overwrite=overwrite)
        told = ", ".join(differences(known["facts"], self._facts))
        begun = known["results"] or any(_found(folder, (START, "checkpoint-*")))
        if overwrite and stored is not None:
            _clear(folder, with_base=bool(known["facts"]["settings"].get("unfreeze", True)))
        elif begun and told:
            raise InputError(f"{folder} holds a training with other settings ({told}); {NEXT}")
        same = not overwrite and not told
        self.results: dict[str, Any] = known["results"] if same else {}
        if writing:
            self._write()

    def note(self, **results: Any) -> None:
        """Write down what was reached."""
        self.results |= _plain(results)
        self._write()

    def _stored(self) -> Any:
        try:
            found = json_of(self._path.read_text(encoding="utf-8"))
            if found["format"] != FORMAT:
                raise ValueError(f"format {found['format']!r}")
            dict(found["facts"]["settings"])
            dict(found["results"])
            return {name: found[name] for name in ("facts", "writer", "results")}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise InputError(
                f"{self._path} is not what a training writes ({first_line(error)}); name another "
                "--output"
            ) from None

    def _keep_text(self, folder: Path, known: Mapping[str, Any], *, overwrite: bool) -> None:
        """See that the text that is gone on with was written by the same model in the same way."""
        text = folder / SELF_TEXT
        if self._writer is None:
            self._writer = known["writer"]
        elif self._writer != known["writer"] and text.exists() and text.stat().st_size:
            if not overwrite or known["writer"] is None:
                raise InputError(
                    f"{text} was written by another model, from other prompts or with another "
                    f"seed; {NEXT}"
                )
            text.unlink()

    def _write(self) -> None:
        content = {"format": FORMAT, "facts": self._facts, "writer": self._writer}
        text = json.dumps({**content, "results": self.results}, indent=1) + "\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text_whole(self._path, text)
        except OSError as error:
            raise InputError(
                f"cannot write {self._path}: {error.strerror or error}; name another --output"
            ) from None


def _plain(value: Any) -> Any:
    """Give what JSON makes of a value."""
    return json.loads(json.dumps(value))


def _found(folder: Path, names: tuple[str, ...]) -> Iterator[Path]:
    for name in names:
        yield from folder.glob(name)


def _clear(folder: Path, *, with_base: bool) -> None:
    for path in _found(folder, OWN + (BASE if with_base else ())):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """Tell which facts are not the same, by the names of the innermost ones."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from differences(before.get(key), now.get(key), key)
    elif before != now:
        yield f"{name} was {json.dumps(before)}, now {json.dumps(now)}"
