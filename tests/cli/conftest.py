"""A tiny model in hub format with a byte tokenizer, and the command as a function."""

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import tiny
from offramp.cli import main
from small_seq2seq import elmer_of

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role not in ('system', 'user', 'assistant') %}"
    "{{ raise_exception('unknown role ' + message.role) }}{% endif %}"
    "{{ message.role }}: {{ message.content }}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
SPECIAL = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
VOCABULARY, CONTEXT = 3 + 2 * 256, 128
PROMPTS = ("a ferry", "the longest of the prompts that are in here", "b", "round and round", "x")


def byte_tokenizer(*, adds_bos, **options):
    """One token a byte, after the special ones; and each byte with a space, to be written only."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*SPECIAL.values(), *alphabet, *(f"{byte}Ġ" for byte in alphabet)]
    bare = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, []))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bare.decoder = decoders.ByteLevel()
    if adds_bos:
        bare.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", names.index("<bos>"))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=bare, **SPECIAL, **options)


@pytest.fixture(scope="session")
def make_folder(tmp_path_factory):
    """Write a tiny model and its tokenizer into a new folder."""

    def make(family="llama", *, template=TEMPLATE, adds_bos=False, **extra) -> str:
        folder = tmp_path_factory.mktemp(family)
        sizes = {"vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT}
        if family == "t5":
            del sizes["max_position_embeddings"]
        tiny.model_of(family, **{**sizes, **extra}).save_pretrained(folder)
        tokenizer = byte_tokenizer(adds_bos=adds_bos, chat_template=template)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture(scope="session")
def make_elmer(tmp_path_factory):
    """Write a tiny ELMER model and its tokenizer into a new folder."""

    def make(**options) -> str:
        folder = tmp_path_factory.mktemp("elmer")
        sizes = {"vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT}
        elmer_of(**sizes, **options).save_pretrained(folder)
        byte_tokenizer(adds_bos=False).save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture(scope="session")
def folder(make_folder) -> str:
    """A 4-block Llama in hub format."""
    return make_folder()


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def results(self):
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def texts(self):
        return [result["text"] for result in self.results]


@pytest.fixture
def offramp(capsys, monkeypatch):
    """Run a command in this process; standard input is a pipe that holds ``stdin``."""

    def run(*arguments: object, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return Ran(ended.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def generate(offramp, folder):
    """Run ``offramp generate`` on the tiny Llama, for a few tokens."""

    def run(*arguments: object, model: str = folder, tokens: int = 8, **options) -> Ran:
        fixed = ("--model", model, "--max-new-tokens", tokens)
        return offramp("generate", *fixed, *arguments, **options)

    return run


@pytest.fixture
def terminal():
    """A terminal as (what was shown on it so far, a text file to write on)."""
    shown, slave = os.openpty()
    os.set_blocking(shown, False)

    def read() -> str:
        parts = []
        with contextlib.suppress(BlockingIOError):  # all has been read
            while part := os.read(shown, 1 << 16):  # at most 4 KB at a time, whatever is asked for
                parts.append(part)
        return b"".join(parts).decode()

    with open(slave, "w", encoding="utf-8") as file:
        yield read, file
    os.close(shown)


@pytest.fixture
def write(tmp_path):
    """Write a file below the test's folder and give its path."""

    def make(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make


@pytest.fixture(scope="session")
def own_lines():
    """Cut off what libraries print when they are imported, before our first line runs."""
    bare = subprocess.run([sys.executable, "-c", "import offramp"], capture_output=True, text=True)
    noise = bare.stderr.count("\n")

    def cut(err: str) -> str:
        return "".join(err.splitlines(keepends=True)[noise:])

    return cut


def assert_refused(ran: Ran, *words: str) -> None:
    """One line on stderr, nothing on stdout, exit code 2, and the words in the line."""
    assert ran.code == 2, ran
    assert ran.out == ""
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    missing = [word for word in words if word not in ran.err]
    assert not missing, f"{missing} not in {ran.err!r}"


@pytest.fixture
def refused():
    """The check of a refusal, as a function."""
    return assert_refused


@pytest.fixture
def prompts() -> tuple[str, ...]:
    """Five prompts of different lengths."""
    return PROMPTS


@pytest.fixture
def file(write) -> Path:
    """The same, one a line."""
    return write("prompts.txt", "\n".join(PROMPTS))
