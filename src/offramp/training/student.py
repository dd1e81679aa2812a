"""One forward pass that trains: the base once, then every exit's loss in chunks.

In:  a model with exits and a batch. Out: the loss, and each exit's share of it.
Law: the loss is the sum over exits of the mean of plain losses, in expectation over the positions
     chosen; a frozen base runs without gradients and in evaluation mode, and is never changed
     (tests/training/test_student.py).
Not here: the loop around it (offramp.training.exits, which also says what needs a gradient), the
     data (offramp.training.data).
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from offramp.blocks.projections import Block, can_gather
from offramp.blocks.watch import Watched, watch
from offramp.config import ORIGINAL, ExitName
from offramp.errors import ConfigError
from offramp.logits.labels import NO_LABEL
from offramp.models.view import View, keeper
from offramp.training.candidates import Candidates
from offramp.training.chunked import Heads, Targets, chunked_loss
from offramp.training.layer_dropout import (
    Curriculum,
    dropout_rates,
    exit_scales,
    layers_dropped,
)
from offramp.training.objectives import Objective
from offramp.training.positions import choose_positions, position_weights


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What is learnt in one pass.

    Attributes:
        objective: What an exit's error costs.
        exit_weights: What each exit's loss counts; exits that are not named are not trained.
            ``"original"`` is the base's own head: it learns the text's next tokens over the whole
            vocabulary, whatever the objective, for it has nobody to learn from.
        share: Of the positions whose losses are computed, above 0, at most 1.
        seed: Decides which.
        candidates: Score these tokens only; None scores the whole vocabulary.
        chunk: Positions at a time; None chooses by the size of the vocabulary.
        curriculum: Which exits learn when, while the base is trained; its scales are multiplied by
            the weights.
        layer_dropout: How often the last block is left out while the base is trained.

    Raises:
        ConfigError: The share or a weight is out of its range, or candidates without a teacher.
    """

    objective: Objective
    exit_weights: Mapping[ExitName, float]
    share: float = 1.0
    seed: int = 0
    candidates: Candidates | None = None
    chunk: int | None = None
    curriculum: Curriculum | None = None
    layer_dropout: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.layer_dropout < 1:
            raise ConfigError(
                f"layer_dropout must be from 0 to below 1, got {self.layer_dropout}; try 0.1"
            )
        if not 0 < self.share <= 1:
            raise ConfigError(
                f"the share of positions must be above 0 and at most 1, got {self.share}; try 0.25"
            )
        if self.candidates is not None and not self.objective.needs_teacher:
            raise ConfigError(
                "candidates are the last layer's likely tokens, which next-token does not ask for; "
                "score the whole vocabulary, or use distillation or mixed"
            )
        if not self.exit_weights or not all(each >= 0 for each in self.exit_weights.values()):
            raise ConfigError(
                f"exits need weights of 0 or more, got {dict(self.exit_weights)}; name an exit"
            )

    @property
    def numbers(self) -> tuple[int, ...]:
        """The exits below the base's own head."""
        return tuple(exit for exit in self.exit_weights if exit != ORIGINAL)

    def scales(self, *, step: int, progress: float, depth: int) -> Mapping[ExitName, float]:
        """Give what each exit's loss counts at one step."""
        if self.curriculum is None:
            return self.exit_weights
        scales = exit_scales(
            tuple(self.exit_weights),
            depth=depth,
            curriculum=self.curriculum,
            step=step,
            progress=progress,
        )
        return {exit: scales[exit] * weight for exit, weight in self.exit_weights.items()}


@dataclass(frozen=True, kw_only=True)
class Kept:
    """States of chosen positions that were kept on disk.

    Attributes:
        seen: The states, and what the base's head read.
        tokens: The next tokens.
        weights: What each position counts.
    """

    seen: Watched
    tokens: Int[Tensor, " rows"]
    weights: Float[Tensor, " rows"]

    def to(self, device: torch.device) -> "Kept":
        """Give the same on another device."""
        seen = Watched(
            states={exit: state.to(device) for exit, state in self.seen.states.items()},
            head_input=self.seen.finished().to(device),
        )
        return Kept(seen=seen, tokens=self.tokens.to(device), weights=self.weights.to(device))


