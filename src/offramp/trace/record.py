"""A trace: what every layer said, with the ways to keep and to show it.

In:  values, from offramp.trace.reading or from JSON. Out: JSON, and pictures of it.
Law: ``Trace.from_json(trace.to_json()) == trace`` (tests/trace/test_plain.py).
Not here: the values themselves (.values).
"""

import json
from dataclasses import dataclass
from typing import Any

from offramp.trace.plain import plain_of, read_json, read_plain
from offramp.trace.values import Traced


@dataclass(frozen=True, kw_only=True)
class Trace(Traced):
    """What the exits of a model say about a text; made by ``model.trace``.

    Example:
        >>> from offramp.trace.values import TracedExit
        >>> trace = Trace(kind="text", model=None, depth=3, length=0, decoding=None, positions=(),
        ...     exits=(TracedExit(exit="original", projection=None),), source=(), text=None)
        >>> Trace.from_json(trace.to_json()) == trace
        True
    """

    def to_dict(self) -> dict[str, Any]:
        """Give dicts, lists, texts, numbers and None."""
        return plain_of(self)

    def to_json(self, *, indent: int | None = None) -> str:
        """Give JSON, by default on one line.

        Args:
            indent: As in ``json.dumps``.
        """
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    @classmethod
    def from_dict(cls, content: Any) -> "Trace":
        """Read what ``to_dict`` gave.

        Raises:
            InputError: It is something else.
        """
        return read_plain(cls, content)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Trace":
        """Read what ``to_json`` gave.

        Raises:
            InputError: It is something else.
        """
        return read_json(cls, text)
