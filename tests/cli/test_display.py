"""Texts, streams and bars reach the stream that they belong to."""

import io
import json
import sys

import pytest


def test_text_is_printed_as_it_is_with_an_empty_line_between_texts(generate, file):
    texts = generate("--file", file, "--json").texts

    ran = generate("--file", file)

    assert ran.out == "\n\n".join(texts) + "\n"
    assert ran.err == ""


class Recorder:
    """Standard output that remembers what came in one piece."""

    def __init__(self):
        self.pieces = []

    def write(self, text):
        self.pieces.append(text)

    def flush(self):
        pass

    def isatty(self):
        return False


@pytest.mark.parametrize("options", ["", "--contrast original:2", "--do-sample --seed 3"])
def test_streaming_prints_the_same_text_piece_by_piece(generate, monkeypatch, options):
    run = ("a ferry", "--no-chat", *options.split())
    whole = generate(*run, tokens=60).out
    recorder = Recorder()
    monkeypatch.setattr(sys, "stdout", recorder)

    generate(*run, "--stream", tokens=60)

    assert "".join(recorder.pieces) == whole
    assert len([piece for piece in recorder.pieces if piece]) > 2


def test_a_bar_is_shown_on_a_terminal_while_results_stay_on_stdout(
    generate, file, terminal, monkeypatch
):
    expected = generate("--file", file).out
    read, screen = terminal
    monkeypatch.setattr(sys, "stderr", screen)

    ran = generate("--file", file)

    assert ran.out == expected
    assert "5/5" in read()


def test_no_bar_is_shown_for_one_prompt(generate, terminal, monkeypatch):
    read, screen = terminal
    monkeypatch.setattr(sys, "stderr", screen)

    generate("a ferry")
    screen.write("nothing else")
    screen.flush()

    assert read() == "nothing else"


@pytest.mark.parametrize("options", ["--json", ""])
def test_a_terminal_that_lacks_letters_does_not_end_a_run(generate, monkeypatch, options):
    whole = generate("a ferry", "--json", tokens=30).texts[0]
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))

    ran = generate("a ferry", *options.split(), tokens=30)

    shown = raw.getvalue().decode("ascii")
    assert not whole.isascii()
    assert ran.code == 0
    if options:
        assert json.loads(shown)["text"] == whole
    else:
        assert shown == "".join(c if c.isascii() else "?" for c in whole) + "\n"
