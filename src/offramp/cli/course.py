"""The stages of ``offramp train``: attach, write, fit, train, gates.

In:  checked options and the processes. Out: a folder of exits, and what was reached.
Law: every stage that is done is written down, so that the next run goes on after it; what the
     first process alone does, all others wait for (tests/cli/test_train.py).
Not here: what is shown of it (offramp.cli.teach).
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

from accelerate import PartialState

from offramp.cli.encoding import block_size_of
from offramp.cli.journal import SELF_TEXT, START, Journal
from offramp.cli.kept import KeptText
from offramp.cli.loading import Loaded, load_as_it_is, weights_hash
from offramp.cli.output import key_of
from offramp.cli.pupils import attach, fitted_exits, settings_of
from offramp.cli.rows import Reader, batches_of, content_of
from offramp.cli.show import progress, remark
from offramp.cli.steps import Steps
from offramp.cli.training import SELF, Training
from offramp.errors import ConfigError
from offramp.models.checkpoint import TABLE
from offramp.models.files import moved_whole
from offramp.models.storage import save_beside, save_exits
from offramp.training.checkpoints import last_checkpoint, load_checkpoint_
from offramp.training.closed_form import fit_closed_form
from offramp.training.exits import shifted, train_exits, trainable
from offramp.training.gates import HELD_OUT, train_gates
from offramp.training.self_text import SelfText, write_self_text
from offramp.training.states import KeptStates, keep_states
from offramp.training.student import Student

TOKENS = 100_000
"""How many a closed form, and gates, are made of unless told."""
SHOWN_ONLY = ("save_steps", "log_steps", "keep")


class Course:
    """One run of the command, on one of its processes."""

    def __init__(self, settings: Training, state: PartialState) -> None:
        """Take the options and the process's place among the others."""
        self._settings, self._state = settings, state
        self._first = bool(state.is_main_process)

    def run(self) -> dict[str, Any]:
        """Go through the stages that are not done yet, and give what was reached.

        Raises:
            OfframpError: Something was asked for that cannot be done.
        """
        start = time.perf_counter()
        with self._state.main_process_first():
            self._prepare()
        self._state.wait_for_everyone()
        if self._journal.results.get("trained"):
            if self._first:
                remark(f"{self._settings.output} holds this training, whole")
            base = self._training.unfreeze
            load_checkpoint_(self._model, self._settings.output, base=base)
        else:
            self._fit()
            self._train()
        if self._settings.gates:
            self._give_gates()
        return self._results(seconds=time.perf_counter() - start)

    def _prepare(self) -> None:
        """Load the model and what is named, and refuse what cannot be done."""
        settings = self._settings
        self._loaded: Loaded = load_as_it_is(
            settings.model, dtype=settings.dtype, place=self._state.device
        )
        self._model = self._loaded.model
        weights = weights_hash(self._model)
        pupils = attach(self._model, settings)
        self._kept = None if settings.keep_states is None else KeptText(settings.keep_states)
        self._training = settings_of(settings, pupils, self._kept)
        self._numbers = trainable(
            self._model, self._training.exits, unfreeze=self._training.unfreeze
        )
        self._lesson = self._training.lesson(self._numbers)
        self._fits = fitted_exits(
            self._model, self._numbers, settings, self._training, fresh=bool(pupils)
        )
        self._read_named()
        self._journal = Journal(
            settings.output,
            self._facts(weights),
            writer=self._writer(weights) if SELF in settings.texts.data else None,
            overwrite=settings.overwrite and self._first,
            writing=self._first,
        )

    def _read_named(self) -> None:
        """Read the sources that are there before anything is written."""
        settings, texts = self._settings, self._settings.texts
        if not texts.data:
            if self._kept is None or not self._kept.positions:
                raise ConfigError(
                    f"{settings.keep_states} does not keep all states yet; add --data"
                )
            if settings.gates or texts.held_out is not None:
                raise ConfigError("--gates and --held-out read text; add --data")
        self._reader = Reader(
            texts=texts,
            loaded=self._loaded,
            seed=self._training.seed,
            block_size=block_size_of(
                self._loaded, texts.block_size or (512 if settings.published else None)
            ),
        )
        self._batch_of = shifted(self._reader.collate(), self._model)
        self._named = self._reader.named()
        self._contents = self._reader.contents(self._named)
        if self._kept is not None and self._kept.facts is not None and texts.data:
            self._kept.check(**self._kept_facts())

    def _facts(self, weights: str) -> dict[str, Any]:
        """Name all that decides the training."""
        chosen = asdict(self._training)
        kept = self._kept is not None and self._kept.facts
        return {
            "model": self._model.name_or_path,
            "weights": weights,
            "exits": self._projections(),
            "text": kept["text"] if kept else self._text_facts(),
            "content of --held-out": content_of(self._reader.held_out),
            "keep_states": self._kept is not None,
            "settings": {name: chosen[name] for name in chosen if name not in SHOWN_ONLY},
            "closed_form": self._fits and (self._settings.closed_form_tokens or TOKENS),
            "fit_only": self._settings.fit_only,
        }

    def _text_facts(self) -> dict[str, Any]:
        texts = self._settings.texts
        prompts = None if texts.prompts is None else key_of(texts.prompts, {})
        read = {"block_size": self._reader.block_size, "content": self._contents}
        return {**asdict(texts), "prompts": prompts, **read}

    def _kept_facts(self) -> dict[str, Any]:
        training = self._training
        return {
            "text": self._text_facts(),
            "positions": training.positions,
            "batch_size": training.batch_size,
        }

    def _writer(self, weights: str) -> dict[str, Any]:
        prompts = self._text_facts()["prompts"]
        return {"weights": weights, "prompts": prompts, "seed": self._training.seed}

    def _projections(self) -> dict[str, str]:
        return {exit: each.mode.short for exit, each in self._model.exits.items()}

    @cached_property
    def _rows(self) -> tuple[Any, Any]:
        """Rows to train on and held-out rows; asked for by all processes at once."""
        path = self._settings.output / SELF_TEXT
        if SELF in self._settings.texts.data:
            if self._first:
                self._write_text()
            self._state.wait_for_everyone()
        with self._state.main_process_first():
            return self._reader.divided(self._reader.mixed(self._named, path))

    def _write_text(self) -> None:
        texts = self._settings.texts
        chosen = SelfText(seed=self._training.seed)
        wanted = replace(chosen, tokens=texts.self_tokens or chosen.tokens)
        with progress(wanted.tokens, unit="tokens") as advance:
            write_self_text(
                self._model,
                self._loaded.tokenizer,
                self._settings.output / SELF_TEXT,
                wanted,
                prompts=texts.prompts,
                advance=advance,
            )

    def _batches(self, rows: Any, tokens: int | None) -> Iterator[Mapping[str, Any]]:
        size = self._training.batch_size
        device = self._model.device
        return batches_of(rows, self._batch_of, size=size, device=device, tokens=tokens)

    def _fit(self) -> None:
        """Start exits from a least-squares fit, unless a checkpoint is further."""
        start = self._settings.output / START
        if not self._fits or last_checkpoint(self._settings.output):
            return
        rows, _ = self._rows
        if self._first and not (start / TABLE).exists():
            tokens = self._settings.closed_form_tokens or TOKENS
            with progress(tokens, unit="positions") as advance:
                fitted = fit_closed_form(
                    self._model, self._batches(rows, tokens), exits=self._fits, advance=advance
                )
            save_exits(self._model, start)
            self._journal.note(fitted=fitted)
        self._state.wait_for_everyone()
        load_checkpoint_(self._model, start, base=False)

    def _train(self) -> None:
        """Train, or leave it at the fit."""
        settings = self._settings
        if settings.fit_only:
            if self._first:
                save_exits(self._model, settings.output)
                self._journal.note(trained=True)
            return
        rows, held_out = self._rows if self._kept is None else self._states(self._kept)
        on_cpu = self._state.device.type == "cpu"
        with Steps(first=self._first, held_out=held_out is not None) as steps:
            train_exits(
                self._model,
                rows,
                settings.output,
                self._training,
                collate=self._reader.collate(),
                held_out=held_out,
                callbacks=[steps],
                disable_tqdm=True,
                use_cpu=on_cpu,
                dataloader_pin_memory=not on_cpu,
                report_to=settings.log_to,
                include_num_input_tokens_seen="no" if self._kept else "non_padding",
            )
        if self._first:
            if self._training.unfreeze:
                with moved_whole(settings.output) as stage:
                    self._loaded.tokenizer.save_pretrained(stage)
            self._journal.note(**steps.reached, trained=True)

    def _states(self, kept: KeptText) -> tuple[Any, Any]:
        """Fill the folder of states, if it is not full, and give them as rows."""
        student = Student(self._model, self._lesson)
        held_out = self._rows[1] if self._settings.texts.data else None
        if not kept.positions:
            rows, size = self._rows[0], self._training.batch_size
            total = 1 if self._settings.texts.streaming else -(-len(rows) // size)
            if self._first:
                kept.write(self._kept_facts(), positions=0)
                with progress(total, unit="batches of states") as advance:
                    count = keep_states(
                        student,
                        self._batches(rows, None),
                        kept.folder,
                        advance=_ones(advance),
                    )
                kept.write(self._kept_facts(), positions=count)
            self._state.wait_for_everyone()
        return KeptStates(student, kept.folder), held_out

    def _give_gates(self) -> None:
        """Train gates that are not there yet."""
        settings, model = self._settings, self._model
        precision, tokens = settings.gate_precision or 0.95, settings.gate_tokens or TOKENS
        asked = {"precision": precision, "tokens": tokens}
        if self._journal.results.get("gates_of") == asked:
            return
        rows, held_out = self._rows
        if self._first:
            apart = 0 if held_out is None else round(HELD_OUT * tokens)
            with progress(tokens // 4, unit="positions") as advance:
                reports = train_gates(
                    model,
                    self._batches(rows, tokens - apart),
                    exits=self._numbers,
                    precision=precision,
                    held_out=self._batches(held_out, apart) if apart else None,
                    advance=advance,
                )
            save = save_beside if self._training.unfreeze else save_exits
            save(model, settings.output)
            self._journal.note(gates=[asdict(each) for each in reports], gates_of=asked)
        self._state.wait_for_everyone()

    def _results(self, *, seconds: float) -> dict[str, Any]:
        reached = self._journal.results
        names = ("fitted", "steps", "loss", "exit_losses", "held_out_loss", "tokens", "gates")
        return {
            "output": str(self._settings.output),
            "exits": self._projections(),
            **{name: reached.get(name) for name in names},
            "seconds": round(seconds, 3),
        }


def _ones(advance: Callable[[int], None]) -> Callable[[int], None]:
    """Count calls in place of what they are told."""
    return lambda _: advance(1)
