"""Load a model and a text, calibrate, keep what was found with the exits, and show it.

In:  checked options. Out: ``calibration.json`` in a folder of exits; tables or JSON on stdout.
Law: what can be refused is refused before the first token is read; the file appears at the end,
     whole (tests/cli/test_calibrate.py).
Not here: numbers (offramp.evaluation), timing (offramp.cli.trials), tables (offramp.cli.promises).
"""

import shutil
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from offramp.blocks.machine import machine_facts
from offramp.cli.calibrate import SELF, Wanted
from offramp.cli.loading import Loaded, load
from offramp.cli.promises import show_promises
from offramp.cli.prompts import read_prompts
from offramp.cli.quiet import memory_named, quiet
from offramp.cli.show import progress, remark, show_json
from offramp.cli.texts import batched, check_readable, read_rows
from offramp.cli.trials import Trials, run_trials
from offramp.config import parse_exits
from offramp.decoding.calibrated import Calibrated, CalibratedContrast
from offramp.errors import CheckpointError, ConfigError, InputError, first_line
from offramp.evaluation.calibration import AGREEMENT
from offramp.evaluation.contrasts import best_contrast
from offramp.evaluation.promises import Promise, divide, promise
from offramp.evaluation.recording import record, recorded_exits
from offramp.evaluation.replay import Ladder
from offramp.evaluation.text_risk import THRESHOLDS, TextRisk, asked_of, promise_of_texts
from offramp.models.calibration import (
    FILE,
    early_exit_of,
    hash_exits,
    hash_of_model,
    save_calibration,
)
from offramp.models.checkpoint import TABLE, TENSORS, read_own
from offramp.models.drafting import FILE as DRAFTER
from offramp.models.storage import save_exits
from offramp.whole import write_whole

TEXT_FILE, SELF_TOKENS = "calibration-text.jsonl", 40_000
OTHER_TEXT = 1_000_003
"""Added to the seed, so that the text is not that which ``offramp train`` wrote with the same."""

COPIED = (TENSORS, DRAFTER, TABLE)
"""What makes up a folder of exits; the table comes last, as that which makes it one."""


def run_calibration(wanted: Wanted) -> None:
    """Calibrate, keep and show.

    Raises:
        OfframpError: Something was asked for that cannot be done.
    """
    check_readable(wanted.data)
    memory = memory_named(device=wanted.device, batch_size=wanted.batch_size)
    with quiet(verbose=wanted.verbose), memory:
        facts = _Run(wanted).go()
    if wanted.json:
        show_json(facts)
    else:
        show_promises(facts)


