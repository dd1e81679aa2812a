"""Let each position leave the layers as soon as it is sure.

In:  states below the first layer, and a rule. Out: every position's last states, and its exit.
Law: a rule that never says yes gives the states of all layers; a layer is run for live positions
     only, and not at all once none is left; a position that left by its scores is not scored
     again; a row does not depend on its batch mates
     (tests/models/elmer/test_leaving.py).
Not here: the measures (offramp.logits.rules, offramp.blocks.gates), reading texts (.reading).
Source: Li et al. 2022, "ELMER", arXiv:2210.13304, section 3.3 (hard exit, states copied upward).

Keys and values of a later layer are still made from the states of positions that left: that is
what copying means, and costs a quarter of a layer. What is saved is their queries, their
cross-attention and their feed-forward part.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from offramp.blocks.gates import Gate
from offramp.decoding.judge import BY_SCORES
from offramp.decoding.oneshot import OneShot
from offramp.errors import ConfigError
from offramp.logits.rules import saturation
from offramp.models.elmer.decoder import Sight


def gates_for(config: Any, like: Tensor | None = None) -> nn.ModuleDict:
    """Make an undecided gate for each exit but the last."""
    exits = range(1, config.decoder_layers)
    return nn.ModuleDict({str(exit): Gate(config.d_model, like) for exit in exits})


def add_gates_(model: Any) -> None:
    """Give a model a gate for each exit but the last, undecided ones, if it has none.

    Args:
        model: ``ElmerForConditionalGeneration``; its configuration says so from then on.
    """
    if not model.config.gates:
        model.gates = gates_for(model.config, like=model.lm_head.weight)
        model.config.gates = True


AT_ONCE = 32
"""Rows of scores that are measured at a time: few enough to stay in a processor's cache."""

Said: TypeAlias = tuple[tuple[Tensor, Tensor], Tensor]
"""Rows and places, and the scores of these, [some, V]."""


@dataclass(frozen=True)
class Left:
    """Where everybody left.

    Attributes:
        states: The last of each position, [B, N, D].
        exits: The exit it left at, [B, N].
        layers: Positions that each layer was run for, [L].
        said: What positions said when they left, where the rule had them scored.
    """

    states: Float[Tensor, "batch canvas width"]
    exits: Int[Tensor, "batch canvas"]
    layers: Int[Tensor, " layers"]
    said: tuple[Said, ...] = ()

    def scored(self, model: Any) -> Float[Tensor, "batch canvas vocab"]:
        """Give what all positions say, each scored once; may be changed in place."""
        if not self.said:
            return model.score(self.states)  # type: ignore[no-any-return]
        known = torch.zeros_like(self.exits, dtype=torch.bool)
        _, first = self.said[0]
        if len(first) == known.numel():  # all left at once
            return first.view(*known.shape, -1)
        logits = first.new_empty(*known.shape, first.shape[-1])
        for at, some in self.said:
            logits[at], known[at] = some, True
        rest = (~known).nonzero(as_tuple=True)
        logits[rest] = model.score(self.states[rest])
        return logits


def climb(
    model: Any,
    canvas: Int[Tensor, "batch canvas"],
    sight: Sight,
    settings: OneShot,
    *,
    passed: list[Tensor] | None = None,
) -> Left:
    """Take canvases up, as far as the rule wants.

    Args:
        model: ``ElmerForConditionalGeneration``.
        canvas: What stands on them.
        sight: What the layers may look at.
        settings: The rule.
        passed: Is filled, if given, with the states at exits 0 to L, of a position that left those
            it left with.

    Raises:
        ConfigError: The rule asks for gates that the model lacks, or for exits that there are not.
    """
    decoder = model.model.decoder
    begun = decoder.begin(model.embed(canvas), sight)
    judge = Judge(model, settings, canvas)
    if settings.exit_rule is None:
        hand_over = judge.hand_over if model.config.soft_exit else None
        all_states = decoder(begun, sight, hand_over=hand_over)
        if passed is not None:
            passed += all_states
        count = sight.canvas.sum().expand(decoder.depth)
        return Left(all_states[-1], torch.full_like(canvas, decoder.depth), count)
    states = [begun]
    note = None if passed is None else states.append
    left = _climb_live(model, begun, sight, judge, note=note)
    if passed is not None:
        passed += states + states[-1:] * (decoder.depth + 1 - len(states))
    return left


