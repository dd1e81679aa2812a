"""What a user's shell sees: exit codes, one-line errors, quiet pipes, help that needs no torch."""

import json
import logging
import re
import subprocess
import sys
import warnings

import pytest
import typer

from offramp.cli import app, main

WITHOUT_TORCH = """
import sys, types
from importlib.util import find_spec
package = types.ModuleType("offramp")  # offramp/__init__.py would import everything
package.__path__ = find_spec("offramp").submodule_search_locations
sys.modules["offramp"] = package
from offramp.cli import main
try:
    main(sys.argv[1:])
finally:
    heavy = {"torch", "transformers", "huggingface_hub", "jinja2"} & sys.modules.keys()
    assert not heavy, heavy
"""


def flat(text):
    """A help text as one line, without the frames that rich draws."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


def shell(command: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which ``offramp`` is the command of this Python."""
    function = f'offramp() {{ "{sys.executable}" -m offramp.cli "$@"; }}\n'
    return subprocess.run(
        ["bash", "-c", function + command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


COMMANDS = {each.name: each.epilog for each in app.registered_commands}


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_every_command_has_help_with_an_example(offramp, command):
    named = [] if command is None else [command]

    ran = offramp(*named, "--help")

    assert (ran.code, ran.err) == (0, "")
    if command is None:
        assert "Example: offramp generate 'What is a ferry?' --exit 18" in flat(ran.out)
    else:
        assert COMMANDS[command].startswith("Example: ")
        assert f"offramp {command}" in COMMANDS[command]
        assert flat(COMMANDS[command]) in flat(ran.out)
    assert offramp(*named, "-h").out == ran.out


def test_ctrl_c_before_a_command_begins_is_one_line(offramp, monkeypatch):
    def interrupted(command):
        raise KeyboardInterrupt

    monkeypatch.setattr("typer.main.get_command", interrupted)

    ran = offramp("models")

    assert (ran.code, ran.out, ran.err) == (130, "", "interrupted\n")


def test_offramp_alone_is_its_help(offramp):
    assert offramp() == offramp("--help")


def test_every_option_of_generate_has_a_text_and_its_whole_name_at_80_columns(offramp):
    out = offramp("generate", "--help").out

    options = typer.main.get_command(app).commands["generate"].params
    assert len(options) > 25
    assert [option.name for option in options if not option.help] == []
    assert [name for option in options[1:] for name in option.opts if f" {name} " not in out] == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["generate", "--help"], 0),
        (["evaluate", "--help"], 0),
        (["train", "--help"], 0),
        (["train", "--output", "a", "--data", "a", "--epochs", "2", "--max-steps", "2"], 2),
        (["--version"], 0),
        (["generate", "--top-k", "many"], 2),
        (["generate", "a", "--exit", "3", "--dola", "low"], 2),
        (["evaluate", "--data", "a", "--exit", "3", "--dola", "low"], 2),
    ],
)
def test_help_and_mistakes_need_no_torch(arguments, code):
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments], capture_output=True, text=True
    )

    assert ran.returncode == code, ran.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fly"], "No such command 'fly'. (see offramp --help)"),
        (["generate", "--colour", "red"], "(see offramp generate --help)"),
        (["generate", "two", "words"], "unexpected extra argument(s) (words)"),
        (["models", "--json", "--fly"], "(see offramp models --help)"),
    ],
)
def test_a_usage_error_is_one_line(offramp, refused, arguments, said):
    refused(offramp(*arguments), said)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (OSError(28, "No space left on device"), 2, "No space left on device"),
        (BrokenPipeError(32, "Broken pipe"), 1, ""),
    ],
)
def test_what_the_system_does_ends_a_command_in_one_line(offramp, monkeypatch, error, code, said):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr("offramp.cli.run.run", fails)

    ran = offramp("generate", "a")

    assert ran.code == code
    assert said in ran.err
    assert ran.err.count("\n") == (1 if said else 0)


def test_a_bug_of_ours_is_not_hidden(monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr("offramp.cli.run.run", fails)

    with pytest.raises(RuntimeError, match="a bug"):
        main(["generate", "a"])


@pytest.fixture
def heard(monkeypatch):
    """What transformers logs at its own default level."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("transformers")
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "level", logging.WARNING)
    logger.manager._clear_cache()
    yield messages
    logger.manager._clear_cache()


def test_libraries_are_quiet_unless_verbose(offramp, heard, monkeypatch):
    def noisy(*_):
        logging.getLogger("transformers.generation").warning("a flag is ignored")
        warnings.warn("soon to be removed", FutureWarning, stacklevel=1)

    monkeypatch.setattr("offramp.cli.run.answers_of", noisy)
    monkeypatch.setattr("offramp.cli.run._Here", lambda answers: answers)
    monkeypatch.setattr("offramp.cli.run._run", lambda *_: None)

    quiet = offramp("generate", "a")
    assert (quiet.code, quiet.err, heard) == (0, "", [])

    with pytest.warns(FutureWarning, match="soon to be removed"):
        offramp("generate", "a", "--verbose")
    assert heard == ["a flag is ignored"]


def test_a_reader_that_goes_away_ends_the_command_without_a_word(folder, write, own_lines):
    prompts = write("prompts.txt", "a\n" * 500)

    ran = shell(
        f"set -o pipefail; offramp generate --model {folder} --file {prompts} --json"
        " --max-new-tokens 4 | head -n 2"
    )

    assert own_lines(ran.stderr) == ""
    assert ran.returncode == 1
    assert [json.loads(line)["index"] for line in ran.stdout.splitlines()] == [0, 1]


def test_a_full_disk_behind_standard_output_is_one_line(folder, own_lines):
    ran = shell(f"echo a ferry | offramp generate --model {folder} --max-new-tokens 4 > /dev/full")

    assert ran.returncode == 2
    err = own_lines(ran.stderr)
    assert err.startswith("error: ")
    assert "No space left on device" in err
    assert err.count("\n") == 1
