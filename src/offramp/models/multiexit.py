"""Give a transformers model exits, without making it anything but a transformers model.

In:  the class of a causal LM or encoder-decoder. Out: a subclass whose ``forward`` and ``generate``
     can answer from any exit; with the original head they are the base's own, untouched.
Law: attaching exits changes no base logit and no base weight, bit for bit; only exits in use are
     computed, only at the positions asked for (tests/models/test_multiexit.py).
Not here: giving a model its exits (offramp.models.attach), what they compute (offramp.blocks), how
     they are combined (offramp.decoding), files (offramp.models.storage).

The class of the model becomes a subclass of its own class, of the same name, as FSDP does it
(docs/decisions/0002-same-class-name.md).
"""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.loss.loss_utils import ForCausalLMLoss

from offramp.blocks.anatomy import Anatomy, Layout, anatomy_of
from offramp.blocks.projections import Block
from offramp.blocks.watch import watch
from offramp.config import ORIGINAL, ExitName, parse_exit
from offramp.decoding.calibrated import Calibrated
from offramp.decoding.protocol import DecodingLoop, DecodingRule
from offramp.errors import ConfigError, ExitNotFoundError, InputError
from offramp.models.context import context_of
from offramp.models.loops import LoopParts, run_loop
from offramp.models.storage import save_beside
from offramp.models.tracing import TraceParts
from offramp.models.view import View, keeper


class MultiExitModel(LoopParts, TraceParts):
    """What ``attach_exits`` adds to a model of transformers.

    Attributes:
        exits: The attached projections, by exit number as a string.
        default_decoding: What answers when a call does not say; None is the base's own head.
        calibration: What ``offramp calibrate`` found for these exits, or None.
        exits_from: Folder that the exits were loaded from, if it keeps them apart.
        layout: Where the parts of the base are, if the user had to say.
    """

    base_class: ClassVar[type]
    base_forward: ClassVar[Callable[..., Any]]
    exits: nn.ModuleDict
    default_decoding: DecodingRule | None = None
    calibration: Calibrated | None = None
    exits_from: str | None = None
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
        _, view = self._look(
            numbers, ORIGINAL in asked, positions, {"input_ids": input_ids, **inputs}
        )
        return {exit: view.logits(exit) for exit in asked}

    def generate(
        self,
        inputs: Tensor | None = None,
        *args: Any,
        decoding: object | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generate as transformers does; ``decoding`` chooses which exits answer.

        Args:
            inputs: As in transformers.
            *args: As in transformers.
            decoding: ``Contrast``, ``DoLa``, ``FixedExit``, ``EarlyExit``, ``SelfSpeculation`` or
                ``Autoregressive``; None is what was chosen at loading, and
                ``FixedExit(exit="original")`` the base's own head whatever was chosen.
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
        if isinstance(rule, DecodingLoop):
            write = run_loop(rule, kwargs.pop("streamer", None))
            return super().generate(inputs, *args, custom_generate=write, **kwargs)  # type: ignore[misc]
        if rule is not None:
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
        projections = self.projections_of(numbers)
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
            forward = type(self).base_forward
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
    """Run the base and put the rule's scores in place of its logits, at each position kept."""
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


def check_rule(model: Any, rule: object) -> None:
    """Refuse a decoding rule that the model cannot follow, before anything is computed.

    Raises:
        ConfigError: Not a decoding rule.
        ExitNotFoundError: It asks for an exit that the model does not have.
    """
    if isinstance(rule, DecodingLoop):
        rule.check(model)
        return
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
    context = context_of(model.config)
    if not model.config.is_encoder_decoder and context and prompt.shape[-1] >= context:
        raise InputError(
            f"the prompt has {prompt.shape[-1]} tokens, the model's context {context}; shorten it "
            f"to at most {context - 1}"
        )
