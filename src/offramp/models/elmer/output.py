"""What an ELMER model gives: to a training, and to whoever asked for a text.

In, out: plain holders of tensors, with a line on each.
"""

from dataclasses import dataclass, fields

from jaxtyping import Float, Int
from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class ElmerOutput(ModelOutput):  # type: ignore[misc]
    """What ``forward`` gives.

    Attributes:
        loss: In nats per target token, over the exits that learn, the length's loss included.
        logits: Scores of the last exit, [B, N, V].
        exit_losses: Each learning exit's loss, the deepest last.
        transitions: Log-probabilities of the steps of a path, [B, N, N]; for ``dag``.
        length_logits: Scores of the lengths 1, 2, ...; with a length predictor.
        decoder_hidden_states: States at exits 0 to L, [B, N, D] each.
        encoder_last_hidden_state: States of the source, [B, S, D].
        canvas_lengths: Places of each canvas, [B].
    """

    loss: Float[Tensor, ""] | None = None
    logits: Float[Tensor, "batch canvas vocab"] | None = None
    exit_losses: Float[Tensor, " exits"] | None = None
    transitions: Float[Tensor, "batch canvas canvas"] | None = None
    length_logits: Float[Tensor, "batch longest"] | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_last_hidden_state: Float[Tensor, "batch source width"] | None = None
    canvas_lengths: Int[Tensor, " batch"] | None = None

    def ordered(self) -> "ElmerOutput":
        """Give the same in the order above, which is that of a tuple made of it."""
        return ElmerOutput(**{field.name: getattr(self, field.name) for field in fields(self)})


@dataclass
class OneShotOutput(ModelOutput):  # type: ignore[misc]
    """What ``generate(..., return_dict_in_generate=True)`` gives.

    Attributes:
        sequences: Texts, [B, T], filled with the pad token.
        exits: The exit that gave each token, 1 to L, [B, T]; -1 where there is none.
        scores: Log-probability of each token at its place, [B, T]; 0 where there is none.
        places: The place of the canvas that each token stood on, [B, T]; -1 where there is none.
        canvas_lengths: Places of each canvas, [B].
        layers: Positions that each layer was run for, summed over the batch, over all lengths
            tried and all refinements, [L].
    """

    sequences: Int[Tensor, "batch length"] | None = None
    exits: Int[Tensor, "batch length"] | None = None
    scores: Float[Tensor, "batch length"] | None = None
    places: Int[Tensor, "batch length"] | None = None
    canvas_lengths: Int[Tensor, " batch"] | None = None
    layers: Int[Tensor, " layers"] | None = None
