"""Follow a training: a bar and lines of losses on stderr, numbers for the result.

In:  what the Trainer tells its callbacks. Out: lines, a bar, and the last losses.
Law: nothing goes to stdout, and only the first process shows anything (tests/cli/test_train.py).
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from offramp.cli.show import progress, remark


class Steps(TrainerCallback):  # type: ignore[misc]
    """A callback that shows how far a training is.

    Attributes:
        reached: The state at the end, as results.
    """

    def __init__(self, *, first: bool, held_out: bool) -> None:
        """Follow it.

        Args:
            first: Whether this is the process that speaks.
            held_out: Whether there are rows whose loss is computed.
        """
        self.reached: dict[str, Any] = {}
        self._first, self._held_out = first, held_out
        self._during = ExitStack()
        self._advance: Callable[[int], None] = lambda steps: None

    def __enter__(self) -> "Steps":
        """Give the callback."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bar away."""
        self._during.close()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Show the bar, and where the training goes on."""
        if not self._first:
            return
        if state.global_step:
            remark(f"goes on from step {state.global_step} of {state.max_steps}")
        bar = progress(state.max_steps, done=state.global_step, unit="steps")
        self._advance = self._during.enter_context(bar)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Move the bar; at the last step, ask for the losses."""
        self._advance(1)
        if state.global_step >= state.max_steps:
            control.should_log = True
            control.should_evaluate = control.should_evaluate or self._held_out

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Show a line of losses."""
        told = _losses(logs or {})
        if self._first and told:
            shown = ", ".join(f"{name} {value:.4g}" for name, value in told.items())
            remark(f"step {state.global_step} of {state.max_steps}: {shown}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Note what was reached; a training that goes on knows what it said before."""
        last: dict[str, float] = {}
        for line in state.log_history:
            last |= _losses(line)
        self.reached = {
            "steps": state.global_step,
            "loss": last.pop("loss", None),
            "held_out_loss": last.pop("held-out loss", None),
            "exit_losses": {name.removeprefix("exit "): loss for name, loss in last.items()},
            "tokens": state.num_input_tokens_seen or None,
        }


def _losses(logs: Mapping[str, float]) -> dict[str, float]:
    """Pick the losses of a line of the log, under names for people."""
    names = {"loss": "loss", "eval_loss": "held-out loss"}
    return {
        names.get(name, name.replace("_", " ")): value
        for name, value in logs.items()
        if name in names or name.startswith("exit_")
    }
