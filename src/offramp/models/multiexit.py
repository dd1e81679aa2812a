"""Give a transformers model exits, without making it anything but a transformers model.

In:  a causal LM or encoder-decoder. Out: the same object, whose ``forward`` and ``generate`` can
     answer from any exit; with the original head they are the base's own, untouched.
Law: attaching exits changes no base logit and no base weight, bit for bit; only exits in use are
     computed, only at the positions asked for (tests/models/test_multiexit.py).
Not here: what exits compute (offramp.blocks), how they are combined (offramp.decoding), files
     (offramp.models.storage).

The class of the model becomes a subclass of its own class, of the same name, as FSDP does it
(docs/decisions/0002-same-class-name.md).
"""

import functools
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.loss.loss_utils import ForCausalLMLoss

from offramp.blocks.anatomy import Anatomy, Layout, anatomy_of
from offramp.blocks.projections import Block, Projection, new_projection
from offramp.blocks.watch import watch
from offramp.config import ORIGINAL, ExitName, VocabularyProjectionMode, parse_exit, parse_exits
from offramp.decoding.protocol import DecodingRule
from offramp.errors import ConfigError, ExitNotFoundError, InputError
from offramp.models.storage import save_beside
from offramp.models.view import View, keeper

EXITS = "exits"
"""Name of the submodule that holds the exits, and the prefix of their keys."""


