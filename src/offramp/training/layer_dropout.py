"""Teach a base to answer from its earlier blocks: when exits learn, how often blocks are left out.

In:  the number of blocks, and how far the training is. Out: weights of exits, and blocks that hand
     some rows on as they are.
Law: at the end of the curriculum every exit counts, deeper ones more; the first block is never
     left out (tests/training/test_layer_dropout.py).
Source: Elhoushi et al. 2024, "LayerSkip", arXiv:2404.16710, sections 4.1 and 4.2. Differs from the
     paper: exits have their own projections if attached with any; scales are normalised over the
     exits in use, not over all; exits 0 and 1, whose scale the paper sets to 0, count a quarter and
     half of exit 2, else they would never be trained; rotation takes one exit a step, not every
     R-th; rates of dropout do not grow with time (the paper's setting for a pretrained base).

The defaults of ``TrainSettings(unfreeze=True)`` and ``--unfreeze`` are those of exits alone and
differ from the paper's training: exits learn by distillation from a last layer that moves, where
the paper has the next-token loss at every exit; all losses, also of the base's own head, are taken
at a quarter of the positions, not at all; the learning rate, 1e-3, was chosen for exits beside a
frozen base, not for a whole model; no block is left out; fresh exits are ``lens``, where the paper
has the base's head alone. Nearer to it: ``--objective next-token --positions 1 --projection
direct``, with ``--layer-dropout`` and a ``--learning-rate`` for the base. Neither was measured here
at a size that tells which is better.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from offramp.config import ORIGINAL, ExitName

Curriculum = Literal["none", "gradual", "rotating"]
EARLY = 0.2
"""The paper's scale of all losses but the last layer's."""
CURRICULA: tuple[Curriculum, ...] = ("none", "gradual", "rotating")


def exit_scales(
    exits: Sequence[ExitName], *, depth: int, curriculum: Curriculum, step: int, progress: float
) -> dict[ExitName, float]:
    """Weigh the losses of exits at one step.

    Args:
        exits: Those in use; ``"original"`` counts as exit L.
        depth: L.
        curriculum: ``gradual`` adds exits from the deepest down during the first half, ``rotating``
            takes one exit beside the deepest at each step, in turn, ``none`` takes all.
        step: Number of the step.
        progress: How much of the training is done, 0 to 1.

    Returns:
        Weights that sum to 1, deeper exits more (paper, section 4.2, with its scale of 0.2).

    Example:
        >>> scales = exit_scales((2, 4), depth=4, curriculum="none", step=0, progress=0.0)
        >>> {exit: round(scale, 3) for exit, scale in scales.items()}
        {2: 0.053, 4: 0.947}
    """
    numbers = {exit: depth if exit == ORIGINAL else int(exit) for exit in exits}
    ordered = sorted(exits, key=lambda exit: (numbers[exit], exit == ORIGINAL), reverse=True)
    active = ordered
    if curriculum == "gradual":
        active = ordered[: max(1, math.ceil(len(ordered) * min(1.0, 2 * progress)))]
    elif curriculum == "rotating" and len(ordered) > 1:
        active = [ordered[0], ordered[1 + step % (len(ordered) - 1)]]
    scale = {exit: _scale(numbers[exit], depth) for exit in active}
    total = sum(scale.values())
    return {exit: scale.get(exit, 0.0) / total for exit in exits}


def _scale(number: int, depth: int) -> float:
    """Give the paper's e(l) of the exit after block l = number - 1, before normalising."""
    if number == depth:
        return max(depth - 1, 1) + EARLY * sum(range(depth - 1))
    return EARLY * max(sum(range(number)), (number + 1) / 4)


def dropout_rates(depth: int, highest: float) -> list[float]:
    """Give how often each block is left out: never the first, the last with ``highest``.

    Example:
        >>> [round(rate, 2) for rate in dropout_rates(3, 0.2)]
        [0.0, 0.08, 0.2]
    """
    return [highest * (2 ** (block / max(depth - 1, 1)) - 1) for block in range(depth)]


@contextmanager
def layers_dropped(
    blocks: nn.ModuleList, rates: Sequence[float], *, generator: torch.Generator
) -> Iterator[None]:
    """Let blocks hand some rows of the batch on as they are, drawn anew at every call."""

    def leaving(rate: float) -> Any:
        def after(_: nn.Module, args: Any, named: Mapping[str, Any], output: Any) -> Any:
            state = args[0] if args else named["hidden_states"]
            stays = torch.rand(state.shape[0], generator=generator) < rate
            out: Tensor = output[0] if isinstance(output, tuple) else output
            kept = torch.where(stays.to(out.device)[:, None, None], state, out)
            return (kept, *output[1:]) if isinstance(output, tuple) else kept

        return after

    with ExitStack() as restore:
        for block, rate in zip(blocks, rates, strict=True):
            if rate > 0:
                handle = block.register_forward_hook(leaving(rate), with_kwargs=True)
                restore.callback(handle.remove)
        yield
