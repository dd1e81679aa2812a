"""ELMER: an encoder-decoder that writes every token at once.

In:  sources. Out: texts; in training, losses.
Where: .configuration, .modeling (the model), .canvas (room for a text), .decoder (layers),
.passage and .learning (training), .leaving, .reading and .writing (texts), .published (BART's
format).
"""

from transformers import BartTokenizer

from offramp.models.elmer.configuration import ElmerConfig
from offramp.models.elmer.modeling import ElmerForConditionalGeneration, ElmerModel

ElmerTokenizer = BartTokenizer
"""The tokenizer of the published models, under the name of their card."""

__all__ = ["ElmerConfig", "ElmerForConditionalGeneration", "ElmerModel", "ElmerTokenizer"]
