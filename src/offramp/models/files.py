"""Write folders that are never half there, and read JSON that may be anything.

In:  a folder and what writes its files, or text from outside. Out: whole files, or a value of JSON.
Law: killed at any moment a file is the old one or the new one; what is no JSON is a ``ValueError``,
     whatever is wrong with it (tests/fuzz).
Not here: one file (offramp.whole), what the values mean (offramp.models.checkpoint and others).
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STAGE = ".partial"
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
LAST = "config.json"
"""Without it no folder is taken for a model, so it comes last."""


@contextmanager
def moved_whole(folder: str | Path) -> Iterator[Path]:
    """Let several files be written beside their places, and move them there at the end.

    Each file of the folder is at all times the old one or the new one; pieces of older weights that
    are not written anew are removed.

    Args:
        folder: Their place, made if missing.

    Yields:
        Where they are to be written.
    """
    folder = Path(folder)
    stage = folder / STAGE
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    try:
        yield stage
        names = sorted((each.name for each in stage.iterdir()), key=lambda name: name == LAST)
        if any(name.startswith("model") for name in names):
            for old in folder.iterdir():
                if SHARD.fullmatch(old.name) and old.name not in names:
                    old.unlink()
        for name in names:
            os.replace(stage / name, folder / name)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def json_of(text: str | bytes) -> Any:
    """Read a value of JSON from text that somebody else wrote.

    Raises:
        ValueError: It is none, or nested so deeply that nothing good can be meant.

    Example:
        >>> json_of('{"exit": 12}')
        {'exit': 12}
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
