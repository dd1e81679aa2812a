"""Keep the folder of an export whole: all of it is there, or nobody takes it for a model.

In:  a folder, and files that were written and tried beside their place. Out: the files in place,
     and ``export.json``, which says what was exported and which files are the export's.
Law: only files that an export wrote are ever deleted; without ``config.json``, which goes first and
     comes last, nothing loads the folder (tests/models/test_export.py).
Not here: what is in the files (offramp.models.export).
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from offramp.errors import ConfigError
from offramp.models.files import json_of

MARK = "export.json"
FORMAT, VERSION = "offramp-export", 1
CONFIG, STAGE = "config.json", ".partial"


def check_export_folder(folder: str | Path, *, overwrite: bool) -> Path:
    """See that a folder is free for an export, or holds an earlier one that may go.

    Args:
        folder: Need not exist.
        overwrite: Whether an earlier export may go.

    Returns:
        Its full path.

    Raises:
        ConfigError: It is in use.
    """
    place = Path(folder).resolve()
    if not place.exists():
        return place
    if not place.is_dir():
        raise ConfigError(f"{place} is a file; name a folder for the export")
    if not {each.name for each in place.iterdir()} - {STAGE}:
        return place
    if not _earlier(place):
        raise ConfigError(
            f"{place} holds files that no export wrote, which are never overwritten; name another "
            "folder, or empty it yourself"
        )
    if not overwrite and (place / CONFIG).exists():  # without it the export was cut off
        raise ConfigError(
            f"{place} holds an earlier export; name another folder, or overwrite it (--overwrite, "
            "in Python overwrite=True)"
        )
    return place


def holds_base(place: Path, name: str) -> bool:
    """Tell whether a folder is the model of this name, and not one that is to be."""
    return bool(name) and (place / CONFIG).exists() and Path(name).resolve() == place


@contextlib.contextmanager
def staged(place: Path) -> Iterator[Path]:
    """Make a folder inside the place, to write in; it is gone afterwards."""
    stage, is_new = place / STAGE, not place.exists()
    shutil.rmtree(stage, ignore_errors=True)
    try:
        stage.mkdir(parents=True)
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):
                place.rmdir()  # if nothing came of it


def move(stage: Path, place: Path, about: Mapping[str, Any]) -> None:
    """Put files where they belong, in place of those of an earlier export.

    Args:
        stage: Where they were written.
        place: Where they belong.
        about: What was exported.
    """
    names = sorted({each.name for each in stage.iterdir()} - {CONFIG})
    content = {"format": FORMAT, "version": VERSION, **about, "files": [*names, CONFIG]}
    for name in (CONFIG, *_earlier(place)):
        path = place / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (stage / MARK).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for name in (MARK, *names, CONFIG):
        os.replace(stage / name, place / name)


def _earlier(place: Path) -> tuple[str, ...]:
    """Name the files of the export that a folder holds; none if it holds none."""
    try:
        found = json_of((place / MARK).read_text(encoding="utf-8"))
        names = tuple(str(name) for name in found["files"] if Path(name).name == name)
        return names if found["format"] == FORMAT else ()
    except (OSError, ValueError, LookupError, TypeError):
        return ()
