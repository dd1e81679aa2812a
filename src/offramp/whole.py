"""Write a file that is never half there.

In:  a path and what writes it. Out: the file.
Law: killed at any moment, or out of room, the file is the old one or the new one
     (tests/trace/test_page.py, benchmarks/kills.py).
Not here: several files that belong together (offramp.models.files).
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place and move it there.

    Args:
        path: Its place.
        write: Writes the file at the path that it is given.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text_whole(path: Path, text: str) -> None:
    """Write a text, in UTF-8, beside its place and move it there."""
    write_whole(path, lambda place: place.write_text(text, encoding="utf-8"))
