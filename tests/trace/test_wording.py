"""Tokens are visible, on one line, and harmless."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from offramp.trace.values import Token
from offramp.trace.wording import fitted, printable, shown


@given(st.text())
def test_nothing_that_steers_is_left(text):
    for made in (shown(Token(id=1, text=text)), printable(text)):
        kinds = {unicodedata.category(letter) for letter in made}
        assert not kinds & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
        assert made.isprintable()


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S"]), min_size=1))
def test_a_printable_text_stays_as_it_is(text):
    assert shown(Token(id=1, text=text)) == text


@pytest.mark.parametrize(
    ("text", "made"),
    [
        (" a b ", "·a b·"),
        ("  ", "··"),
        ("\n\t\r", "⏎⇥␍"),
        ("\x1b[31m", "␛[31m"),
        ("\u202e", "\u2039202E\u203a"),
        ("\u0301", "◌\u0301"),
        ("", "#1"),
        (None, "#1"),
    ],
)
def test_what_is_shown_for_blanks_and_controls(text, made):
    assert shown(Token(id=1, text=text)) == made


@given(st.text(), st.integers(2, 20))
def test_a_fitted_text_has_just_that_width(text, width):
    assert cell_len(fitted(printable(text), width)) == width
