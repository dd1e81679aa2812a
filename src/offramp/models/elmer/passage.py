"""Take a canvas through all layers, once, and ask the exits.

In:  a canvas, what may be seen, and in training a target. Out: states, scores, losses.
Law: an exit's scores and steps are computed once; without a target nothing of it is read
     (tests/models/elmer/test_passage.py).
Not here: leaving layers early (.writing); the losses (.learning).
Source: Li et al. 2022, "ELMER", arXiv:2210.13304, section 3.3 (soft exit); Huang et al. 2021,
     "DSLP", arXiv:2110.07515.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from offramp.models.elmer.decoder import Sight
from offramp.models.elmer.learning import (
    Target,
    aligned,
    glance,
    loss_at,
    mean_of,
    shown_at_random,
)
from offramp.models.elmer.output import ElmerOutput


class Passage:
    """One way through the layers.

    Args:
        model: ``ElmerForConditionalGeneration``.
        sight: What its decoder may look at.
        target: What it is to write; None learns nothing.
    """

    def __init__(self, model: Any, sight: Sight, target: Target | None) -> None:
        self._model, self._sight, self._target = model, sight, target
        self._logits: dict[int, Tensor] = {}
        self._transitions: dict[int, Tensor] = {}
        self._states: tuple[Tensor, ...] = ()
        self._shown: Tensor | None = None
        self._guessing = False

    def run(
        self, canvas: Int[Tensor, "batch canvas"], exits: Int[Tensor, "batch canvas"] | None
    ) -> ElmerOutput:
        """Go through the layers and ask those exits that learn."""
        model, target = self._model, self._target
        seen = None
        if target is not None and model.training and model.config.glancing and exits is None:
            canvas, seen = self._glanced(canvas)
        self._climb(canvas, exits)
        depth = model.model.decoder.depth
        output = ElmerOutput(
            logits=self._said(depth),
            transitions=self._steps(depth),
            decoder_hidden_states=self._states,
            canvas_lengths=self._sight.canvas.sum(-1),
        )
        if target is not None:
            learn_all = model.config.exit_loss == "all" and exits is None
            learning = range(1, depth + 1) if learn_all else [depth]
            unscored = self._unscored(seen)
            losses = [
                loss_at(self._said(exit), target, transitions=self._steps(exit), unscored=unscored)
                for exit in learning
            ]
            output.loss, output.exit_losses = mean_of(losses), torch.stack(losses).detach()
        return output

    def _climb(self, canvas: Tensor, exits: Tensor | None) -> None:
        decoder = self._model.model.decoder
        begun = decoder.begin(self._model.embed(canvas), self._sight)
        hand_over = self._hand_over if self._model.config.soft_exit else None
        self._states = decoder(begun, self._sight, exits=exits, hand_over=hand_over)

    def _said(self, exit: int) -> Float[Tensor, "batch canvas vocab"]:
        if exit not in self._logits:
            self._logits[exit] = self._model.score(self._states[exit])
        return self._logits[exit]

    def _steps(self, exit: int) -> Tensor | None:
        if self._model.config.output_head != "dag":
            return None
        if exit not in self._transitions:
            lengths = self._sight.canvas.sum(-1)
            self._transitions[exit] = self._model.steps(self._states[exit], lengths)
        return self._transitions[exit]

    def _unscored(self, seen: Tensor | None) -> Bool[Tensor, "batch canvas"] | None:
        """Give the places whose answer was shown, on the canvas or between layers."""
        if self._model.config.soft_training == "published" or self._shown is None:
            return seen
        return self._shown if seen is None else seen | self._shown

    @torch.no_grad()
    def _glanced(self, canvas: Tensor) -> tuple[Tensor, Tensor]:
        """Guess, then put some of the answers on the canvas."""
        model, target = self._model, self._target
        assert target is not None
        self._guessing = True  # by itself: a shown answer is no guess
        self._climb(canvas, None)
        self._guessing = False
        depth = model.model.decoder.depth
        logits = self._said(depth)
        answers = aligned(logits, target, self._steps(depth))
        chosen = glance(logits.argmax(-1), answers, model.config.glancing)
        self._logits, self._transitions = {}, {}
        return torch.where(chosen, answers, canvas), chosen

    def _hand_over(self, exit: int, states: Tensor) -> Tensor:
        """Join the states with the tokens they say, or in training with some of the target's."""
        model, target = self._model, self._target
        self._logits[exit] = model.score(states)
        tokens = self._logits[exit].argmax(-1)
        mixing = model.training and not self._guessing
        if mixing and target is not None and target.kind == "plain":
            tokens = self._mixed(tokens, target.laid)
        return model.join(states, tokens)  # type: ignore[no-any-return]

    def _mixed(self, tokens: Tensor, answers: Tensor) -> Tensor:
        """Put the target's tokens where they are shown."""
        if self._shown is None or self._model.config.soft_training == "published":
            self._shown = shown_at_random(answers)
        return torch.where(self._shown, answers, tokens)
