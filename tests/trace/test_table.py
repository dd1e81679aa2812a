"""The table fits the terminal, says what agrees and who leaves, and obeys no token."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from offramp.errors import ConfigError
from trace_made import position, trace_of


def printed(trace, *, width=80, colour=False, **options):
    console = Console(width=width, color_system="truecolor" if colour else None)
    with console.capture() as capture:
        console.print(trace.table(**options))
    return capture.get()


@given(
    words=st.lists(st.text(min_size=1, max_size=20), min_size=3, max_size=3),
    width=st.integers(24, 120),
)
def test_no_line_is_wider_than_the_terminal_and_no_token_steers_it(words, width):
    trace = trace_of(*(position(n, words, rule=words[:2]) for n in range(5)), decoding=words[0])

    text = printed(trace, width=width)

    assert all(cell_len(line) <= width for line in text.splitlines())
    assert all(letter.isprintable() or letter == "\n" for letter in text)


def test_positions_that_do_not_fit_come_in_the_next_block():
    trace = trace_of(*(position(n) for n in range(9)))

    text = printed(trace, width=45)

    assert [line.split()[1:] for line in text.splitlines() if line.startswith("place")] == [
        ["0", "1", "2"],
        ["3", "4", "5"],
        ["6", "7", "8"],
    ]


def test_marks_tell_who_agrees_who_leaves_and_what_changed():
    odd = position(0, ("x", "c", "c"), agrees=False, leaves=False, rule=("c", "d"))
    left = position(1, ("c", "c", "c"), leaves=True, rule=("c", "c"))

    text = printed(trace_of(odd, left, decoding="contrast"))
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}

    assert "=" not in lines["1"].replace("▸", "")
    assert lines["1"].count("▸") == 1
    assert lines["last"].count("=") == 2
    assert "50%" in lines["1"]
    assert lines["rule"].count("!") == 1
    assert "contrast" in text


def test_brighter_is_surer_and_only_where_there_is_colour():
    trace = trace_of(position(0, probability=1.0), position(1, probability=0.0))

    assert "253;231;60" in printed(trace, colour=True)
    assert "\x1b" not in printed(trace)


def test_another_measure_is_refused():
    with pytest.raises(ConfigError, match="no measure 'colour'; use one of probability"):
        trace_of().table(measure="colour")


def test_a_trace_of_nothing_is_an_empty_table():
    assert "probability" in printed(trace_of())
