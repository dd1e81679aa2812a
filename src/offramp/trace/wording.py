"""Make tokens visible: blanks, line ends and what must never reach a terminal as it is.

In:  tokens, whose texts anybody may have chosen. Out: one line of printable characters.
Law: no control, format or direction character is left, and no line end; a text of printable
     characters without blanks at its ends stays as it is (tests/trace/test_wording.py).
"""

import unicodedata
from functools import lru_cache

from rich.cells import cell_len, set_cell_size

from offramp.config import ORIGINAL, ExitName
from offramp.trace.values import Token

VISIBLE = {"\n": "\u23ce", "\r": "\u240d", "\t": "\u21e5", " ": "\u00b7", "\u00a0": "\u237d"}
"""Blanks and line ends, by what is shown for them."""

LAST = "last"
"""What the last layer is called in pictures."""


@lru_cache(maxsize=8192)
def shown(token: Token) -> str:
    """Give a token as it can be shown on one line.

    Example:
        >>> shown(Token(id=5, text=" a" + chr(10))), shown(Token(id=5, text=None))
        ('·a⏎', '#5')
    """
    text = token.text
    if not text:
        return f"#{token.id}"
    start, end = len(text) - len(text.lstrip(" ")), len(text.rstrip(" "))
    inner = range(start, end)
    made = "".join(
        letter if letter == " " and place in inner else _letter(letter)
        for place, letter in enumerate(text)
    )
    return f"\u25cc{made}" if unicodedata.category(made[0]).startswith("M") else made


def printable(text: str) -> str:
    """Give a text of several words on one line, its inner blanks as they are.

    Example:
        >>> printable("two lines" + chr(10) + "here")
        'two lines⏎here'
    """
    return "".join(letter if letter == " " else _letter(letter) for letter in text)


def fitted(text: str, width: int) -> str:
    """Give a text in exactly so many cells of a terminal, cut off by an ellipsis or filled up.

    Example:
        >>> fitted("abcdef", 4), fitted("ab", 4)
        ('abc…', 'ab  ')
    """
    if cell_len(text) > width:
        text = f"{set_cell_size(text, width - 1)}\u2026"
    return set_cell_size(text, width)


def exit_label(exit: ExitName) -> str:
    """Name an exit in a picture."""
    return LAST if exit == ORIGINAL else str(exit)


def _letter(letter: str) -> str:
    if letter in VISIBLE:
        return VISIBLE[letter]
    kind = unicodedata.category(letter)
    if kind == "Cc" and ord(letter) < 0x20:
        return chr(0x2400 + ord(letter))
    if kind[0] == "C" or kind in ("Zl", "Zp"):
        return f"\u2039{ord(letter):04X}\u203a"
    return letter