class MultiExitModel:
    """What ``attach_exits`` adds to a model of transformers.

    Attributes:
        exits: The attached projections, by exit number as a string.
        default_decoding: What answers when a call does not say; None is the base's own head.
        layout: Where the parts of the base are, if the user had to say.
    """

    exits: nn.ModuleDict
    default_decoding: DecodingRule | None = None
    layout: Layout | None = None

    @property
    def anatomy(self) -> Anatomy:
        """The base's blocks, norm and head."""
        return anatomy_of(self, self.layout)  # type: ignore[arg-type]

    @property
    def depth(self) -> int:
        """Number of blocks, L."""
        return self.anatomy.depth

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding matrix."""
        model: Any = self
        embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
        return head is not None and embeddings.weight is head.weight

    @property
    def exit_numbers(self) -> tuple[int, ...]:
        """The attached exits, ascending."""
        return tuple(sorted(int(name) for name in self.exits))

    def exit_logits(
        self,
        input_ids: Int[Tensor, "batch seq"] | None = None,
        *,
        exits: Iterable[ExitName],
        positions: int | Tensor = 0,
        **inputs: Any,
    ) -> dict[ExitName, Float[Tensor, "*rows vocab"]]:
        """Ask several exits about the same text in one pass.

        Args:
            input_ids: Tokens, [B, T].
            exits: Numbers or ``"original"``; a number that is not attached is read as ``direct``.
            positions: As ``logits_to_keep`` of transformers: 0 all, n the last n, or indices.
            **inputs: Other inputs of the model, such as ``attention_mask``.

        Returns:
            For each exit its logits, [B, positions, V].

        Raises:
            ExitNotFoundError: The model has no such exit.
        """
        asked = tuple(parse_exit(exit) for exit in exits)
        numbers = self.check_exits(asked, attached_only=False)
        _, view = self._look(numbers, ORIGINAL in asked, positions, {"input_ids": input_ids, **inputs})
        return {exit: view.logits(exit) for exit in asked}

    def generate(
        self,
        inputs: Tensor | None = None,
        *args: Any,
        decoding: DecodingRule | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generate as transformers does; ``decoding`` chooses which exits answer.

        Args:
            inputs: As in transformers.
            *args: As in transformers.
            decoding: ``Contrast``, ``DoLa`` or ``FixedExit``; None is what was chosen at loading.
            **kwargs: As in transformers.

        Raises:
            ExitNotFoundError: The rule asks for an exit that the model does not have.
            InputError: The prompt is empty or longer than the model's context.
        """
        prompt = inputs if inputs is not None else kwargs.get("input_ids")
        if prompt is not None:
            check_prompt(self, prompt)
        rule = decoding if decoding is not None else self.default_decoding
        if rule is not None:
            check_rule(self, rule)
            kwargs["decoding"] = rule
        return super().generate(inputs, *args, **kwargs)  # type: ignore[misc]

    def check_exits(self, exits: Iterable[ExitName], *, attached_only: bool) -> tuple[int, ...]:
        """Give the numbers among some exits, if this model has them all.

        Raises:
            ExitNotFoundError: One does not exist, or is not attached and must be.
        """
        numbers = tuple(exit for exit in exits if exit != ORIGINAL)
        attached = self.exit_numbers
        listed = ", ".join(map(str, attached)) or "none"
        for exit in numbers:
            if exit > self.depth:
                raise ExitNotFoundError(
                    f"exit {exit} does not exist: the model has {self.depth} blocks; "
                    f"attached exits: {listed}"
                )
            if attached_only and exit not in attached:
                raise ExitNotFoundError(
                    f"exit {exit} is not attached; attached exits: {listed}. Attach it by "
                    f"MultiExitConfiguration(lm_head_layer_indices=({exit},))"
                )
        return numbers

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Save the base as a plain checkpoint and the exits beside it.

        Args:
            save_directory: Folder, made if missing.
            **kwargs: As in transformers.
        """
        save_beside(self, save_directory, **kwargs)

    def _look(
        self,
        numbers: tuple[int, ...],
        original: bool,
        positions: int | Tensor,
        inputs: dict[str, Any],
    ) -> tuple[Any, View]:
        """Run the base once, as deep as needed, and give its output with the exits' view."""
        anatomy = self.anatomy
        keep = keeper(positions)
        projections: Mapping[int, Projection] = {
            exit: self.exits[str(exit)] for exit in numbers if str(exit) in self.exits  # type: ignore[misc]
        }
        deepest = anatomy.depth if original else max(numbers, default=anatomy.depth)
        blocks = any(isinstance(each, Block) for each in projections.values())
        with watch(
            anatomy,
            numbers,
            keep=keep,
            run_head=original,
            last_block=max(deepest, 1),
            calls=(anatomy.depth - 1,) if blocks else (),
        ) as seen:
            forward = type(self).base_forward  # type: ignore[attr-defined]
            outputs = forward(self, **inputs, return_dict=True)
        view = View(
            anatomy=anatomy,
            seen=seen,
            projections=projections,
            keep=keep,
            base_logits=outputs.logits if original else None,
        )
        return outputs, view

    def _prepare_encoder_decoder_kwargs_for_generation(
        self, inputs_tensor: Tensor, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """Keep the decoding rule from the encoder, which would be handed every unknown argument."""
        rule = model_kwargs.pop("decoding", None)
        prepared = super()._prepare_encoder_decoder_kwargs_for_generation(  # type: ignore[misc]
            inputs_tensor, model_kwargs, *args, **kwargs
        )
        return prepared if rule is None else {**prepared, "decoding": rule}


def forward_with_exits(model: Any, rule: DecodingRule, inputs: dict[str, Any]) -> Any:
    """Run the base and put the rule's scores in place of its logits, at every position asked for."""
    labels = inputs.pop("labels", None)
    as_dict = inputs.pop("return_dict", None)
    items = inputs.pop("num_items_in_batch", None)
    shift = inputs.pop("shift_labels", None)
    if labels is not None and model.config.is_encoder_decoder:
        shift = labels
        if inputs.get("decoder_input_ids") is None and inputs.get("decoder_inputs_embeds") is None:
            inputs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels)
    exits = rule.exits(model)
    numbers = model.check_exits(exits, attached_only=rule.attached_only)
    positions = inputs.pop("logits_to_keep", 0)
    outputs, view = model._look(numbers, ORIGINAL in exits, positions, inputs)
    outputs.logits = rule.scores(view, model)
    if labels is not None:
        outputs.loss = ForCausalLMLoss(
            outputs.logits,
            labels,
            outputs.logits.shape[-1],
            num_items_in_batch=items,
            shift_labels=shift,
        )
    wants_tuple = as_dict is False or (as_dict is None and not model.config.return_dict)
    return outputs.to_tuple() if wants_tuple else outputs


