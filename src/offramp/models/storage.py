"""Write exits to files: beside their base, apart from it, or in the published format.

In:  a model with exits. Out: a folder that ``AutoMultiExitModel`` loads again.
Law: save then load gives the same bits; a file appears whole or not at all; the plain base in the
     folder loads without offramp (tests/models/test_checkpoint.py).
Not here: reading them (offramp.models.checkpoint, offramp.models.auto).
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from offramp.config import VocabularyProjectionMode as Mode
from offramp.errors import CheckpointError, ConfigError, first_line
from offramp.models.calibration import FILE as CALIBRATION
from offramp.models.calibration import hash_exits, save_calibration
from offramp.models.checkpoint import FORMAT, TABLE, TENSORS, VERSION
from offramp.models.drafting import FILE as DRAFTER
from offramp.models.drafting import save_drafter
from offramp.models.files import moved_whole
from offramp.models.fingerprint import ADDED, fingerprint_of, of_base
from offramp.whole import write_text_whole, write_whole

PUBLISHED_HEAD = "name_to_lm_exit_head.lm_head_{exit}.weight"
PUBLISHED_CAST = "name_to_conv_matrix.{exit}_to_{depth}.weight"
PUBLISHED_CLASSES = {
    "gpt2": "MultiExitGPT2",
    "gpt_neo": "MultiExitGPTNeo",
    "t5": "MultiExitT5",
    "llama": "MultiExitLlama",
}
"""What the published library can read, and the names that it gives."""


def save_beside(model: Any, folder: str | Path, **options: Any) -> None:
    """Save the base as a plain checkpoint and the exits beside it.

    Args:
        model: A model with exits.
        folder: Made if missing.
        **options: As ``save_pretrained`` of transformers.

    Raises:
        CheckpointError: The folder cannot be written.
        ConfigError: ``push_to_hub=True``, which would upload before the exits are there.
    """
    if options.pop("push_to_hub", False):
        raise ConfigError(
            "save_pretrained(push_to_hub=True) would upload the base without its exits; call "
            "model.push_to_hub(name)"
        )
    state = options.pop("state_dict", None)
    if state is not None:
        options["state_dict"] = {k: v for k, v in state.items() if of_base(k)}
    with plain_base(model):
        _save_plain(model, folder, options)
    if options.get("is_main_process", True):
        save_exits(model, folder, state_dict=state)


def _save_plain(model: Any, folder: str | Path, options: dict[str, Any]) -> None:
    if not options.get("is_main_process", True):
        model.save_pretrained(folder, **options)  # it takes part, and writes nothing
        return
    try:
        with moved_whole(folder) as stage:
            model.save_pretrained(stage, **options)
    except OSError as error:
        raise CheckpointError(
            f"cannot write the model to {folder}: {first_line(error)}; free some space or name "
            "another folder"
        ) from None


def save_exits(
    model: Any, folder: str | Path, *, state_dict: Mapping[str, Tensor] | None = None
) -> None:
    """Save the exits alone, as ``exits.json`` and ``exits.safetensors``, like an adapter.

    A trained drafter is saved beside them, as ``drafter.safetensors``, and what calibration found
    for them; that of other exits is removed.

    Args:
        model: A model with exits.
        folder: Made if missing; each file appears whole or not at all.
        state_dict: The model's weights, where the model itself holds only a part of them.

    Raises:
        CheckpointError: The folder cannot be written.

    Example:
        >>> save_exits(model, "my-exits")  # doctest: +SKIP
        >>> AutoMultiExitModel.from_pretrained("my-base", exits="my-exits")  # doctest: +SKIP
    """
    folder = Path(folder)
    exits = model.exits.state_dict()
    if state_dict is not None:
        exits = {name: state_dict[f"exits.{name}"] for name in exits}
    tensors = {name: each.detach().contiguous() for name, each in exits.items()}
    table = {
        "format": FORMAT,
        "version": VERSION,
        "base": {
            "name": str(model.name_or_path or ""),
            "revision": getattr(model.config, "_commit_hash", None),
            "fingerprint": fingerprint_of(model),
        },
        "exits": [
            {"exit": exit, "projection": model.exits[str(exit)].mode.short}
            for exit in model.exit_numbers
        ],
    }
    text = json.dumps(table, indent=1) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CALIBRATION).unlink(missing_ok=True)
        write_whole(
            folder / TENSORS, lambda path: save_file(tensors, path, metadata={"format": "pt"})
        )
        write_text_whole(folder / TABLE, text)
        if model.drafter is None:
            (folder / DRAFTER).unlink(missing_ok=True)
        else:
            write_whole(folder / DRAFTER, lambda path: save_drafter(model, path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot write exits to {folder}: {first_line(error)}; free some space or name another "
            "folder"
        ) from None
    projections = {exit: model.exits[str(exit)].mode for exit in model.exit_numbers}
    found = model.calibration
    if found is not None and found.exits_hash == hash_exits(projections, tensors):
        save_calibration(found, folder)


def save_published(model: Any, folder: str | Path) -> None:
    """Write base and exits in the published format, for IBM/auto-contrastive-generation to read.

    Args:
        model: A model with exits, all of one of the projections ``head``, ``cast``, ``direct``.
        folder: Made if missing.

    Raises:
        ConfigError: The format cannot hold these exits, or its library has no such family.
    """
    exits = _published_exits(model)
    folder = Path(folder)
    with plain_base(model):
        model.save_pretrained(folder, state_dict={**model.state_dict(), **exits})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["architectures"] = [PUBLISHED_CLASSES[model.config.model_type]]
    config["lm_head_layer_indices"] = list(model.exit_numbers)
    config.update(_words_of_transformers_4(config))
    text = json.dumps(config, indent=2) + "\n"
    write_text_whole(folder / "config.json", text)


@contextlib.contextmanager
def plain_base(model: Any) -> Iterator[None]:
    """Make a model with exits the plain model of transformers that it was, for a while."""
    multi_exit = type(model)
    added = {name: model._modules.pop(name) for name in ADDED if name in model._modules}
    model.__class__ = multi_exit.base_class
    try:
        yield
    finally:
        model.__class__ = multi_exit
        model._modules.update(added)


def _published_exits(model: Any) -> dict[str, Any]:
    family = model.config.model_type
    if family not in PUBLISHED_CLASSES:
        raise ConfigError(
            f"the published library reads {', '.join(PUBLISHED_CLASSES)}, not {family}; use "
            "save_pretrained"
        )
    modes = {each.mode for each in model.exits.values()} - {Mode.SHARED_PROJECTION_DIRECT}
    if len(modes) > 1 or modes & {Mode.TUNED_LENS, Mode.EXTRA_BLOCK}:
        raise ConfigError(
            "the published format holds exits of one kind, head, cast or direct; these are "
            f"{', '.join(sorted(mode.short for mode in modes))}; use save_pretrained"
        )
    named = {}
    for exit, each in model.exits.items():
        if each.mode is Mode.LAYER_SPECIFIC_PROJECTION:
            named[PUBLISHED_HEAD.format(exit=exit)] = each.linear.weight
        elif each.mode is Mode.SHARED_PROJECTION_CAST_OUTPUTS:
            named[PUBLISHED_CAST.format(exit=exit, depth=model.depth)] = each.linear.weight
    return named


def _words_of_transformers_4(config: dict[str, Any]) -> dict[str, Any]:
    """Say again what version 4 reads by other names: it would silently take its own defaults."""
    words: dict[str, Any] = {"torch_dtype": config.get("dtype", "float32")}
    rope = config.get("rope_parameters")
    if isinstance(rope, dict):
        words["rope_theta"] = rope.get("rope_theta", 10000.0)
        scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
        words["rope_scaling"] = scaling if rope.get("rope_type", "default") != "default" else None
    return words
