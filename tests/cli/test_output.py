"""The output file: one whole line for each finished prompt, whatever happened before."""

import contextlib
import json
import os
import resource
from pathlib import Path

import pytest

from offramp.cli.output import ResultFile, check_output, key_of
from offramp.errors import InputError

KEYS = [key_of(f"prompt {index}", {"seed": 1}) for index in range(6)]


def result(index):
    return {"prompt": f"prompt {index}", "text": f"ß {index}\n", "model": "m"}


def fill(path: Path, keys=KEYS, *, batch=2, overwrite=False) -> None:
    """Write all that is missing, as a run does."""
    with ResultFile(path, keys, overwrite=overwrite) as file:
        for first in range(0, len(keys), batch):
            missing = [i for i in range(first, first + batch) if i not in file.finished]
            if missing:
                file.append({index: result(index) for index in missing})


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "out.jsonl"


@contextlib.contextmanager
def largest_file(size: int):
    """The kernel stops every file of this process at a size, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_line_holds_index_key_and_result(path):
    fill(path)

    lines = [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]]

    assert lines == [{"index": i, "key": KEYS[i], **result(i)} for i in range(6)]


def test_a_run_cut_off_after_any_byte_ends_as_if_it_never_was(path):
    fill(path, KEYS[:4])
    whole = path.read_bytes()

    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        fill(path, KEYS[:4])

        assert path.read_bytes() == whole, f"cut after {cut} bytes"


def test_what_is_finished_is_known_and_never_written_again(path):
    fill(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]))

    with ResultFile(path, KEYS, overwrite=False) as file:
        assert file.finished == {0, 1, 2}


def test_a_line_that_somebody_took_out_is_made_again(path):
    fill(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))

    fill(path)

    assert sorted(path.read_bytes().splitlines(keepends=True)) == sorted(lines)


def test_prompts_added_at_the_end_continue_the_file(path):
    fill(path, KEYS[:4])

    fill(path)

    indices = [json.loads(line)["index"] for line in path.read_text("utf-8").splitlines()]
    assert indices == list(range(6))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"my notes", "line 1: cut off, and not of this run"),
        (b"my notes\n", "line 1: not a result of offramp generate"),
        (b'{"text": "a"}\n', "line 1: not a result"),
        (b"[]\n", "line 1: not a result"),
        (b"\n", "line 1: not a result"),
        (b'{"index": 9, "key": "x"}\n', "made for prompt 9, but now there are 6"),
        (b'{"index": "0", "key": "x"}\n', "made for prompt '0'"),
        (b'{"index": 0, "key": "x", "prompt": "old"}\n', "another prompt or other settings"),
        (b'{"index": 0, "key": "x', "line 1: cut off, and not of this run"),
        (b"\xff\xfe\n", "not a result"),
    ],
)
def test_a_file_that_is_not_of_this_run_is_refused_and_left_alone(path, content, said):
    path.write_bytes(content)

    with pytest.raises(InputError) as refusal:
        ResultFile(path, KEYS, overwrite=False)

    assert said in str(refusal.value)
    assert "add --overwrite" in str(refusal.value)
    assert path.read_bytes() == content


def test_a_result_that_is_there_twice_is_refused(path):
    fill(path, KEYS[:1], batch=1)
    path.write_bytes(path.read_bytes() * 2)

    with pytest.raises(InputError, match="line 2: prompt 0 is there twice"):
        ResultFile(path, KEYS, overwrite=False)


def test_overwrite_starts_anew(path):
    path.write_bytes(b"my notes\n" * 100)

    fill(path, overwrite=True)

    assert len(path.read_text("utf-8").splitlines()) == 6


def test_a_full_disk_leaves_whole_lines_and_room_continues_the_run(path, tmp_path):
    fill(tmp_path / "undisturbed.jsonl")
    whole = (tmp_path / "undisturbed.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    room = sum(map(len, lines[:4])) + 10

    with largest_file(room), pytest.raises(InputError, match="it holds 4 results, make room"):
        fill(path)
    left = path.read_bytes()
    fill(path)

    assert left == b"".join(lines[:4])
    assert path.read_bytes() == whole


def test_every_batch_is_on_the_disk_before_the_next_one_starts(path, monkeypatch):
    sizes = []
    sync = os.fsync
    with ResultFile(path, KEYS, overwrite=False) as file:
        monkeypatch.setattr(os, "fsync", lambda f: (sync(f), sizes.append(os.fstat(f).st_size)))
        for index in range(3):
            file.append({index: result(index)})

    ends = [sum(map(len, path.read_bytes().splitlines(keepends=True)[: n + 1])) for n in range(3)]
    assert sizes == ends


def write_a_part_and_stop(write):
    def interrupted(file, data):
        write(file, data[: len(data) // 3])
        raise KeyboardInterrupt

    return interrupted


def test_an_interruption_while_writing_takes_the_batch_back(path, monkeypatch):
    fill(path, KEYS[:2])
    before = path.read_bytes()
    with ResultFile(path, KEYS, overwrite=False) as file:
        monkeypatch.setattr(os, "write", write_a_part_and_stop(os.write))
        with pytest.raises(KeyboardInterrupt):
            file.append({2: result(2), 3: result(3)})

    assert path.read_bytes() == before
    assert file.finished == {0, 1}


@pytest.mark.parametrize("moment", ["write", "fsync"])
def test_an_interruption_after_writing_leaves_the_batch(path, monkeypatch, moment):
    do = getattr(os, moment)

    def interrupted(*arguments):
        do(*arguments)
        raise KeyboardInterrupt

    with ResultFile(path, KEYS, overwrite=False) as file:
        monkeypatch.setattr(os, moment, interrupted)
        with pytest.raises(KeyboardInterrupt):
            file.append({0: result(0), 1: result(1)})

    assert len(path.read_bytes().splitlines()) == 2
    assert file.finished == {0, 1}


def test_a_disk_that_cannot_keep_a_batch_takes_it_back(path, monkeypatch):
    def broken(_):
        raise OSError(5, "Input/output error")

    with ResultFile(path, KEYS, overwrite=False) as file:
        monkeypatch.setattr(os, "fsync", broken)
        with pytest.raises(InputError, match="Input/output error; it holds 0 results"):
            file.append({0: result(0), 1: result(1)})

    assert path.read_bytes() == b""


def test_two_runs_cannot_write_the_same_file(path):
    with (
        ResultFile(path, KEYS, overwrite=False),
        pytest.raises(InputError, match="being written by another offramp"),
    ):
        ResultFile(path, KEYS, overwrite=True)

    fill(path)
    assert len(path.read_text("utf-8").splitlines()) == 6


def test_a_refused_file_can_be_opened_again_at_once(path):
    path.write_bytes(b"my notes\n")
    with pytest.raises(InputError):
        ResultFile(path, KEYS, overwrite=False)

    fill(path, overwrite=True)

    assert len(path.read_text("utf-8").splitlines()) == 6


@pytest.mark.parametrize("name", ["nowhere/out.jsonl", "notes.txt/out.jsonl"])
def test_a_missing_folder_is_refused(write, tmp_path, name):
    write("notes.txt", "notes")

    with pytest.raises(InputError, match="there is no folder"):
        check_output(tmp_path / name, inputs=[])


@pytest.mark.parametrize("name", [".", "/dev/null", "/dev/full"])
def test_what_is_no_regular_file_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="not a regular file"):
        check_output(tmp_path / name, inputs=[])
    with pytest.raises(InputError, match=r"not a regular file|Is a directory"):
        ResultFile(tmp_path / name, KEYS, overwrite=True)


def test_the_file_of_prompts_is_refused(write):
    prompts = write("prompts.jsonl", "{}")

    with pytest.raises(InputError, match="is the file of prompts"):
        check_output(prompts.parent / "." / prompts.name, inputs=[prompts])


def test_a_name_that_the_file_system_refuses_is_one_line(tmp_path):
    path = tmp_path / ("x" * 300)

    with pytest.raises(InputError, match=r"cannot write .*: File name too long"):
        ResultFile(path, KEYS, overwrite=False)


@pytest.mark.parametrize(
    ("prompt", "settings"),
    [("other", {"seed": 1}), ("prompt 0", {"seed": 2}), ("prompt 0", {"seed": 1, "more": None})],
)
def test_the_key_hangs_on_the_prompt_and_on_every_setting(prompt, settings):
    assert key_of(prompt, settings) != KEYS[0]
