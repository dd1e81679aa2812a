"""Run the layers of a decoder that sees its whole canvas.

In:  states of a canvas and what its layers may look at. Out: the states after each layer.
Law: a position sees every position of its own canvas, before and behind, and nothing of the
     padding; running all positions "some at a time" gives what running them at once gives
     (tests/models/elmer/test_decoder.py).
Not here: what the canvas holds and what its states say (offramp.models.elmer.modeling, .writing).
Source: Li et al. 2022, "ELMER", arXiv:2210.13304. BART's own parts do the work: its decoder masks
     the tokens to come unless told otherwise, by its mask and by ``is_causal`` of its attention.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.bart.modeling_bart import BartDecoder

from offramp.errors import InputError
from offramp.models.elmer.canvas import spread_over
from offramp.models.elmer.heads import Spread

States: TypeAlias = Float[Tensor, "batch canvas width"]
HandOver: TypeAlias = Callable[[int, States], States]
"""What happens to the states between layer k and the next one, given k and the states."""


@dataclass(frozen=True)
class Sight:
    """What the layers may look at.

    Attributes:
        canvas: Places of the canvas that exist, [B, N].
        source: States of the source, [B, S, D].
        source_mask: Tokens of the source that exist, [B, S]; None is all.
    """

    canvas: Bool[Tensor, "batch canvas"]
    source: Float[Tensor, "batch source width"]
    source_mask: Bool[Tensor, "batch source"] | None

    def rows(self, chosen: Int[Tensor, " rows"]) -> "Sight":
        """Give that of some rows."""
        mask = None if self.source_mask is None else self.source_mask[chosen]
        return Sight(self.canvas[chosen], self.source[chosen], mask)


def sight_of(
    source: Float[Tensor, "batch source width"],
    source_mask: Tensor | None,
    canvas: Bool[Tensor, "batch canvas"],
) -> Sight:
    """Say what the decoder may look at."""
    return Sight(canvas, source, None if source_mask is None else source_mask.bool())


class ElmerDecoder(BartDecoder):  # type: ignore[misc]
    """BART's decoder without its causal mask."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for layer in self.layers:
            layer.self_attn.is_causal = False
        if config.canvas_source:
            self.spread = Spread(config.d_model, config.d_model, bias=False)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Spread):
            module.begin(self.config.init_std)

    @property
    def depth(self) -> int:
        """Number of layers; the exit of the last one."""
        return len(self.layers)

    def begin(self, embeddings: States, sight: Sight) -> States:
        """Give the states below the first layer: embeddings and places, normed.

        Args:
            embeddings: Of what stands on the canvas.
            sight: What the layers may look at; with ``canvas_source`` the source is laid over the
                canvas.

        Raises:
            InputError: There are more places than the model knows.
        """
        size, known = embeddings.shape[1], self.config.max_position_embeddings
        if size > known:
            raise InputError(f"a canvas has {size} places, this model knows {known}; shorten it")
        places = self.embed_positions(embeddings[..., 0])
        if self.config.canvas_source:
            laid = spread_over(sight.source, sight.source_mask, sight.canvas)
            embeddings = embeddings + self.spread(laid)
        return self._dropped(self.layernorm_embedding(embeddings + places))

    def _dropped(self, states: States) -> States:
        return torch.nn.functional.dropout(states, p=self.dropout, training=self.training)

    def masks(self, states: States, sight: Sight) -> tuple[Tensor | None, Tensor | None]:
        """Give the masks of self- and cross-attention in the form that the attention in use reads.

        Args:
            states: Positions that ask; they may be fewer than the canvas has.
            sight: What may be seen.
        """
        return (
            create_bidirectional_mask(
                config=self.config,
                inputs_embeds=states,
                attention_mask=sight.canvas,
                encoder_hidden_states=sight.canvas[..., None].to(states.dtype),
            ),
            create_bidirectional_mask(
                config=self.config,
                inputs_embeds=states,
                attention_mask=sight.source_mask,
                encoder_hidden_states=sight.source,
            ),
        )

    def forward(
        self,
        states: States,
        sight: Sight,
        *,
        exits: Int[Tensor, "batch canvas"] | None = None,
        hand_over: HandOver | None = None,
    ) -> tuple[States, ...]:
        """Run all layers.

        Args:
            states: From ``begin``.
            sight: What the layers may look at.
            exits: The exit at which each position leaves, 1 to L: from there on all later layers
                see its state as it left, without gradient. None is L for all.
            hand_over: Changes the states between two layers, but of positions that left; what the
                layers gave is what is returned.

        Returns:
            The states at exits 0 to L, [B, N, D] each; of a position that left, the state it left
            with.
        """
        own, cross = self.masks(states, sight)
        passed = [states]
        for number, layer in enumerate(self.layers, start=1):
            new = layer(states, own, sight.source, encoder_attention_mask=cross, use_cache=False)
            if exits is not None and number > 1:
                new = torch.where((exits < number)[..., None], passed[-1], new)
            passed.append(new)
            states = new
            if hand_over is not None and number < self.depth:
                states = hand_over(number, states)
            if exits is not None:
                states = torch.where((exits <= number)[..., None], new.detach(), states)
        return tuple(passed)

    def run_some(
        self,
        number: int,
        some: Float[Tensor, "rows some width"],
        everything: Float[Tensor, "rows canvas width"],
        sight: Sight,
    ) -> Float[Tensor, "rows some width"]:
        """Run layer ``number`` (1 to L) for some positions that see all positions' states."""
        layer = self.layers[number - 1]
        own, cross = self.masks(some, sight)
        seen, _ = layer.self_attn(some, key_value_states=everything, attention_mask=own)
        some = layer.self_attn_layer_norm(some + seen)
        seen, _ = layer.encoder_attn(some, key_value_states=sight.source, attention_mask=cross)
        some = layer.encoder_attn_layer_norm(some + seen)
        return layer.final_layer_norm(  # type: ignore[no-any-return]
            some + layer.fc2(layer.activation_fn(layer.fc1(some)))
        )
