"""Attach exits to a loaded model.

In:  a causal LM or encoder-decoder of transformers. Out: the same object, with exits.
Law: attaching exits changes no base logit and no base weight, bit for bit; exits whose scores would
     be wrong are refused (tests/models/test_multiexit.py).
Not here: what the model can do then (offramp.models.multiexit).
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from offramp.blocks.anatomy import Anatomy, Layout, anatomy_of
from offramp.blocks.projections import Block, new_projection
from offramp.blocks.watch import watch
from offramp.config import VocabularyProjectionMode, parse_exits
from offramp.errors import ConfigError, ExitNotFoundError
from offramp.models.multiexit import MultiExitModel, multi_exit_class
from offramp.models.view import View, keeper


def attach_exits(
    model: Any,
    exits: str | Iterable[int],
    projection: VocabularyProjectionMode | str = "direct",
    *,
    layout: Layout | None = None,
) -> Any:
    """Attach fresh exits to a loaded model, in place, and give it back.

    Args:
        model: A causal LM or encoder-decoder of transformers, with or without exits.
        exits: Exit numbers, 0 to L, such as ``(6, 12)`` or ``"6;12"``.
        projection: How they read their state; see ``VocabularyProjectionMode``.
        layout: Where the parts of the model are, for a family that is not known.

    Raises:
        UnknownLayoutError: The parts of the model cannot be found.
        ExitNotFoundError: The model has fewer blocks.
        ConfigError: The exits are empty, doubled or out of order, or do not suit the model.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> config = LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8,
        ...     num_hidden_layers=3, num_attention_heads=2)
        >>> attach_exits(LlamaForCausalLM(config), (1, 2), "lens").exit_numbers
        (1, 2)
    """
    numbers, mode = parse_exits(exits), VocabularyProjectionMode.parse(projection)
    model = with_exits(model, layout)
    anatomy = model.anatomy
    if numbers[-1] > anatomy.depth:
        raise ExitNotFoundError(
            f"exit {numbers[-1]} does not exist: {type(model).__name__} has {anatomy.depth} "
            f"blocks; use exits from 0 to {anatomy.depth}"
        )
    for exit in numbers:
        model.exits[str(exit)] = new_projection(mode, anatomy, exit)
    model.calibration = None  # it was found for other exits
    extra = [each for each in model.exits.values() if isinstance(each, Block)]
    for place, each in enumerate(extra):
        each.use_cache_layer_(anatomy.depth + place)
    return model.train(model.training)


def with_exits(model: Any, layout: Layout | None = None) -> Any:
    """Make a loaded model one that can have exits, in place; it has none yet.

    Raises:
        UnknownLayoutError: The parts of the model cannot be found.
        ConfigError: They were found by name, but do not give the model's own logits.
    """
    if isinstance(model, MultiExitModel):
        return model
    anatomy = anatomy_of(model, layout)
    if not anatomy.listed:
        probe(model, anatomy)
    model.__class__ = multi_exit_class(type(model))  # type: ignore[arg-type]
    model.layout, model.default_decoding, model.exits = layout, None, nn.ModuleDict()
    return model


def probe(model: Any, anatomy: Anatomy) -> None:
    """Run one token through a model of an unlisted family: exit L must be its own answer.

    Raises:
        ConfigError: It is not, so the layout that was found by name is not the true one.
    """
    keep, was_training = keeper(0), model.training
    token = torch.zeros(1, 2, dtype=torch.long, device=model.device) + 1
    inputs = {"decoder_input_ids": token} if model.config.is_encoder_decoder else {}
    watching = watch(anatomy, (anatomy.depth,), keep=keep, run_head=True, last_block=anatomy.depth)
    model.eval()
    with torch.no_grad(), watching as seen:
        own = model(input_ids=token, use_cache=False, return_dict=True, **inputs).logits
        state = seen.states.get(anatomy.depth)
        head_input = seen.finished()
        told = None
        if state is not None and state.dim() == 3:  # some families keep several streams
            finished = anatomy.finish(state)
            if finished.shape == head_input.shape:
                told = View.complete(anatomy, anatomy.head(finished))
    model.train(was_training)
    if told is None or not torch.allclose(told, own.to(told), rtol=1e-3, atol=1e-3):
        raise ConfigError(
            f"{type(model).__name__}: the last block's state through norm and head does not give "
            "the model's own logits, so its exits would be wrong; name its parts by "
            "layout=Layout(stack=..., blocks=..., finish=(...))"
        )
