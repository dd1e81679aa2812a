"""Read an exit: five ways from a state to scores of the vocabulary.

In:  the state of one exit. Out: what a vocabulary head reads, and which head reads it.
Law: a fresh exit says what the base's own head would say about the state (tests/blocks/
     test_projections.py), except ``block``, which runs one more block first.
Not here: which positions and which exits (offramp.models.multiexit).
Sources: head, Gera et al. 2023, arXiv:2305.01628; cast, Din et al. 2023, arXiv:2303.09435;
     lens, Belrose et al. 2023, arXiv:2303.08112; block, Pan et al. 2024 (EE-Tuning),
     arXiv:2402.00518.

Every projection is ``prepare`` (state to head input) and a head: the base's, or an own one for
``head``. So one row of scores, or a few tokens of it, is a product with some rows of that head.
"""

import copy
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from offramp.blocks.anatomy import Anatomy
from offramp.blocks.gates import Gate
from offramp.blocks.watch import BlockCall, state_of
from offramp.config import VocabularyProjectionMode as Mode
from offramp.errors import ConfigError


class _Exit(nn.Module):
    """What every exit can have: a gate, which tells whether its answer would be the last one."""

    gate: Gate | None

    def __init__(self) -> None:
        super().__init__()
        self.gate = None


class _Normed(_Exit):
    """Hands a state to its head by the base's last norm alone."""

    def prepare(
        self, anatomy: Anatomy, state: Float[Tensor, "*rows width"]
    ) -> Float[Tensor, "*rows out"]:
        """Give what the head reads."""
        return anatomy.finish(state)


class Direct(_Normed):
    """``direct``: the base's norm and head. No parameters."""

    mode = Mode.SHARED_PROJECTION_DIRECT


class Head(_Normed):
    """``head``: the base's norm, then an own bias-free matrix [V, D]."""

    mode = Mode.LAYER_SPECIFIC_PROJECTION

    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        weight = _plain_weight(like)
        vocab, width = weight.shape
        self.linear = nn.Linear(width, vocab, bias=False, device=weight.device, dtype=weight.dtype)
        with torch.no_grad():
            self.linear.weight.copy_(weight)


class Cast(_Exit):
    """``cast``: the base's norm, a bias-free matrix [D, D] that starts as the identity."""

    mode = Mode.SHARED_PROJECTION_CAST_OUTPUTS

    def __init__(self, width: int, like: Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width, bias=False, device=like.device, dtype=like.dtype)
        with torch.no_grad():
            self.linear.weight.copy_(torch.eye(width))

    def prepare(
        self, anatomy: Anatomy, state: Float[Tensor, "*rows width"]
    ) -> Float[Tensor, "*rows out"]:
        """Give what the head reads."""
        return self.linear(anatomy.finish(state))  # type: ignore[no-any-return]


class Lens(_Exit):
    """``lens``: state + A state + b before the base's norm; A [D, D] and b [D] start at zero."""

    mode = Mode.TUNED_LENS

    def __init__(self, width: int, like: Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width, device=like.device, dtype=like.dtype)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def prepare(
        self, anatomy: Anatomy, state: Float[Tensor, "*rows width"]
    ) -> Float[Tensor, "*rows out"]:
        """Give what the head reads."""
        return anatomy.finish(state + self.linear(state))


class Block(_Normed):
    """``block``: one more block, a copy of the base's last at the start, then norm and head.

    ``prepare`` takes the output of ``run``. It keeps its own keys and values as an extra layer at
    the end of the base's cache, so that beams, crops and selections of rows move them along.
    """

    mode = Mode.EXTRA_BLOCK

    cache_index: int

    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        self.block = copy.deepcopy(like)

    def use_cache_layer_(self, index: int) -> None:
        """Keep keys and values in this layer of the cache."""
        self.cache_index = index
        for module in self.block.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index  # type: ignore[assignment]

    def run(
        self, state: Float[Tensor, "batch seq width"], call: BlockCall
    ) -> Float[Tensor, "batch seq width"]:
        """Run the extra block as the base ran its last one, on all positions.

        Raises:
            ConfigError: The cache did not see the positions before these.
        """
        args, named = call
        for value in (*args, *named.values()):
            _make_room_(value, self.cache_index, new_tokens=state.shape[1])
        return state_of(self.block(state, *args, **named))


Projection = Direct | Head | Cast | Lens | Block


