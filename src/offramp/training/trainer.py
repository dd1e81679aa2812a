"""transformers' Trainer, taught to save exits and to end the same however often it was stopped.

In:  a ``Student`` (or, without exits, any model of transformers), transformers' arguments, rows.
     Out: checkpoints, a log with the loss of each exit.
Law: killed at any moment and started again, or divided over processes, it gives the same curve and
     weights (tests/training/test_killed.py, test_processes.py). A write that fails ends in one
     line and leaves the last good checkpoint.
Not here: what is trained (offramp.training.exits), the loss (offramp.training.student).

What transformers 5.23 leaves open, and is closed here: a resumed stream that had been read more
than once went on at another row; a finished training that was started again took one step more; a
line of the log that spans a checkpoint lost its first half; a checkpoint without the random state
of a slower process counted as whole; where there are several processes, a data set was not told of
its epoch.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from transformers import PrinterCallback, Trainer, TrainerCallback
from transformers.utils import is_torch_xla_available

from offramp.errors import CheckpointError, ConfigError, InputError, first_line
from offramp.models.files import moved_whole
from offramp.models.storage import save_beside, save_exits
from offramp.training.checkpoints import (
    is_whole,
    last_checkpoint,
    load_checkpoint_,
    load_model_,
    readable,
)
from offramp.training.student import Student


class SafeTrainer(Trainer):  # type: ignore[misc]
    """transformers' Trainer, for a whole model: stopped at any moment, it can be gone on with.

    Attributes:
        exits: Whether checkpoints hold exits, and not a model alone.
    """

    exits = False

    def __init__(self, model: nn.Module, *args: Any, **named: Any) -> None:
        if isinstance(named.get("train_dataset"), IterableDataset):
            named["train_dataset"] = Endless(named["train_dataset"])
        super().__init__(model, *args, **named)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ConfigError(
                "this training divides its rows by DDP, not its weights by FSDP or DeepSpeed; "
                "launch it without them, or write your own loop (see offramp.training.weights)"
            )
        self.remove_callback(PrinterCallback)
        self.add_callback(_LogAtSave())

    def last_checkpoint(self) -> str | None:
        """Give the newest whole checkpoint of this training."""
        return last_checkpoint(self.args.output_dir, exits=self.exits)

    def save_weights(self, folder: str) -> None:
        """Save the model."""
        with moved_whole(folder) as stage:
            self.accelerator.unwrap_model(self.model).save_pretrained(stage)

    def load_weights_(self, checkpoint: str) -> None:
        """Put a checkpoint's weights into the model."""
        load_model_(self.accelerator.unwrap_model(self.model), checkpoint)

    def _load_best_model(self) -> None:
        """Without transformers' warning that weights which are tied to others were not stored."""
        self.load_weights_(str(self.state.best_model_checkpoint))

    def _run_epoch(self, **plan: Any) -> None:
        """Train for an epoch, unless a finished training was started again."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        if hasattr(self.train_dataset, "set_epoch"):
            self.train_dataset.set_epoch(plan["epoch"])
        super()._run_epoch(**plan)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the weights, and no pickle of the arguments."""
        if self.args.should_save:
            folder = output_dir or self.args.output_dir
            with writable(folder):
                self.save_weights(folder)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint, or say why not and leave the last good one as it is."""
        folder = Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")
        if self.args.should_save:
            shutil.rmtree(folder, ignore_errors=True)  # what a killed run left of it
        self.accelerator.wait_for_everyone()
        try:
            with writable(folder):
                super()._save_checkpoint(model, trial)
        except CheckpointError as error:
            if self.args.should_save and not is_whole(folder, exits=self.exits):
                shutil.rmtree(folder, ignore_errors=True)
            last = self.last_checkpoint() or "the start"
            raise CheckpointError(f"{error}; the training can go on from {last}") from None

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Upload a checkpoint, or say why not."""
        try:
            super()._push_from_checkpoint(checkpoint_folder)
        except (OSError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"cannot upload {checkpoint_folder} ({first_line(error)}), but it is whole on the "
                "disk; run the same command again, or without push_to_hub"
            ) from None

    def _save_rng_state(self, output_dir: str) -> None:
        """Wait for all processes, so that the file that is written last is the last."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Put the checkpoint's weights into the model."""
        self.load_weights_(resume_from_checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with readable(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with readable(checkpoint):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with readable(checkpoint):
            super()._load_rng_state(checkpoint)


class ExitTrainer(SafeTrainer):
    """transformers' Trainer, for a ``Student``: it saves exits, and logs the loss of each."""

    exits = True

    def __init__(self, student: Student, *args: Any, **named: Any) -> None:
        super().__init__(student, *args, **named)
        self._exit_losses: list[Tensor] = []
        self._first_step = 0

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Tell the student how far the training is, and keep the exits' losses for the log.

        An evaluation always draws the same positions and counts all exits.
        """
        step = self.state.global_step if model.training else 0
        progress = step / max(self.state.max_steps, 1) if model.training else 1.0
        told = {**inputs, "step": step, "progress": progress}
        loss, outputs = super().compute_loss(
            model, told, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        if model.training:
            if not self._exit_losses:
                self._first_step = step
            scale = 1 / self.current_gradient_accumulation_steps
            if num_items_in_batch is not None:
                shared = self.args.average_tokens_across_devices
                scale = self.accelerator.num_processes if shared else 1
            self._exit_losses.append(outputs["exit_losses"].detach() * scale)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean loss of each exit since the last line, over all processes."""
        if "loss" in logs and self._exit_losses:
            steps = max(self.state.global_step - self._first_step, 1)
            means = torch.stack(self._exit_losses).sum(0) / steps
            means = self.accelerator.reduce(means, reduction="mean")
            exits = self._student.lesson.exit_weights
            logs |= {f"exit_{exit}": float(mean) for exit, mean in zip(exits, means, strict=True)}
            self._exit_losses.clear()
        super().log(logs, start_time)

    @property
    def _student(self) -> Student:
        return self.accelerator.unwrap_model(self.model)  # type: ignore[no-any-return]

    def save_weights(self, folder: str) -> None:
        """Save the exits alone, or with a base that is trained too."""
        student = self._student
        (save_exits if student.frozen else save_beside)(student.model, folder)

    def load_weights_(self, checkpoint: str) -> None:
        """Put the checkpoint's exits, and a base that is trained too, into the model."""
        student = self._student
        load_checkpoint_(student.model, checkpoint, base=not student.frozen)


class Endless(IterableDataset[Any]):
    """A stream that begins again when it ends, shuffled anew.

    The Trainer counts the steps of a stream as one epoch, and so goes on where it was.

    Args:
        rows: An iterable data set.

    Raises:
        InputError: It ends before its first row.
    """

    def __init__(self, rows: Any) -> None:
        super().__init__()
        self.rows = rows

    def __iter__(self) -> Iterator[Any]:
        for epoch in count():
            if hasattr(self.rows, "set_epoch"):
                self.rows.set_epoch(epoch)
            empty = True
            for row in self.rows:
                empty = False
                yield row
            if empty:
                raise InputError("the stream has no rows; give at least one")


class _LogAtSave(TrainerCallback):  # type: ignore[misc]
    """Ends a line of the log at each checkpoint, since sums between lines are not saved."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if control.should_save and args.logging_strategy != "no":
            control.should_log = True


@contextmanager
def writable(folder: str | Path) -> Iterator[None]:
    """Turn a write that fails into one line."""
    try:
        yield
    except CheckpointError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:
        cause: BaseException = error
        while cause.__context__ is not None:  # torch's second error hides that a write failed
            cause = cause.__context__
        raise CheckpointError(
            f"cannot write {folder}: {first_line(cause)}; free some space and run the same "
            "command again"
        ) from None


def precision_arguments(asked: str, *, use_cpu: bool | None) -> dict[str, bool]:
    """Give transformers' arguments for a precision; on a processor it mixes only if told of it.

    Args:
        asked: float32, bfloat16, float16, or auto, which is bfloat16 on a GPU that is fast at it.
        use_cpu: Whether the training stays on the processor; None where there is nothing else.
    """
    if use_cpu is None:
        use_cpu = not torch.accelerator.is_available() and not is_torch_xla_available()
    if asked == "auto":
        gpu = torch.cuda.is_available() and not use_cpu
        fast = gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        asked = "bfloat16" if fast else "float32"
    return {"use_cpu": use_cpu, "bf16": asked == "bfloat16", "fp16": asked == "float16"}
