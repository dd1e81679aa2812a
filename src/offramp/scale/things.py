"""Let Ray Data read what a function gives, one after the other.

In:  a function. Out: a source of Ray Data: one task, one block of one row for each thing.
Not here: what is done with them (offramp.scale.pool).

Ray Data's own readers cut files where they like; which prompts are answered together decides the
texts, so the cut is ours.
"""

import pickle
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pyarrow
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata


class Things(Datasource):  # type: ignore[misc]
    """A source of Ray Data.

    Args:
        things: Gives them, the same ones each time.
    """

    def __init__(self, things: Callable[[], Iterable[Any]]) -> None:
        super().__init__()
        self._things = things

    def estimate_inmemory_data_size(self) -> int | None:
        """Say nothing: they are not counted before they are read."""
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[Any]:
        """Give the only task."""
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(_blocks, self._things), unknown)]


def _blocks(things: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    for thing in things():
        yield pyarrow.table({"thing": [pickle.dumps(thing)]})