def new_projection(mode: Mode, anatomy: Anatomy, exit: int) -> Projection:
    """Make a fresh exit that starts by saying what the base's head would say.

    Args:
        mode: Which of the five.
        anatomy: The base's parts.
        exit: 0 to L. At L there is nothing to bridge: all but ``head`` are ``direct`` there.

    Raises:
        ConfigError: ``head`` on a base whose own head has no plain weight to copy.
    """
    like = _parameter_near(anatomy, exit)
    if mode is Mode.LAYER_SPECIFIC_PROJECTION:
        return Head(anatomy.head)
    if mode is Mode.SHARED_PROJECTION_DIRECT or exit == anatomy.depth:
        return Direct()
    if mode is Mode.EXTRA_BLOCK:
        return Block(anatomy.blocks[-1])
    if mode is Mode.SHARED_PROJECTION_CAST_OUTPUTS:
        return Cast(_plain_width(anatomy.head), like)
    return Lens(_state_width(anatomy), like)


def add_gate_(projection: Projection, anatomy: Anatomy, exit: int) -> Gate:
    """Give an exit an untrained gate, in place of the one it may have."""
    projection.gate = Gate(_state_width(anatomy), _parameter_near(anatomy, exit))
    return projection.gate


def can_gather(head: nn.Module) -> bool:
    """Tell whether single rows of a head can be read: a plain, unquantised linear layer.

    A head that is run otherwise may say by ``same_weights`` which layer has its weights.
    """
    head = _same_weights(head)
    weight = getattr(head, "weight", None)
    return type(head) is nn.Linear and type(weight) in (nn.Parameter, Tensor)


def gathered_scores(
    head: nn.Module,
    prepared: Float[Tensor, "rows width"],
    tokens: Int[Tensor, "rows candidates"],
) -> Float[Tensor, "rows candidates"]:
    """Score some tokens of each row: as many dot products as tokens, not the vocabulary.

    Args:
        head: A head that ``can_gather``.
        prepared: What the head reads, R rows.
        tokens: Ids, C per row.
    """
    head = _same_weights(head)
    weight: Tensor = head.weight  # type: ignore[assignment]
    tokens, prepared = tokens.to(weight.device), prepared.to(weight.device)
    scores = torch.bmm(weight[tokens], prepared.unsqueeze(-1)).squeeze(-1)
    bias: Tensor | None = head.bias  # type: ignore[assignment]
    return scores if bias is None else scores + bias[tokens]


def _same_weights(head: nn.Module) -> nn.Module:
    same = getattr(head, "same_weights", None)
    return same if isinstance(same, nn.Module) else head


def _make_room_(value: Any, index: int, *, new_tokens: int) -> None:
    """See that a cache has a layer for the extra block, as long as the base's were before."""
    cache = getattr(value, "self_attention_cache", value)
    if not hasattr(cache, "get_seq_length"):
        return
    for part in (cache, getattr(value, "cross_attention_cache", None)):
        layers = getattr(part, "layers", ())
        if layers and not getattr(layers[0], "is_croppable", False):
            raise ConfigError(
                f"'block' exits need a dynamic cache, got {type(layers[0]).__name__}; leave "
                "cache_implementation at its default"
            )
        while layers and len(layers) <= index:
            layers.append(_empty_like(layers[-1]))
    before = cache.get_seq_length() - new_tokens
    if cache.get_seq_length(index) != before:
        raise ConfigError(
            f"this cache saw {before} tokens, the 'block' exit {cache.get_seq_length(index)} of "
            "them; use the exit from the first token on, with an empty cache"
        )


def _empty_like(layer: Any) -> Any:
    window = getattr(layer, "sliding_window", None)
    return type(layer)() if window is None else type(layer)(window)


def _parameter_near(anatomy: Anatomy, exit: int) -> Tensor:
    """A floating-point parameter of the block before the exit: exits live on its device."""
    block = anatomy.blocks[max(exit - 1, 0)]
    for parameter in (*block.parameters(), *anatomy.head.parameters()):
        if parameter.dtype.is_floating_point:
            return parameter
    raise ConfigError("the base has no floating-point parameter; give the exits a dtype by .to()")


def _plain_weight(head: nn.Module) -> Tensor:
    if not can_gather(head):
        raise ConfigError(
            f"'head' exits copy the base's head, and {type(head).__name__} holds no plain weight; "
            "use 'lens' or 'cast', or load the base without quantising its head"
        )
    return head.weight  # type: ignore[return-value]


def _plain_width(head: nn.Module) -> int:
    return int(getattr(head, "in_features", 0)) or _plain_weight(head).shape[1]


def _state_width(anatomy: Anatomy) -> int:
    for module in anatomy.finishers:
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor):
            return int(weight.shape[-1])
    return _plain_width(anatomy.head)
