"""ELMER's encoder and decoder, without a head.

In:  sources, and canvases. Out: states.
Law: the states are those of the model with a head that has no soft exit; where a batch is padded
     changes nothing (tests/models/elmer/test_backbone.py).
Not here: scores, losses and texts (offramp.models.elmer.modeling).
Source: Li et al. 2022, "ELMER", arXiv:2210.13304.
"""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from transformers.modeling_outputs import Seq2SeqModelOutput
from transformers.models.bart.modeling_bart import BartEncoder, BartModel, BartPreTrainedModel

from offramp.errors import InputError
from offramp.models.elmer.canvas import blank_canvas, lengths_of, mask_of, places_of, source_sizes
from offramp.models.elmer.configuration import ElmerConfig
from offramp.models.elmer.decoder import ElmerDecoder, sight_of
from offramp.models.elmer.published import ReadsBart


def source_states(
    encoder: Any, input_ids: Int[Tensor, "batch source"] | None, mask: Tensor | None
) -> Float[Tensor, "batch source width"]:
    """Give the states of sources, wherever their padding is.

    BART counts places from the left edge; here a source's first token is its first place.

    Raises:
        InputError: There are none, they are longer than the encoder knows, or the mask has another
            shape.
    """
    if input_ids is None or not input_ids.numel():
        raise InputError("no sources were given: input_ids needs at least one token a row")
    size, known = input_ids.shape[1], encoder.config.max_position_embeddings
    if size > known:
        raise InputError(f"a source has {size} tokens, this model knows {known}; shorten it")
    if mask is None:
        return encoder(input_ids=input_ids).last_hidden_state  # type: ignore[no-any-return]
    if mask.shape != input_ids.shape:
        raise InputError(
            f"attention_mask must have the shape of input_ids, {list(input_ids.shape)}, got "
            f"{list(mask.shape)}"
        )
    order = mask.long().argsort(dim=-1, descending=True, stable=True)
    output = encoder(input_ids=input_ids.gather(1, order), attention_mask=mask.gather(1, order))
    states: Tensor = output.last_hidden_state
    return states.gather(1, order.argsort(-1)[..., None].expand_as(states))


class ElmerModel(ReadsBart, BartModel):  # type: ignore[misc]
    """BART's encoder, and a decoder that sees its whole canvas; no head.

    Without a head no token is handed from layer to layer: of a model with ``soft_exit`` these are
    the states that it would have without.
    """

    config_class = ElmerConfig

    def __init__(self, config: ElmerConfig) -> None:
        config.check()  # from_pretrained sets fields that it is given after the others
        BartPreTrainedModel.__init__(self, config)
        self.encoder = BartEncoder(config)
        self.decoder = ElmerDecoder(config)
        self.shared = self.decoder.embed_tokens
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "batch source"],
        attention_mask: Tensor | None = None,
        decoder_input_ids: Int[Tensor, "batch canvas"] | None = None,
        decoder_attention_mask: Tensor | None = None,
    ) -> Seq2SeqModelOutput:
        """Give the states of the source and of a canvas.

        Args:
            input_ids: Sources.
            attention_mask: Their tokens that exist; None is all.
            decoder_input_ids: Canvases; None is masks, as many as the configuration says.
            decoder_attention_mask: Places that exist, the first of each canvas; None is all.

        Raises:
            InputError: A source or canvas is longer than the model knows, or a canvas has gaps.
        """
        source = source_states(self.encoder, input_ids, attention_mask)
        if decoder_input_ids is None:
            lengths = source_sizes(self.config, lengths_of(input_ids, attention_mask))
            places = mask_of(lengths)
            decoder_input_ids = blank_canvas(self.config, lengths)
        else:
            places = places_of(decoder_input_ids, decoder_attention_mask)
        sight = sight_of(source, attention_mask, places)
        begun = self.decoder.begin(self.decoder.embed_tokens(decoder_input_ids), sight)
        states = self.decoder(begun, sight)
        return Seq2SeqModelOutput(
            last_hidden_state=states[-1],
            decoder_hidden_states=states,
            encoder_last_hidden_state=source,
        )
