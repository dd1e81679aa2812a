"""Read exits from files: our own side file, and the published multi-exit format.

In:  a folder or hub repository. Out: the exits it holds, checked.
Law: a file that is cut off, foreign or holds code ends in one line that says so, and nothing in it
     is ever executed (tests/models/test_checkpoint.py).
Not here: the tensors of a file (offramp.models.weight_files), writing exits
     (offramp.models.storage), loading the base (offramp.models.auto).

Own format, beside a base or apart from it like an adapter:
    exits.json         format, version, the base's name and fingerprint, exit numbers, projections
    exits.safetensors  the exits' tensors, ``exit.parameter``
Published format (IBM/auto-contrastive-generation), one checkpoint with the base:
    ``name_to_lm_exit_head.lm_head_k.weight``, ``name_to_conv_matrix.k_to_L.weight``, and
    ``lm_head_layer_indices`` in config.json. It does not say which projection it is for.
"""

import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers.utils import cached_file

from offramp.blocks.gates import Gate
from offramp.config import ORIGINAL, parse_exit
from offramp.config import VocabularyProjectionMode as Mode
from offramp.errors import CheckpointError, ConfigError, first_line
from offramp.models.files import json_of
from offramp.models.weight_files import check_finite, read_tensors, tensors_in

TABLE, TENSORS = "exits.json", "exits.safetensors"
FORMAT, VERSION = "offramp-exits", 1
PUBLISHED_KEY = re.compile(
    r"name_to_(?:lm_exit_head\.lm_head_(?P<head>\d+)|conv_matrix\.(?P<cast>\d+)_to_\d+)\.weight"
)
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
HUB_OPTIONS = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
)
"""Arguments of ``from_pretrained`` that say which files of the hub are meant."""


@dataclass(frozen=True)
class StoredExits:
    """The exits that a checkpoint holds.

    Attributes:
        projections: How each exit reads its state, by exit number.
        tensors: Their weights, named ``exit.parameter``, such as ``12.linear.weight``.
        source: Where they are, for messages.
        fingerprint: Of the base they were made for, if the format keeps one.
    """

    projections: Mapping[int, Mode]
    tensors: Mapping[str, Tensor]
    source: str
    fingerprint: Mapping[str, Any] | None = None

    def fill_(self, exits: nn.ModuleDict) -> None:
        """Put the weights into those attached exits that are held here.

        Raises:
            CheckpointError: One is missing, too many, or of another shape than the base asks for.
        """
        if strangers := sorted(
            {name.split(".")[0] for name in self.tensors} - {*map(str, self.projections)}
        ):
            raise CheckpointError(f"{self.source} holds weights of unlisted exits: {strangers[:3]}")
        for exit in self.projections:
            if str(exit) not in exits:
                continue
            prefix = f"{exit}."
            own = {
                name.removeprefix(prefix): tensor
                for name, tensor in self.tensors.items()
                if name.startswith(prefix)
            }
            gate = own.get("gate.linear.weight")
            if gate is not None and gate.dim() == 2:
                exits[str(exit)].gate = Gate(gate.shape[1], gate)
            try:
                exits[str(exit)].load_state_dict(own, strict=True)
            except RuntimeError as error:
                problem = " ".join(str(error).split()[:60])
                raise CheckpointError(
                    f"exit {exit} of {self.source} does not fit this base ({problem}); load the "
                    "base that the exits were made for"
                ) from None


def base_of(table: Path) -> tuple[str, str | None]:
    """Read which base a folder of exits was made for: its name and revision.

    Raises:
        CheckpointError: The file is no table of exits, or names no base.
    """
    base = _read_table(table)["base"]
    if not base.get("name"):
        raise CheckpointError(
            f"{table} does not name its base; load the base and pass this folder as exits="
        )
    return str(base["name"]), base.get("revision")


def read_own(table: Path) -> StoredExits:
    """Read the exits that ``save_exits`` wrote.

    Raises:
        CheckpointError: A file is damaged, foreign or of a version that this library does not know.
    """
    content = _read_table(table)
    tensors = read_tensors(table.parent / TENSORS)
    _check_filled(table.parent / TENSORS, content["exits"], tensors)
    return StoredExits(
        projections=content["exits"],
        tensors=tensors,
        source=str(table.parent),
        fingerprint=content["base"].get("fingerprint", {}),
    )


def _read_table(path: Path) -> dict[str, Any]:
    try:
        table = json_of(path.read_text(encoding="utf-8"))
        exits = {int(parse_exit(each["exit"])): each["projection"] for each in table["exits"]}
        exits = {exit: Mode.parse(kind) for exit, kind in exits.items()}
        kind, version, base = table["format"], table["version"], dict(table["base"])
        if len(exits) < len(table["exits"]) or not _is_base(base):
            raise ValueError("an exit is there twice, or the base is no base")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is not a table of exits ({first_line(error)}); save the exits again by "
            "save_pretrained"
        ) from None
    if (kind, version) != (FORMAT, VERSION):
        raise CheckpointError(
            f"{path} is {kind!r} version {version}; this offramp reads {FORMAT!r} version "
            f"{VERSION}; update offramp"
        )
    return {"base": base, "exits": exits}


