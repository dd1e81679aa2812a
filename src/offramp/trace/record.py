"""A trace: what every layer said, with the ways to keep and to show it.

In:  values, from offramp.trace.reading or from JSON. Out: JSON, and pictures of it.
Law: ``Trace.from_json(trace.to_json()) == trace`` (tests/trace/test_plain.py).
Not here: the values themselves (.values).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offramp.errors import ConfigError, InputError
from offramp.trace import figures
from offramp.trace.page import frame_of, page_of
from offramp.trace.plain import plain_of, read_json, read_plain
from offramp.trace.table import TraceTable
from offramp.trace.values import Traced
from offramp.whole import write_text_whole

SUFFIXES = (".json", ".html", ".svg", ".png")


@dataclass(frozen=True, kw_only=True, repr=False)
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

    @classmethod
    def load(cls, path: str | Path) -> "Trace":
        """Read a .json file that ``save`` wrote.

        Raises:
            InputError: The file cannot be read, or holds something else.
        """
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise InputError(
                f"cannot read {path}: {error.strerror or error}; name a trace that was saved"
            ) from None
        return cls.from_json(content)

    def save(self, path: str | Path, *, title: str | None = None) -> None:
        """Write a file: .json, .html, or a picture as .svg or .png.

        Args:
            path: Its ending says what is written.
            title: Heading of an .html file; None names the model.

        Raises:
            ConfigError: Another ending, or a picture without matplotlib.
            InputError: The file cannot be written.
        """
        path = Path(path)
        kind = path.suffix.lower()
        if kind not in SUFFIXES:
            raise ConfigError(
                f"a trace is saved as {', '.join(SUFFIXES)}, got {str(path)!r}; try trace.html"
            )
        if kind in figures.FORMATS:
            figures.draw(self, path)
            return
        text = self.to_html(title=title) if kind == ".html" else self.to_json() + "\n"
        try:
            write_text_whole(path, text)
        except OSError as error:
            raise InputError(
                f"cannot write {path}: {error.strerror or error}; name another file"
            ) from None

    def to_html(self, *, title: str | None = None) -> str:
        """Give a whole HTML document that needs nothing else.

        Args:
            title: Its heading; None names the model.
        """
        return page_of(self, title=title)

    def table(self, *, measure: str = "probability") -> TraceTable:
        """Give what ``rich.print`` shows in a terminal, as wide as that is.

        Args:
            measure: What cells are coloured by: probability, entropy, divergence or agreement.

        Raises:
            ConfigError: There is no such measure.
        """
        return TraceTable(self, measure=measure)

    def heat_map(self, *, measure: str = "probability") -> Any:
        """Draw depth against position by matplotlib.

        Args:
            measure: What is shown: probability, entropy, divergence or agreement.

        Returns:
            A ``matplotlib.figure.Figure``.

        Raises:
            ConfigError: There is no such measure, or matplotlib is missing.
        """
        return figures.heat_map(self, measure=measure)

    def agreement_curves(self) -> Any:
        """Draw how often each exit agrees with the last layer, and its mean KL, by matplotlib.

        Returns:
            A ``matplotlib.figure.Figure``.

        Raises:
            ConfigError: Matplotlib is missing.
        """
        return figures.agreement_curves(self)

    def exit_histogram(self) -> Any:
        """Draw at which exit places left, gates would let them, or answers were final.

        Returns:
            A ``matplotlib.figure.Figure``.

        Raises:
            ConfigError: Matplotlib is missing.
        """
        return figures.exit_histogram(self)

    def _repr_html_(self) -> str:
        """Show the page in a notebook."""
        return frame_of(self)

    def __repr__(self) -> str:
        """Name it, in place of its thousands of numbers."""
        return (
            f"<Trace of a {self.kind}: {len(self.positions)} of {self.length} positions, "
            f"{len(self.exits)} exits>"
        )
