"""Describe an ELMER model: BART's fields and what writing in one pass needs.

In:  fields, or a ``config.json``. Out: a configuration of transformers, checked.
Law: what is saved loads as the same; a BART configuration can be read as one of ELMER.
Not here: the model (offramp.models.elmer.modeling).
Source: Li et al. 2022, "ELMER", arXiv:2210.13304.
"""

import math
from typing import Any, ClassVar, no_type_check

from huggingface_hub.dataclasses import strict
from transformers import BartConfig

from offramp.errors import ConfigError

HEADS = ("plain", "ctc", "dag")
SOFT_TRAINING = ("leak_free", "published")

NOT_BART = (
    "these are the weights of an ELMER model, which writes in one pass, and not of a BART; load "
    "them with offramp.models.elmer.ElmerForConditionalGeneration"
)
"""Stands in a field of BART's that ELMER has no use for, and that BART wants a number in: BART's
classes would take the weights with a mere warning, and write from left to right."""


@no_type_check  # the checker of shapes in tests would check fields that strict checks already
@strict
class ElmerConfig(BartConfig):  # type: ignore[misc]
    """Configure an ELMER model.

    Attributes:
        mask_token_id: What a canvas is made of; for ``ctc`` also the blank. None is the last id of
            the vocabulary, as in BART.
        canvas_start_token_id: What stands in the first place of a canvas; None is the mask. The
            published models have BOS there.
        output_head: How tokens are read off the canvas: ``plain`` (a token a position, up to the
            first end token), ``ctc`` (repeats merged, blanks dropped), ``dag`` (a path through
            the positions, arXiv:2205.07459).
        canvas_ratio: Positions of a canvas for each token of the source.
        canvas_extra: Positions beside these.
        canvas_source: Each place begins with the state of the source token that stands at its share
            of the length, through a matrix, beside the mask's embedding (in the manner of
            arXiv:1711.02281 and 1811.04719). ELMER has masks alone.
        canvas_slack: In training a ``plain`` canvas is drawn between the target's length and the
            size that the source gives, so that its size does not tell the length; False is the
            longest target of the batch, as published.
        exit_loss: ``last``: the last layer learns; ``all``: the mean over the layers.
        soft_exit: Each layer hands its best token's embedding to the next one.
        soft_training: For ``plain``. With ``leak_free`` the embedding is the target's at 3 of 10
            positions, the same at all layers, and these are not scored (arXiv:2110.07515); with
            ``published`` drawn anew at each layer and scored, so that most positions have seen
            their answer. For ``ctc`` and ``dag`` nothing of the target is handed over.
        glancing: In training answers are put on the canvas, as many as this share, 0 to 1, of what
            the model gets wrong (arXiv:2008.07905). ``plain`` learns the rest; ``ctc`` and ``dag``
            learn the whole target, since an alignment or a path cannot leave places out. Not
            where exits are drawn (layer permutation).
        length_predictor: Predict the target's length from the source.
        dag_heads: Heads that score the steps of a path.
        gates: Hold a gate for each exit but the last.
        classifier_dropout: Says to BART's classes that these weights are not theirs.

    Raises:
        ConfigError: A value is unknown or out of range.

    Example:
        >>> ElmerConfig(vocab_size=50, output_head="ctc", canvas_ratio=2.0).mask_token_id
        49
    """

    model_type = "elmer"
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "exit_losses",
        "transitions",
        "length_logits",
        "decoder_hidden_states",
        "encoder_last_hidden_state",
        "canvas_lengths",
    ]

    mask_token_id: int | None = None
    canvas_start_token_id: int | None = None
    output_head: str = "plain"
    canvas_ratio: float | int = 1.0
    canvas_extra: int = 8
    canvas_source: bool = False
    canvas_slack: bool = True
    exit_loss: str = "last"
    soft_exit: bool = False
    soft_training: str = "leak_free"
    glancing: float | int = 0.0
    length_predictor: bool = False
    dag_heads: int = 4
    gates: bool = False
    classifier_dropout: float | int | str = NOT_BART

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.classifier_dropout = NOT_BART
        if self.mask_token_id is None:
            self.mask_token_id = self.vocab_size - 1
        self.check()

    def check(self) -> None:
        """Refuse values that cannot be; fields that were set later are not looked at until then.

        Raises:
            ConfigError: A value is unknown or out of range.
        """
        self._check_choices()
        self._check_tokens()
        self._check_canvas()
        if self.decoder_layerdrop:
            raise ConfigError(
                f"decoder_layerdrop {self.decoder_layerdrop} is not for ELMER models, whose exits "
                "need all layers; set it to 0"
            )
        if self.output_head == "dag" and (self.dag_heads < 1 or self.d_model % self.dag_heads):
            raise ConfigError(
                f"dag_heads must divide d_model {self.d_model}, got {self.dag_heads}; try 4"
            )

    def _check_choices(self) -> None:
        if self.output_head not in HEADS:
            raise ConfigError(f"no output_head {self.output_head!r}; use one of {', '.join(HEADS)}")
        if self.exit_loss not in ("last", "all"):
            raise ConfigError(f"exit_loss must be 'last' or 'all', got {self.exit_loss!r}")
        if self.soft_training not in SOFT_TRAINING:
            raise ConfigError(
                f"no soft_training {self.soft_training!r}; use one of {', '.join(SOFT_TRAINING)}"
            )
        if not 0 <= self.glancing <= 1:
            raise ConfigError(f"glancing must be from 0 to 1, got {self.glancing}; try 0.5")
        if self.output_head != "plain" and self.length_predictor:
            raise ConfigError(
                f"a {self.output_head!r} head finds its length on the canvas; length_predictor is "
                "for 'plain'"
            )

    def _check_tokens(self) -> None:
        assert self.mask_token_id is not None
        if not 0 <= self.mask_token_id < self.vocab_size:
            raise ConfigError(
                f"mask_token_id must be from 0 to {self.vocab_size - 1}, got {self.mask_token_id}"
            )
        needed = ["pad_token_id", "eos_token_id"]
        needed += ["bos_token_id"] if self.output_head == "dag" else []
        for name in needed:
            if not isinstance(getattr(self, name), int):
                raise ConfigError(
                    f"{name} must be one token for a {self.output_head!r} head, got "
                    f"{getattr(self, name)}; take the tokenizer's"
                )

    def _check_canvas(self) -> None:
        ratio, extra = self.canvas_ratio, self.canvas_extra
        if not math.isfinite(ratio) or ratio < 0 or extra < 0 or not ratio + extra:
            raise ConfigError(
                "canvas_ratio and canvas_extra must not be negative, nor both 0; got "
                f"{ratio} and {extra}"
            )