def _climb_live(
    model: Any,
    everything: Tensor,
    sight: Sight,
    judge: "Judge",
    *,
    note: Callable[[Tensor], None] | None,
) -> Left:
    decoder = model.model.decoder
    live, exits = sight.canvas.clone(), torch.full(sight.canvas.shape, decoder.depth)
    exits = exits.to(live.device)
    layers = torch.zeros(decoder.depth, dtype=torch.long)
    for number in range(1, decoder.depth + 1):
        rows = live.any(-1).nonzero()[:, 0]
        if not len(rows):
            break
        counts = live[rows].sum(-1)
        layers[number - 1] = counts.sum()
        places = (~live[rows]).long().argsort(dim=-1, stable=True)[:, : int(counts.max())]
        row, where = rows[:, None], places
        real = torch.arange(places.shape[1], device=live.device) < counts[:, None]
        some = everything[row, where]
        new = decoder.run_some(number, some, everything[rows], sight.rows(rows))
        everything = everything.index_put((row, where), torch.where(real[..., None], new, some))
        if note is not None:
            note(everything)
        if number == decoder.depth:
            break
        at = (row.expand_as(where)[real], where[real])
        gone = judge.sure(number, new[real], some[real], at)
        exits[at] = torch.where(gone, number, exits[at])
        live[at] = ~gone
        if model.config.soft_exit:
            stay = (at[0][~gone], at[1][~gone])
            joined = judge.hand_over(number, new[real][~gone])
            everything = everything.index_put(stay, joined)
    return Left(everything, exits, layers.to(live.device), tuple(judge.said))


class Judge:
    """Says which positions may leave.

    Attributes:
        said: What those who left had to say for it.
    """

    def __init__(self, model: Any, settings: OneShot, canvas: Tensor) -> None:
        self._model, self._settings = model, settings
        depth = model.model.decoder.depth
        asked = range(1, depth) if settings.exits is None else settings.exits
        strange = [exit for exit in asked if not 1 <= exit <= depth]
        if strange:
            raise ConfigError(f"exits must be from 1 to {depth}, got {strange}")
        if settings.exit_rule == "gate" and not model.config.gates:
            raise ConfigError(
                "this model has no gates; use exit_rule 'entropy', or train gates first"
            )
        if settings.min_exit > depth:
            raise ConfigError(f"min_exit must be at most {depth}, got {settings.min_exit}")
        self._asked = {exit for exit in asked if exit >= settings.min_exit}
        self._best = torch.full_like(canvas, -1)
        self._agreed = torch.zeros_like(canvas)
        self.said: list[Said] = []

    def sure(
        self,
        exit: int,
        new: Float[Tensor, "some width"],
        before: Float[Tensor, "some width"],
        at: tuple[Tensor, Tensor],
    ) -> Bool[Tensor, " some"]:
        """Say which of some positions leave at an exit.

        Args:
            exit: Which.
            new: Their states there.
            before: Their states one layer below.
            at: Their rows and places.
        """
        rule, threshold = self._settings.exit_rule, self._settings.threshold or 0.0
        if rule == "patience":
            logits = self._model.score(new)
            best = logits.argmax(-1)
            self._agreed[at] = torch.where(best == self._best[at], self._agreed[at] + 1, 1)
            self._best[at] = best
            gone = (self._agreed[at] >= threshold) & (exit in self._asked)
            return self._heard(logits, gone, at)
        if exit not in self._asked:
            return torch.zeros(len(new), dtype=torch.bool, device=new.device)
        if rule == "gate":
            gate = self._model.gates[str(exit)]
            return gate.leaves(gate.confidence(new), self._settings.threshold)  # type: ignore[no-any-return]
        if rule == "saturation":
            return saturation(new, before) > threshold
        assert rule is not None
        logits = self._model.score(new)
        confidence = torch.cat([BY_SCORES[rule](some) for some in logits.split(AT_ONCE)])
        return self._heard(logits, confidence > threshold, at)

    def _heard(self, logits: Tensor, gone: Tensor, at: tuple[Tensor, Tensor]) -> Tensor:
        """Keep what those say who leave: the head need not be asked again."""
        if bool(gone.all()):
            self.said.append((at, logits))
        elif bool(gone.any()):
            self.said.append(((at[0][gone], at[1][gone]), logits[gone]))
        return gone

    def hand_over(
        self, exit: int, states: Float[Tensor, "*rows width"]
    ) -> Float[Tensor, "*rows width"]:
        """Join states with the tokens they say."""
        return self._model.join(  # type: ignore[no-any-return]
            states, self._model.score(states).argmax(-1)
        )
