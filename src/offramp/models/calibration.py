"""Keep what calibration found beside the exits that it was found for.

In:  a ``Calibrated`` and a folder of exits. Out: ``calibration.json``, and the same value again.
Law: the file appears whole or not at all; one that is damaged, or was measured for other exits, is
     refused (tests/models/test_calibration.py).
Not here: finding it (offramp.evaluation), obeying it (offramp.decoding).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offramp.config import VocabularyProjectionMode as Mode
from offramp.decoding.calibrated import (
    Calibrated,
    CalibratedContrast,
    CalibratedDrafts,
    CalibratedExit,
)
from offramp.errors import CheckpointError, first_line
from offramp.models.files import json_of
from offramp.whole import write_text_whole

FILE = "calibration.json"
FORMAT, VERSION = "offramp-calibration", 2
SAMPLES = 4096
"""Values of each tensor that are hashed, evenly spread; all those of a gate."""

NUMBER = (int, float)
EXIT_KEYS: Mapping[str, Any] = {
    "rule": str,
    "exits": list,
    "depth": int,
    "min_exit": int,
    "offsets": (list, type(None)),
    "per": str,
    "test": str,
    "bound": NUMBER,
    "confidence": NUMBER,
    "threshold": (*NUMBER, type(None)),
    "risk": (*NUMBER, type(None)),
    "mean_blocks": NUMBER,
    "num_texts": int,
    "num_tokens": int,
    "metric": str,
    "thresholds": (list, type(None)),
    "saved": NUMBER,
    "usable": bool,
    "reason": str,
    "held_out": (dict, type(None)),
    "speed": (dict, type(None)),
}
"""``offramp.evaluation.promises.Promise.as_dict``, and how much faster it is than plain."""

DRAFT_KEYS: Mapping[str, Any] = {
    "draft_exit": (int, type(None)),
    "draft_length": (int, str),
    "surest": NUMBER,
    "lookup": int,
    "speedup": NUMBER,
    "low": NUMBER,
    "high": NUMBER,
    "used": bool,
}
CONTRAST_KEYS: Mapping[str, Any] = {
    "upper": (int, str),
    "lower": int,
    "alpha": NUMBER,
    "cross_entropy": NUMBER,
    "plain": NUMBER,
    "used": bool,
}
KEYS: Mapping[str, Any] = {
    "format": str,
    "version": int,
    "exits_hash": str,
    "early_exit": list,
    "speculation": (dict, type(None)),
    "contrast": (dict, type(None)),
    "machine": dict,
    "date": str,
}


def hash_exits(projections: Mapping[int, Mode], tensors: Mapping[str, Tensor]) -> str:
    """Tell exits apart, whatever they are kept in, as long as it holds their values.

    Args:
        projections: How each exit reads its state.
        tensors: Their weights, named ``exit.parameter``.
    """
    digest = hashlib.sha256()
    for exit in sorted(projections):
        digest.update(f"{exit} {projections[exit].short}\n".encode())
    for name in sorted(tensors):
        flat = tensors[name].detach().reshape(-1)
        count = min(SAMPLES, flat.numel())
        places = torch.arange(count) * (flat.numel() - 1) // max(count - 1, 1)
        values = flat[places.to(flat.device)].double().cpu().numpy().tobytes()
        digest.update(f"{name} {tuple(tensors[name].shape)}\n".encode() + values)
    return digest.hexdigest()[:32]


def hash_of_model(model: Any) -> str:
    """Tell a model's exits from others; see ``hash_exits``."""
    projections = {exit: model.exits[str(exit)].mode for exit in model.exit_numbers}
    return hash_exits(projections, model.exits.state_dict())


def save_calibration(calibrated: Calibrated, folder: str | Path) -> None:
    """Write the file, whole or not at all.

    Args:
        calibrated: Was found for the exits in that folder.
        folder: Holds the exits.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "exits_hash": calibrated.exits_hash,
        "early_exit": [dict(each.facts) for each in calibrated.early_exit],
        "speculation": None if calibrated.speculation is None else asdict(calibrated.speculation),
        "contrast": None if calibrated.contrast is None else asdict(calibrated.contrast),
        "machine": dict(calibrated.machine),
        "date": calibrated.date,
    }
    text = json.dumps(content, indent=1) + "\n"
    path = Path(folder) / FILE
    try:
        write_text_whole(path, text)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {first_line(error)}; free some space or name another folder"
        ) from None


def read_calibration(path: str | Path, exits_hash: str) -> Calibrated:
    """Read the file and refuse one that was measured for other exits.

    Args:
        path: The file.
        exits_hash: Of the exits beside it.

    Raises:
        CheckpointError: It is damaged, foreign, of another version, or for other exits.
    """
    try:
        content = json_of(Path(path).read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise _damaged(path, first_line(error)) from None
    _check(path, content, KEYS)
    if (content["format"], content["version"]) != (FORMAT, VERSION):
        raise _damaged(path, f"it is {content['format']!r} version {content['version']}")
    if content["exits_hash"] != exits_hash:
        raise CheckpointError(
            f"{path} was measured for other exits than those beside it; delete it, and run offramp "
            "calibrate again"
        )
    drafts, contrast = content["speculation"], content["contrast"]
    if drafts is not None:
        _check(path, drafts, DRAFT_KEYS)
    if contrast is not None:
        _check(path, contrast, CONTRAST_KEYS)
    return Calibrated(
        exits_hash=exits_hash,
        early_exit=tuple(_early_exit(path, each) for each in content["early_exit"]),
        speculation=None if drafts is None else CalibratedDrafts(**drafts),
        contrast=None if contrast is None else CalibratedContrast(**contrast),
        machine=content["machine"],
        date=content["date"],
    )


def early_exit_of(facts: Mapping[str, Any]) -> CalibratedExit:
    """Give what decoding needs of what was found for a bound."""
    thresholds = None
    if facts["usable"]:
        thresholds = dict(zip(facts["exits"], facts["thresholds"], strict=True))
    return CalibratedExit(
        rule=facts["rule"],
        bound=facts["bound"],
        confidence=facts["confidence"],
        thresholds=thresholds,
        facts=facts,
    )


def _early_exit(path: str | Path, facts: Any) -> CalibratedExit:
    _check(path, facts, EXIT_KEYS)
    exits, thresholds = facts["exits"], facts["thresholds"]
    good = all(isinstance(each, int) for each in exits) and sorted(set(exits)) == exits
    if facts["usable"]:
        good = good and thresholds is not None and len(thresholds) == len(exits)
        good = good and all(isinstance(each, NUMBER) and 0 <= each <= 1 for each in thresholds)
    if not good:
        raise _damaged(path, f"exits {exits} and thresholds {thresholds} do not fit")
    return early_exit_of(facts)


def _check(path: str | Path, content: Any, keys: Mapping[str, Any]) -> None:
    """Refuse keys that are missing, unknown or of the wrong kind."""
    given = content if isinstance(content, dict) else {}
    missing, unknown = sorted(set(keys) - set(given)), sorted(set(given) - set(keys))
    if missing or unknown:
        raise _damaged(path, f"missing {missing}, unknown {unknown}")
    for name, kinds in keys.items():
        value = given[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            raise _damaged(path, f"{name} cannot be {value!r}")


def _damaged(path: str | Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is not a calibration of this offramp ({why}); delete it, and run offramp "
        "calibrate again"
    )
