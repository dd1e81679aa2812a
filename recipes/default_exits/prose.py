"""Make prose out of Debian packages, to train the embedded default's exits on besides chats.

    apt-get download r-cran-janeaustenr python3.11-doc sqlite3-doc dict-jargon dict-devil
    for each in *.deb; do dpkg -x "$each" unpacked; done
    python recipes/default_exits/prose.py unpacked prose

Only texts whose licence lets their traces ship under Apache-2.0: Austen's novels (public domain;
the package MIT), the Jargon File and the Devil's Dictionary (public domain), SQLite's documentation
(public domain), Python's documentation (PSF).
"""

import gzip
import re
import struct
import sys
import zlib
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path

COMMON = frozenset(
    [
        "the",
        "of",
        "and",
        "to",
        "a",
        "in",
        "is",
        "that",
        "it",
        "for",
        "as",
        "be",
        "on",
        "with",
        "not",
    ]
)
BLOCKS = frozenset(["p", "li", "dd", "td", "blockquote"])
HIDDEN = frozenset(["script", "style", "pre", "nav"])


def is_prose(paragraph: str) -> bool:
    """Tell sentences from lists, tables and code."""
    words = paragraph.split()
    letters = sum(each.isalpha() or each == " " for each in paragraph)
    common = sum(word.lower() in COMMON for word in words)
    return len(words) >= 12 and letters >= 0.85 * len(paragraph) and common >= 0.15 * len(words)


class Paragraphs(HTMLParser):
    """Collects the text of the innermost blocks of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._text: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Begin a block, or a part that is not shown."""
        self._hidden += tag in HIDDEN
        if tag in BLOCKS:
            self._end()

    def handle_endtag(self, tag: str) -> None:
        """End one."""
        self._hidden -= tag in HIDDEN
        if tag in BLOCKS:
            self._end()

    def handle_data(self, data: str) -> None:
        """Take in text."""
        if not self._hidden:
            self._text.append(data)

    def _end(self) -> None:
        self.found.append("".join(self._text))
        self._text.clear()


def pages(folder: Path, name: str) -> Iterator[str]:
    """Give the paragraphs of all pages below a folder."""
    for path in sorted(folder.rglob(name)):
        if path.is_file() and not path.is_symlink():
            reader = Paragraphs()
            reader.feed(path.read_text(encoding="utf-8", errors="replace"))
            yield from reader.found


def dictionary(path: Path) -> Iterator[str]:
    """Give the paragraphs of a dictionary in the format of dictd."""
    text = gzip.decompress(path.read_bytes()).decode("utf-8", errors="replace")
    for entry in re.split(r"\n\s*\n", text):
        yield re.sub(r"[{}]", "", entry)


def r_strings(path: Path) -> Iterator[str]:
    """Give the strings of an R data base: compressed parts, before each string its length."""
    data, start = path.read_bytes(), 0
    while start < len(data) - 4:
        part = zlib.decompressobj()
        try:
            plain = part.decompress(data[start + 4 :])
        except zlib.error:
            return
        start = len(data) - len(part.unused_data)
        place = 0
        while (place := plain.find(b"\x09", place)) >= 0:
            (length,) = struct.unpack_from(">i", plain.ljust(place + 5, b"\0"), place + 1)
            flags = plain[place - 3 : place] if place >= 3 else b""
            if flags[:1] == b"\0" and 0 <= length < 400:
                yield plain[place + 5 : place + 5 + length].decode("utf-8", errors="replace")
                place += 5 + length
            else:
                place += 1


def novels(path: Path) -> Iterator[str]:
    """Give the paragraphs of Austen's novels; the strings of a data base are lines of a book."""
    lines: list[str] = []
    for line in r_strings(path):
        if line.strip() and "srcref" not in line:
            lines.append(line)
        elif lines:
            yield " ".join(lines)
            lines = []


def sources(unpacked: Path) -> dict[str, Iterable[str]]:
    """Give the paragraphs of each package."""
    share = unpacked / "usr" / "share"
    return {
        "austen": (p for path in sorted(unpacked.rglob("*.rdb")) for p in novels(path)),
        "python": pages(share / "doc" / "python3.11", "*.html"),
        "sqlite": pages(share / "doc" / "sqlite3", "*.html"),
        "jargon": (p for path in share.rglob("jargon*.dict.dz") for p in dictionary(path)),
        "devil": (p for path in share.rglob("devil*.dict.dz") for p in dictionary(path)),
    }


def main() -> None:
    """Write one file for each package, a paragraph a line, no paragraph twice."""
    unpacked, out = map(Path, sys.argv[1:3])
    out.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    for name, paragraphs in sources(unpacked).items():
        kept = []
        for paragraph in paragraphs:
            clean = re.sub(r"\s+", " ", paragraph).strip()
            if clean not in seen and is_prose(clean):
                seen.add(clean)
                kept.append(clean)
        (out / f"{name}.txt").write_text("\n\n".join(kept) + "\n", encoding="utf-8")
        print(f"{name}: {len(kept)} paragraphs, {sum(map(len, kept)) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
