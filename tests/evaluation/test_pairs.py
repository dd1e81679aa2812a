"""Pairs are read whole, or the line that cannot be is named."""

import json

import pytest

from offramp.errors import InputError
from offramp.evaluation.pairs import read_pairs


@pytest.fixture
def pairs(tmp_path):
    """Write lines into a file and read them."""

    def read(*lines, **options):
        path = tmp_path / "pairs.jsonl"
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_bytes("\n".join(texts).encode())
        return read_pairs(path, **options)

    return read


def test_targets_are_references_the_target_first(pairs):
    one, two, three = pairs(
        {"source": "a", "target": "x"},
        {"source": "b", "target": "x", "targets": ["y", "x", "z"], "other": 3},
        {"source": "c", "targets": ["y"]},
    )

    assert (one.source, one.references) == ("a", ("x",))
    assert two.references == ("x", "y", "z")
    assert three.references == ("y",)
    assert three.place.endswith("pairs.jsonl, line 3")


def test_a_limit_stops_before_lines_that_cannot_be_read(pairs):
    found = pairs({"source": "a", "target": "x"}, "nonsense", limit=1)

    assert len(found) == 1


def test_a_last_newline_and_a_byte_order_mark_are_no_lines(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"source": "a", "target": "b"}\r\n')

    assert len(read_pairs(path)) == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[1]", 'there is no "source"'),
        ({"prompt": "a", "target": "b"}, 'there is no "source", got {"prompt"'),
        ({"source": "a"}, 'there is no "target"'),
        ({"source": "a", "targets": []}, 'there is no "target"'),
        ({"source": "a", "targets": "b"}, '"targets" must be a list, got "b"'),
        ({"source": "a", "target": " "}, 'a source or target is " "'),
        ({"source": "", "target": "b"}, 'a source or target is ""'),
        ({"source": 3, "target": "b"}, "a source or target is 3"),
        ({"source": "a", "target": "b", "targets": [None]}, "a source or target is null"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(pairs, line, said):
    with pytest.raises(InputError, match="line 2: ") as refused:
        pairs({"source": "a", "target": "x"}, line, {"source": "a", "target": "x"})

    assert said in str(refused.value)


def test_a_file_that_cannot_be_used_is_named(tmp_path):
    empty, odd = tmp_path / "empty.jsonl", tmp_path / "odd.jsonl"
    empty.write_text("\n\n")
    odd.write_bytes(b'{"source": "\xff", "target": "b"}')

    with pytest.raises(InputError, match=r"empty\.jsonl holds no pair"):
        read_pairs(empty)
    with pytest.raises(InputError, match=r"odd\.jsonl, line 1: not JSON"):
        read_pairs(odd)
    with pytest.raises(InputError, match=r"cannot read .*missing: No such file"):
        read_pairs(tmp_path / "missing")
