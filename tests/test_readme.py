"""Run what README.md shows, as its reader would: every program and every command.

The Python blocks continue each other, so they are one program; each bash block is a shell of its
own. A block that cannot run here gives its reason after the language: ```bash no-test: needs a GPU.
Code keeps the line numbers of the README, so that an error names the line to repair.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"^```(?P<info>[^`\n]*)\n(?P<code>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
RUN = {"python", "bash"}
SHOWN = {"text", "json", "toml", "yaml", "bibtex", "make"}
BASH_PRELUDE = (
    "set -eEuo pipefail; "
    """trap 'echo "README.md, line $LINENO, failed: $BASH_COMMAND" >&2' ERR"""
)
TIMEOUT_SECONDS = 900  # the first command may have to fetch and convert the default model


@dataclass(frozen=True, kw_only=True)
class Block:
    language: str
    remark: str
    code: str
    line: int
    """Number of the opening fence in the README, from 1."""


def read_blocks(text: str) -> list[Block]:
    blocks = []
    for match in BLOCK.finditer(text):
        language, _, remark = match["info"].strip().partition(" ")
        line = text.count("\n", 0, match.start()) + 1
        blocks.append(Block(language=language, remark=remark, code=match["code"], line=line))
    return blocks


def to_run(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language and not block.remark]


def at_its_line(block: Block, program: str = "") -> str:
    return program + "\n" * (block.line - program.count("\n")) + block.code


def run(command: list[str], folder: Path) -> None:
    venv_bin = str(Path(sys.executable).parent)
    result = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": os.pathsep.join([venv_bin, os.environ["PATH"]])},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert result.returncode == 0, result.stdout


BLOCKS = read_blocks(README.read_text(encoding="utf-8"))


def test_every_block_is_run_or_says_why_not():
    fences = re.findall(r"^\s*(?:```|~~~)", README.read_text(encoding="utf-8"), re.MULTILINE)
    unknown = [f"line {b.line}: {b.language!r}" for b in BLOCKS if b.language not in RUN | SHOWN]
    unreasoned = [
        f"line {b.line}: {b.remark!r}"
        for b in BLOCKS
        if b.remark and not re.fullmatch(r"no-test: \S.*", b.remark)
    ]

    assert len(fences) == 2 * len(BLOCKS), "a fence is indented, unclosed or made of tildes"
    assert not unknown, f"write one of {sorted(RUN | SHOWN)}: {unknown}"
    assert not unreasoned, f"write 'no-test: reason' or nothing after the language: {unreasoned}"


def test_the_readme_shows_programs_and_commands():
    assert to_run("python")
    assert to_run("bash")


@pytest.mark.real
def test_the_python_blocks_run_one_after_the_other(tmp_path):
    program = ""
    for block in to_run("python"):
        program = at_its_line(block, program)
    script = tmp_path / "README.py"
    script.write_text(program, encoding="utf-8")
    (tmp_path / "work").mkdir()

    run([sys.executable, str(script)], tmp_path / "work")


@pytest.mark.real
@pytest.mark.parametrize("block", [pytest.param(b, id=f"line{b.line}") for b in to_run("bash")])
def test_every_line_of_a_bash_block_succeeds(block, tmp_path):
    script = tmp_path / "README.sh"
    script.write_text(at_its_line(block, BASH_PRELUDE), encoding="utf-8")
    (tmp_path / "work").mkdir()

    run(["bash", str(script)], tmp_path / "work")
