"""Text and JSON lines: everything is read, and what cannot be is located."""

import json

import pytest

from offramp.errors import InputError
from offramp.training import formats
from offramp.training.sources import open_source


def rows_of(path):
    return [row for _, row in open_source(str(path), split="train", streaming=False).rows("text")]


def test_a_text_file_is_one_document(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\n\r\ntwo\n\u2028".encode())

    assert rows_of(path) == [{"text": "one\n\ntwo\n\u2028"}]


def test_a_long_text_file_is_read_in_pieces_that_end_with_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "PIECE", 5)
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\nthree\nfour")

    assert [row["text"] for row in rows_of(path)] == ["one\ntwo\n", "three\n", "four"]


@pytest.mark.parametrize("piece", [4, 1 << 20])
def test_a_text_of_another_encoding_is_located(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(formats, "PIECE", piece)
    path = tmp_path / "a.txt"
    path.write_bytes("one\ntwo\ncafé\n".encode("latin-1"))

    with pytest.raises(InputError, match=r"a.txt, line 3: not UTF-8, found b'\\xe9'"):
        rows_of(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n\n{"text": \n', r"line 3: not JSON \(Expecting value"),
        (b'{"text": "a"}\n{"text": "b', r"line 2: not JSON \(Unterminated string"),
        (b'{"text": "a"}\n[1]\n', "line 2: got a list; write an object"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', "line 2: not UTF-8"),
        (b'[{"text": "a"},\n {"text" "b"}]', r"line 2: not JSON \(Expecting ':'"),
        (b'[{"text": "a"}, 3]', "item 2: got a int; write an object"),
        (b'{\n "text": "a"\n}\n', "line 1: not JSON"),
        (b'{"text": ' + b"[" * 100_000, "line 1: not JSON"),
    ],
)
def test_a_bad_row_is_located(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)

    with pytest.raises(InputError, match=f"a.json, {message}"):
        rows_of(path)


def test_lines_and_a_list_give_the_same_rows(tmp_path):
    rows = [{"text": "a\u2028b"}, {"text": "c", "more": {"x": 1}}]
    lines, whole = tmp_path / "a.jsonl", tmp_path / "b.json"
    lines.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    whole.write_text(json.dumps(rows, indent=2), "utf-8")

    assert rows_of(lines) == rows_of(whole) == rows


SELF_TEXT = "".join(
    json.dumps(row, ensure_ascii=False) + "\n"
    for row in [
        {"batch": 0, "prompt": [1], "completion": [5, 2], "text": "é", "greedy": True},
        {"batch": 0, "prompt": [1], "completion": [6, 2], "text": "b", "greedy": True},
        {"end": 0},
        {"end": 1},
        {"batch": 2, "prompt": [1], "completion": [7], "text": "c", "greedy": True},
        {"end": 2},
    ]
).encode()


def test_self_text_may_be_cut_anywhere(tmp_path):
    path = tmp_path / "self.jsonl"
    whole = [[5, 2], [6, 2], [7]]
    for length in range(12, len(SELF_TEXT) + 1):
        path.write_bytes(SELF_TEXT[:length])

        read = [row["completion"] for row in rows_of(path)]

        lines = SELF_TEXT[: length + 1].splitlines(keepends=True)
        expected = sum(b"completion" in line and line.endswith(b"}\n") for line in lines)
        assert read in (whole[:expected], whole[: expected - 1])


def test_self_text_that_grows_gives_the_rows_it_had(tmp_path):
    path = tmp_path / "self.jsonl"
    path.write_bytes(SELF_TEXT[:100])
    found = open_source(str(path), split="train", streaming=True)
    before = list(found.rows("text"))
    path.write_bytes(SELF_TEXT)

    assert list(found.rows("text")) == before
    assert len(rows_of(path)) == 3


def test_a_bad_line_within_self_text_is_located(tmp_path):
    path = tmp_path / "self.jsonl"
    path.write_bytes(SELF_TEXT.replace(b'"batch": 2', b'"batch" 2'))

    with pytest.raises(InputError, match="line 5: not JSON"):
        rows_of(path)