class _Run:
    """One run of the command."""

    def __init__(self, wanted: Wanted) -> None:
        """Load what is named and refuse what cannot be done."""
        self.wanted = wanted
        self.begun = time.perf_counter()
        self.prompts = None
        if wanted.prompts is not None:
            found = read_prompts(argument=None, file=wanted.prompts, jsonl=None, stdin=None)
            self.prompts = [str(each.content) for each in found]
        self.loaded: Loaded = load(
            wanted.model, dtype=wanted.dtype, device=wanted.device, exits=wanted.exits_from
        )
        self.model = self.loaded.model
        self.model.calibration = None  # what is measured must not be decided by an earlier one
        self.exits = recorded_exits(
            self.model, wanted.rule, None if wanted.exits is None else parse_exits(wanted.exits)
        )
        self._check_output()

    def go(self) -> dict[str, Any]:
        """Measure, keep, and give what was found."""
        wanted = self.wanted
        rows, collate = self._rows()
        promises = self._promises(rows, collate)
        contrast = self._contrast(rows, collate) if wanted.contrast else None
        trials = self._trials(rows, promises[0]) if wanted.timing else None
        speed = None if trials is None else trials.early_exit
        early = [each.as_dict() | {"speed": None} for each in promises]
        early[0]["speed"] = speed
        hash_ = self._place_exits()
        found = Calibrated(
            exits_hash=hash_,
            early_exit=tuple(map(early_exit_of, early)),
            speculation=None if trials is None else trials.speculation,
            contrast=contrast,
            machine=machine_facts(self.model),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        save_calibration(found, wanted.output)
        if not promises[0].found.usable:
            remark(f"early exit is not usable: {promises[0].found.reason}")
        return {
            "output": str(wanted.output / FILE),
            "model": self.loaded.name,
            "data": wanted.data,
            "early_exit": early,
            "contrast": None if contrast is None else vars(contrast),
            **(Trials() if trials is None else trials).as_dict(),
            "machine": dict(found.machine),
            "date": found.date,
            "seconds": round(time.perf_counter() - self.begun, 3),
        }

    def _check_output(self) -> None:
        """Refuse a folder that holds other exits, or cannot be one."""
        folder = self.wanted.output
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"--output {folder} is not a folder; name another")
        if not (folder / TABLE).is_file():
            return
        if _hash_of(folder) != self._own_hash():
            raise CheckpointError(
                f"--output {folder} holds other exits than those that are calibrated; name them by "
                "--exits-from, or name another folder"
            )

    def _own_hash(self) -> str:
        kept = self.model.exits_from
        return hash_of_model(self.model) if kept is None else _hash_of(Path(kept))

    def _rows(self) -> tuple[Any, Any]:
        """Read the text, which the model may have to write first."""
        wanted, source = self.wanted, None
        if wanted.data == SELF:
            source = str(self._write_text())
        return read_rows(wanted, self.loaded, source=source)

    def _write_text(self) -> Path:
        # It imports nothing more; its module is not needed for other sources.
        from offramp.training.self_text import SelfText, write_self_text  # noqa: PLC0415

        wanted = self.wanted
        path = self._folder() / TEXT_FILE
        chosen = SelfText(
            tokens=wanted.self_tokens or SELF_TOKENS,
            batch_size=min(64, len(self.prompts or [0] * 64)),
            seed=wanted.seed + OTHER_TEXT,
        )
        with progress(chosen.tokens, unit="tokens") as advance:
            write_self_text(
                self.model,
                self.loaded.tokenizer,
                path,
                chosen,
                prompts=self.prompts,
                advance=advance,
            )
        return path

    def _promises(self, rows: Any, collate: Any) -> list[Promise]:
        wanted, model = self.wanted, self.model
        if wanted.metric != AGREEMENT:
            return [self._promise_of_texts(rows)]
        with progress(len(rows), unit="rows") as advance:
            texts = record(
                model,
                batched(rows, collate, wanted.batch_size, self.loaded),
                rule=wanted.rule,
                exits=self.exits,
                advance=advance,
            )
        used, kept = divide(texts, wanted.held_out, seed=wanted.seed)
        return promise(
            used,
            kept,
            ladder=Ladder(exits=self.exits, depth=model.depth),
            rule=wanted.rule,
            bound=wanted.bound,
            confidence=wanted.confidence,
        )

    def _promise_of_texts(self, rows: Any) -> Promise:
        wanted, model, tokenizer = self.wanted, self.model, self.loaded.tokenizer
        asked = asked_of(rows, tokenizer, apart=model.config.is_encoder_decoder)
        used, kept = divide(asked, wanted.held_out, seed=wanted.seed)
        most = len(used) * (len(THRESHOLDS) + 1) + 2 * len(kept)  # fewer where one fails
        risk = TextRisk(
            metric=wanted.metric,
            ladder=Ladder(exits=self.exits, depth=model.depth),
            rule=wanted.rule,
            bound=wanted.bound,
            confidence=wanted.confidence,
            max_new_tokens=wanted.max_new_tokens,
            batch_size=wanted.batch_size,
        )
        with progress(most, unit="texts") as advance:
            return promise_of_texts(model, tokenizer, used, kept, risk, advance=advance)

    def _contrast(self, rows: Any, collate: Any) -> CalibratedContrast:
        with progress(len(rows), unit="rows") as advance:
            return best_contrast(
                self.model,
                batched(rows, collate, self.wanted.batch_size, self.loaded),
                advance=advance,
            )

    def _trials(self, rows: Any, first: Promise) -> Trials:
        return run_trials(
            self.loaded,
            rows,
            self.wanted,
            promise=first,
            prompts=self.prompts,
        )

    def _folder(self) -> Path:
        try:
            self.wanted.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot make the folder {self.wanted.output}: {error.strerror or error}; name "
                "another --output"
            ) from None
        return self.wanted.output

    def _place_exits(self) -> str:
        """Copy the exits to the folder if it holds none, and give their hash."""
        folder, kept = self._folder(), self.model.exits_from
        if not (folder / TABLE).is_file():
            if kept is None:
                save_exits(self.model, folder)
            else:
                _copy(Path(kept), folder)
        return _hash_of(folder)


def _copy(source: Path, folder: Path) -> None:
    try:
        for name in COPIED:
            if (path := source / name).is_file():
                write_whole(folder / name, partial(shutil.copyfile, path))
    except OSError as error:
        raise CheckpointError(
            f"cannot copy the exits to {folder}: {first_line(error)}; free some space or name "
            "another folder"
        ) from None


def _hash_of(folder: Path) -> str:
    stored = read_own(folder / TABLE)
    return hash_exits(stored.projections, stored.tensors)