class Student(nn.Module):
    """A model with exits whose forward pass gives the loss of a lesson.

    A module of its own, so that DDP and FSDP see one forward and one backward pass.

    Args:
        model: With exits; ``offramp.training.exits.freeze_`` says what of it is trained.
        lesson: What is learnt.
        frozen: The base runs without gradients, and in evaluation mode.
    """

    def __init__(self, model: Any, lesson: Lesson, *, frozen: bool = True) -> None:
        super().__init__()
        self.model = model
        self.lesson = lesson
        self.frozen = frozen
        self.train()

    def train(self, mode: bool = True) -> "Student":
        """Set training mode; a frozen base stays in evaluation mode, without dropout."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
            self.model.exits.train(mode)
        return self

    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"] | None = None,
        shift_labels: Int[Tensor, "*targets"] | None = None,
        num_items_in_batch: Tensor | int | None = None,
        kept: "Kept | None" = None,
        step: int = 0,
        progress: float = 0.0,
        **inputs: Any,
    ) -> dict[str, Tensor]:
        """Give the loss of a batch.

        Args:
            input_ids: Tokens.
            shift_labels: What each position shall say, -100 where that does not matter.
            num_items_in_batch: How many positions matter in the whole step, on all processes
                together; None: as many as in this batch.
            kept: States from the disk, in place of tokens and labels.
            step: Of the training, so that each step draws other positions.
            progress: How much of the training is done, 0 to 1.
            **inputs: As the model takes them: ``attention_mask``, ``decoder_input_ids``.

        Returns:
            ``loss`` and ``exit_losses``, one for each exit of the lesson, in its order.

        Raises:
            ConfigError: It trains with a frozen base, parameters of which need a gradient.
        """
        if self.frozen and self.training and torch.is_grad_enabled():
            self._check_frozen()
        if kept is None:
            assert shift_labels is not None
            view, chosen = self.see(
                {"input_ids": input_ids, "shift_labels": shift_labels, **inputs}, step=step
            )
            usable = shift_labels != NO_LABEL
            tokens, weights = shift_labels[chosen], position_weights(usable, chosen)
        else:
            kept = kept.to(self.model.device)
            view = self._view(kept.seen, lambda states: states)
            tokens, weights = kept.tokens, kept.weights
        count = num_items_in_batch if num_items_in_batch is not None else weights.sum().clamp(min=1)
        scales = self.lesson.scales(step=step, progress=progress, depth=self.model.depth)
        loss, sums = self.loss_of(view, (tokens, weights), scales=scales, step=step)
        return {"loss": loss / count, "exit_losses": sums / count}

    def _check_frozen(self) -> None:
        """See that no gradient reaches the base, whose head and norm the exits' losses read."""
        named = self.model.named_parameters()
        needing = [name for name, p in named if p.requires_grad and not name.startswith("exits.")]
        if needing:
            raise ConfigError(
                f"the base is frozen, but {len(needing)} of its parameters need a gradient, such "
                f"as {needing[0]}; call offramp.training.exits.freeze_(model, exits, "
                "unfreeze=False) first, or train the base with frozen=False"
            )

    def see(
        self, batch: Mapping[str, Any], *, step: int = 0
    ) -> tuple[View, Bool[Tensor, "batch targets"]]:
        """Run the base once; give the view of its exits at the chosen positions, and these.

        Args:
            batch: ``input_ids``, ``shift_labels`` and what else the model takes.
            step: Of the training, so that each step draws other positions.
        """
        inputs = {name: batch[name] for name in batch if name not in ("labels", "shift_labels")}
        chosen = self.choose(batch, step=step)
        return self._look(chosen, inputs, step=step), chosen

    def choose(self, batch: Mapping[str, Any], *, step: int = 0) -> Bool[Tensor, "batch targets"]:
        """Give the positions of a batch whose losses are computed; as ``see``, without a pass."""
        written = batch.get("decoder_input_ids")
        return choose_positions(
            batch["input_ids"] if written is None else written,
            batch["shift_labels"] != NO_LABEL,
            share=self.lesson.share,
            seed=self.lesson.seed * 7_919 + step,
        )

    def _look(self, chosen: Tensor, inputs: Mapping[str, Any], *, step: int) -> View:
        anatomy, lesson = self.model.anatomy, self.lesson
        numbers = lesson.numbers
        to_the_end = lesson.objective.needs_teacher or ORIGINAL in lesson.exit_weights
        deepest = anatomy.depth if to_the_end else max(numbers)
        blocks = any(isinstance(each, Block) for each in self._projections().values())
        with ExitStack() as during:
            if self.frozen:
                during.enter_context(torch.no_grad())
            if lesson.layer_dropout and self.training:
                rates = dropout_rates(anatomy.depth, lesson.layer_dropout)
                drawn = torch.Generator().manual_seed(self._seed(step, inputs["input_ids"]))
                during.enter_context(layers_dropped(anatomy.blocks, rates, generator=drawn))
            seen = during.enter_context(
                watch(
                    anatomy,
                    numbers,
                    keep=keeper(chosen),
                    run_head=False,
                    last_block=max(deepest, 1),
                    calls=(anatomy.depth - 1,) if blocks else (),
                )
            )
            type(self.model).base_forward(self.model, **inputs, use_cache=False, return_dict=True)
        return self._view(seen, keeper(chosen))

    def _view(self, seen: Watched, keep: Callable[[Tensor], Tensor]) -> View:
        return View(
            anatomy=self.model.anatomy,
            seen=seen,
            projections=self._projections(),
            keep=keep,
            base_logits=None,
        )

    def _projections(self) -> dict[int, Any]:
        exits = self.model.exits
        return {exit: exits[str(exit)] for exit in self.lesson.numbers if str(exit) in exits}

    def _seed(self, step: int, tokens: Tensor) -> int:  # batches of one step do not draw alike
        return (self.lesson.seed * 7_919 + step) * 1_000_003 + int(tokens.sum())

    def loss_of(
        self,
        view: View,
        asked: tuple[Tensor, Tensor],
        *,
        scales: Mapping[ExitName, float],
        step: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Give the weighted sum of all losses, and the sum of each exit.

        Args:
            view: Of the exits.
            asked: Next tokens and weights of its positions.
            scales: What each exit's loss counts.
            step: Of the training, for the draw of candidates.
        """
        anatomy, lesson = view.anatomy, self.lesson
        pairs = [
            (anatomy.head, view.seen.finished()) if exit == ORIGINAL else view.prepared(exit)
            for exit in scales
        ]
        if self.frozen:
            view.seen.states.clear()  # read for the last time; the losses need the memory
        teacher = view.seen.finished().detach() if lesson.objective.needs_teacher else None
        return chunked_loss(
            [state for _, state in pairs],
            Targets(tokens=asked[0], weights=asked[1], teacher=teacher),
            Heads(
                exits=[head for head, _ in pairs],
                exit_weights=list(scales.values()),
                base=anatomy.head,
                complete=partial(View.complete, anatomy),
                candidates=lesson.candidates if can_gather(anatomy.head) else None,
                seed=self._seed(step, asked[0]),
                on_text=[exit == ORIGINAL for exit in scales],
            ),
            lesson.objective,
            chunk=lesson.chunk,
        )
