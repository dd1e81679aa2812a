"""ELMER: an encoder-decoder that writes every token at once.

In:  sources. Out: texts; in training, losses.
Where: .configuration, .modeling (the model), .backbone (without head), .decoder (its layers),
.canvas (room for a text), .passage and .learning (training), .leaving, .reading and .writing
(texts), .request (transformers' arguments), .published (BART's format).
"""

from transformers import BartTokenizer

from offramp.models.elmer.backbone import ElmerModel
from offramp.models.elmer.configuration import ElmerConfig
from offramp.models.elmer.modeling import ElmerForConditionalGeneration

ElmerTokenizer = BartTokenizer
"""The tokenizer of the published models, under the name of their card."""

__all__ = ["ElmerConfig", "ElmerForConditionalGeneration", "ElmerModel", "ElmerTokenizer"]
