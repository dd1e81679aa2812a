"""Prompts are read whole or refused with the place of the mistake."""

import io

import pytest

from offramp.cli.prompts import read_prompts
from offramp.errors import ConfigError, InputError


def read(*, argument=None, file=None, jsonl=None, stdin=None):
    stream = None if stdin is None else io.BytesIO(stdin).read
    return read_prompts(argument=argument, file=file, jsonl=jsonl, stdin=stream)


def contents(**source):
    return [prompt.content for prompt in read(**source)]


def test_an_argument_is_one_prompt_and_wins_over_standard_input():
    assert contents(argument="two\nlines", stdin=b"ignored") == ["two\nlines"]


def test_all_of_standard_input_is_one_prompt_without_its_last_newline():
    assert contents(stdin="a ferry\n\nß\n".encode()) == ["a ferry\n\nß"]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_each_line_of_a_file_is_a_prompt(write, end):
    file = write("prompts.txt", b"\xef\xbb\xbfone \r\ntwo\xe2\x80\xa8still two" + end)

    assert contents(file=file) == ["one ", "two\u2028still two"]


def test_json_lines_hold_prompts_or_conversations(write):
    talk = '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}'
    jsonl = write("prompts.jsonl", f'{{"prompt": "a\\nb", "id": 7}}\n{talk}\n')

    assert contents(jsonl=jsonl) == [
        "a\nb",
        ({"role": "system", "content": "s"}, {"role": "user", "content": "u"}),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ("7", "got '7'"),
        ('["prompt"]', "write {"),
        ('{"text": "a"}', '{"text": "a"}'),
        ('{"prompt": "a", "messages": []}', "write {"),
        ('{"prompt": 7}', "\"prompt\" must be a text, got '7'"),
        ('{"prompt": " "}', "is empty"),
        ('{"prompt": "\\ud800"}', "half a character"),
        ('{"messages": []}', '"messages" must be a list'),
        ('{"messages": "hello"}', '"messages" must be a list'),
        ('{"messages": [{"role": "user"}]}', '"messages" must be a list'),
        ('{"messages": [{"role": "user", "content": 7}]}', '"messages" must be a list'),
        ('{"messages": [{"role": "user", "content": ""}]}', "content of message 1 is empty"),
        ('{"prompt": "' + "x" * 99 + '"', "x..."),
    ],
)
def test_a_bad_json_line_is_named_with_its_number_and_value(write, line, said):
    jsonl = write("prompts.jsonl", '{"prompt": "good"}\n' + line + '\n{"prompt": "good"}')

    with pytest.raises(InputError) as refusal:
        read(jsonl=jsonl)

    assert "prompts.jsonl, line 2" in str(refusal.value)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no prompt"),
        (b"\n", "holds no prompt"),
        (b"one\n\nthree\n", "line 2 is empty, got ''"),
        (b"one\n  \n", "line 2 is empty, got '  '"),
        (b"one\n\n", "line 2 is empty"),
        (b"one\nf\xe4hre\n", r"line 2: not UTF-8, byte 1 is b'\xe4'"),
    ],
)
def test_a_bad_file_is_named_with_the_line(write, content, said):
    with pytest.raises(InputError) as refusal:
        read(file=write("prompts.txt", content))

    assert "prompts.txt" in str(refusal.value)
    assert said in str(refusal.value)


@pytest.mark.parametrize("source", [{"argument": ""}, {"argument": " \n"}, {"stdin": b"\n"}])
def test_an_empty_prompt_is_refused(source):
    with pytest.raises(InputError, match="is empty"):
        read(**source)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*nowhere.txt: No such file"):
        read(file=tmp_path / "nowhere.txt")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="Is a directory"):
        read(jsonl=tmp_path)


def test_standard_input_that_is_not_utf8_is_refused():
    with pytest.raises(InputError, match="standard input: not UTF-8"):
        read(stdin=b"\xff")


def test_an_argument_that_is_not_utf8_is_refused():
    with pytest.raises(InputError, match="half a character"):
        read(argument=b"f\xe4hre".decode(errors="surrogateescape"))


def test_no_source_is_refused_with_the_five_ways():
    with pytest.raises(InputError, match="as argument, by --file, by --jsonl, by --parquet or"):
        read()


def test_two_sources_are_refused(write):
    with pytest.raises(ConfigError, match="a prompt as argument and --file exclude each other"):
        read(argument="a", file=write("prompts.txt", "b"))