def _is_base(base: Mapping[str, Any]) -> bool:
    """Tell whether the facts about a base are of the right kinds."""
    fingerprint = base.get("fingerprint", {})
    samples = fingerprint.get("samples", {}) if isinstance(fingerprint, dict) else None
    return (
        all(isinstance(base.get(name), str | None) for name in ("name", "revision"))
        and isinstance(samples, dict)
        and all(isinstance(each, list) for each in samples.values())
        and all(isinstance(value, float) for each in samples.values() for value in each)
    )


def _check_filled(
    source: Path | str, exits: Mapping[int, Mode], tensors: Mapping[str, Tensor]
) -> None:
    """Refuse heads without weights before room for them is made."""
    held = {name.split(".")[0] for name in tensors}
    empty = [
        exit
        for exit, mode in exits.items()
        if mode is Mode.LAYER_SPECIFIC_PROJECTION and str(exit) not in held
    ]
    if empty:
        raise CheckpointError(
            f"{source} lacks the weights of exit {empty[0]}; it is cut off, or belongs to others"
        )


def read_published(
    source: str, hub: Mapping[str, Any], *, listed: object, asked: Mode
) -> StoredExits:
    """Read the exits of a checkpoint in the published format, wherever its shards put them.

    The format does not name its projection, so the keys decide; a checkpoint without any is taken
    for ``direct`` only if that is what was asked for.

    Args:
        source: Folder or hub repository.
        hub: Options of the hub client, such as ``revision`` and ``token``.
        listed: ``lm_head_layer_indices`` of its configuration.
        asked: ``vocab_projection_mode`` of the caller; its default defers to the checkpoint.

    Raises:
        CheckpointError: A file is damaged or cut off, or holds pickled code, which is never run.
        ConfigError: The projection asked for is not the one held.
    """
    tensors: dict[str, Tensor] = {}
    modes: set[Mode] = set()
    for path in _weight_files(source, hub):
        for name, tensor in tensors_in(path, wanted=_is_exit):
            match = PUBLISHED_KEY.fullmatch(name)
            if match is None:
                raise CheckpointError(f"{path}: cannot read the exit of key {name!r}")
            head = match["head"]
            modes.add(
                Mode.SHARED_PROJECTION_CAST_OUTPUTS
                if head is None
                else Mode.LAYER_SPECIFIC_PROJECTION
            )
            tensors[f"{head or match['cast']}.linear.weight"] = tensor
    if len(modes) > 1:
        raise CheckpointError(f"{source} holds both heads and cast matrices; keep one kind")
    exits = _listed(listed, source)
    projections = dict.fromkeys(exits, _settled_mode(modes, asked, exits))
    check_finite(source, tensors)
    _check_filled(source, projections, tensors)
    return StoredExits(projections=projections, tensors=tensors, source=source)


def _listed(listed: object, source: str) -> list[int]:
    """Read ``lm_head_layer_indices``, in which the published library may list the original head."""
    try:
        if not isinstance(listed, list | tuple):
            raise ConfigError(f"got {reprlib.repr(listed)}")
        return [int(exit) for exit in map(parse_exit, listed) if exit != ORIGINAL]
    except ConfigError as error:
        raise CheckpointError(
            f"{source}: lm_head_layer_indices of config.json lists no exits ({error}); mend it, or "
            "fetch it again"
        ) from None


def _settled_mode(held: set[Mode], asked: Mode, exits: list[int]) -> Mode:
    unsaid = asked is Mode.LAYER_SPECIFIC_PROJECTION
    if not held and asked is not Mode.SHARED_PROJECTION_DIRECT:
        raise ConfigError(
            f"the checkpoint lists exits {exits} but holds no weights for them; if they need none "
            "set vocab_projection_mode='direct'"
        )
    mode = next(iter(held), asked)
    if asked is not mode and not unsaid:
        raise ConfigError(
            f"vocab_projection_mode={asked.name} contradicts the checkpoint, which holds "
            f"{mode.short} exits; use {mode.name}"
        )
    return mode


def find_file(source: str, name: str, hub: Mapping[str, Any]) -> Path | None:
    """Find a file of a folder or hub repository, or give None if it has no such file."""
    if Path(source).is_dir():
        path = Path(source, hub.get("subfolder") or "", name)
        return path if path.is_file() else None
    try:
        found = cached_file(source, name, _raise_exceptions_for_missing_entries=False, **hub)
    except OSError as error:
        raise CheckpointError(
            f"cannot reach {source!r}: {first_line(error)}; check the name and the network, or "
            "name a folder"
        ) from None
    return Path(found) if found else None


def _weight_files(source: str, hub: Mapping[str, Any]) -> list[Path]:
    """List the weight files of a checkpoint; of a sharded one, the shards that hold exits."""
    for name in WEIGHT_FILES:
        path = find_file(source, name, hub)
        if path is None:
            continue
        if path.suffix != ".json":
            return [path]
        try:
            shards = json_of(path.read_text(encoding="utf-8"))["weight_map"]
            names = sorted({str(file) for key, file in shards.items() if _is_exit(key)})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise CheckpointError(f"{path} is not an index of shards; fetch it again") from None
        if any(Path(each).name != each for each in names):
            raise CheckpointError(f"{path} names a shard outside its folder; do not trust it")
        return [each for each in (find_file(source, name, hub) for name in names) if each]
    return []


def _is_exit(key: str) -> bool:
    """Tell an exit's key; ``lm_head_original`` is only another name for the base's own head."""
    return key.startswith("name_to_") and ".lm_head_original." not in key