@functools.cache
def multi_exit_class(base: type) -> type:
    """Make the subclass of a transformers class whose forward knows exits."""
    signature = inspect.signature(base.forward)  # type: ignore[attr-defined]
    names = list(signature.parameters)[1:]

    def forward(self: Any, *args: Any, decoding: DecodingRule | None = None, **kwargs: Any) -> Any:
        rule = decoding if decoding is not None else self.default_decoding
        if rule is None:
            return base.forward(self, *args, **kwargs)  # type: ignore[attr-defined]
        return forward_with_exits(self, rule, {**dict(zip(names, args, strict=False)), **kwargs})

    extra = inspect.Parameter("decoding", inspect.Parameter.KEYWORD_ONLY, default=None)
    parameters = list(signature.parameters.values())
    last_is_wild = parameters[-1].kind is inspect.Parameter.VAR_KEYWORD
    parameters.insert(len(parameters) - last_is_wild, extra)
    forward.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    forward.__doc__ = base.forward.__doc__  # type: ignore[attr-defined]
    body = {
        "forward": forward,
        "base_class": base,
        "base_forward": staticmethod(base.forward),  # type: ignore[attr-defined]
        "__module__": base.__module__,
        "__doc__": f"{base.__name__} with exits (offramp.models.multiexit).",
    }
    return type(base.__name__, (MultiExitModel, base), body)


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
            f"exit {numbers[-1]} does not exist: {type(model).__name__} has {anatomy.depth} blocks; "
            f"use exits from 0 to {anatomy.depth}"
        )
    for exit in numbers:
        model.exits[str(exit)] = new_projection(mode, anatomy, exit)
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
    model.__class__ = multi_exit_class(type(model))
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
    watching = watch(
        anatomy, (anatomy.depth,), keep=keep, run_head=True, last_block=anatomy.depth
    )
    model.eval()
    with torch.no_grad(), watching as seen:
        own = model(input_ids=token, use_cache=False, return_dict=True, **inputs).logits
        state = seen.states.get(anatomy.depth)
        head_input = seen.finished()
        told = None
        if state is not None and anatomy.finish(state).shape[-1] == head_input.shape[-1]:
            told = anatomy.head(anatomy.finish(state))
    model.train(was_training)
    ours = None if told is None else View.complete(anatomy, told)
    if ours is None or not torch.allclose(ours, own.to(ours), rtol=1e-3, atol=1e-3):
        raise ConfigError(
            f"{type(model).__name__}: the last block's state through norm and head does not give "
            "the model's own logits, so its exits would be wrong; name its parts by "
            "layout=Layout(stack=..., blocks=..., finish=(...))"
        )


def check_rule(model: Any, rule: object) -> None:
    """Refuse a decoding rule that the model cannot follow, before anything is computed.

    Raises:
        ConfigError: Not a decoding rule.
        ExitNotFoundError: It asks for an exit that the model does not have.
    """
    if not isinstance(rule, DecodingRule):
        raise ConfigError(
            f"decoding must be Contrast, DoLa, FixedExit or the like, got {type(rule).__name__}"
        )
    model.check_exits(rule.exits(model), attached_only=rule.attached_only)


def check_prompt(model: Any, prompt: Tensor) -> None:
    """Refuse a prompt that is empty or does not fit the model's context.

    Raises:
        InputError: Either of them.
    """
    if prompt.shape[-1] == 0:
        raise InputError("the prompt has no tokens; give at least one")
    context = getattr(model.config, "max_position_embeddings", None)
    if not model.config.is_encoder_decoder and context and prompt.shape[-1] >= context:
        raise InputError(
            f"the prompt has {prompt.shape[-1]} tokens, the model's context {context}; shorten it "
            f"to at most {context - 1}"
        )
