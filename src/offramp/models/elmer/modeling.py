"""ELMER as a model of transformers.

In:  sources, and targets in training. Out: scores of every place of a canvas, losses, texts.
Law: the published weights give the published states, scores and losses
     (tests/models/elmer/test_golden.py); a row does not depend on its batch mates or on padding,
     and no reference reaches a text (tests/models/elmer/test_writing.py).
Not here: what is learned from scores (.learning), how a text is read off them (.writing).
Source: Li et al. 2022, "ELMER", arXiv:2210.13304.
"""

from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, GenerationMixin
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.bart.modeling_bart import (
    BartForConditionalGeneration,
    BartPreTrainedModel,
)
from transformers.utils.generic import can_return_tuple

from offramp.blocks.gates import NEVER, Gate
from offramp.decoding.oneshot import OneShot
from offramp.errors import ConfigError
from offramp.logits.labels import NO_LABEL
from offramp.models.elmer.backbone import ElmerModel, source_states
from offramp.models.elmer.canvas import (
    blank_canvas,
    drawn_sizes,
    laid_exits,
    lengths_of,
    mask_of,
    measured_sizes,
    places_of,
    source_sizes,
    told_sizes,
)
from offramp.models.elmer.configuration import ElmerConfig
from offramp.models.elmer.decoder import sight_of
from offramp.models.elmer.heads import Joint, LengthHead, Steps, length_loss
from offramp.models.elmer.learning import Target, target_for
from offramp.models.elmer.leaving import gates_for
from offramp.models.elmer.output import ElmerOutput, OneShotOutput
from offramp.models.elmer.passage import Passage
from offramp.models.elmer.published import ReadsBart
from offramp.models.elmer.request import limit_of, refuse_lacking
from offramp.models.elmer.tracing import CanvasTraces
from offramp.models.elmer.writing import write


class ElmerForConditionalGeneration(CanvasTraces, ReadsBart, BartPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """Writes a text in one pass, and learns to.

    Example:
        >>> config = ElmerConfig(vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=2,
        ...     encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        ...     decoder_ffn_dim=16, max_position_embeddings=32)
        >>> model = ElmerForConditionalGeneration(config).eval()
        >>> model.generate(torch.tensor([[5, 6, 2]])).shape[0]
        1
    """

    config_class = ElmerConfig
    base_model_prefix = "model"
    _tied_weights_keys: ClassVar[dict[str, str]] = {
        "lm_head.weight": "model.shared.weight",
        "model.decoder.embed_tokens.weight": "model.shared.weight",
        "model.encoder.embed_tokens.weight": "model.shared.weight",
    }
    _keys_to_ignore_on_load_missing: ClassVar[list[str]] = ["final_logits_bias"]

    def __init__(self, config: ElmerConfig) -> None:
        super().__init__(config)
        width = config.d_model
        self.model = ElmerModel(config)
        self.lm_head = nn.Linear(width, config.vocab_size, bias=False)
        self.final_logits_bias = nn.Buffer(torch.zeros(1, config.vocab_size))
        if config.soft_exit:
            self.concat_head = Joint(2 * width, width, bias=False)
        if config.output_head == "dag":
            self.steps = Steps(width, config.dag_heads)
        if config.length_predictor:
            self.length_head = LengthHead(width, config.max_position_embeddings)
        if config.gates:
            self.gates = gates_for(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Gate):
            init.zeros_(module.linear.weight)
            init.zeros_(module.linear.bias)
            init.constant_(module.threshold, NEVER)
        elif isinstance(module, Joint):
            init.eye_(module.weight)
        elif isinstance(module, ElmerForConditionalGeneration):
            init.zeros_(module.final_logits_bias)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any
    ) -> nn.Module:
        """Change the size of the vocabulary; the mask token stays what it is.

        Args:
            new_num_tokens: The new size; None changes nothing.
            *args: As in transformers.
            **kwargs: As in transformers.

        Raises:
            ConfigError: The mask token would be gone.
        """
        mask = self.config.mask_token_id
        if new_num_tokens is not None and new_num_tokens <= mask:
            raise ConfigError(
                f"a vocabulary of {new_num_tokens} lacks the mask token {mask}; keep at least "
                f"{mask + 1} tokens"
            )
        embeddings = super().resize_token_embeddings(new_num_tokens, *args, **kwargs)
        BartForConditionalGeneration._resize_final_logits_bias(self, embeddings.num_embeddings)
        return embeddings  # type: ignore[no-any-return]

    def encode(
        self, input_ids: Int[Tensor, "batch source"] | None, attention_mask: Tensor | None
    ) -> Float[Tensor, "batch source width"]:
        """Give the states of sources.

        Raises:
            InputError: There are none, or they are longer than the model knows.
        """
        return source_states(self.model.encoder, input_ids, attention_mask)

    def embed(self, tokens: Int[Tensor, "*rows"]) -> Float[Tensor, "*rows width"]:
        """Give the embeddings that a canvas is made of."""
        return self.model.decoder.embed_tokens(tokens)  # type: ignore[no-any-return]

    def score(self, states: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows vocab"]:
        """Give what states say, at any exit: one head serves all."""
        logits = self.lm_head(states)
        bias = self.final_logits_bias.to(logits.device)[0]
        if logits.dtype == bias.dtype:  # as large as they are, one copy is enough
            return logits.add_(bias)  # type: ignore[no-any-return]
        return logits + bias  # type: ignore[no-any-return]

    def join(
        self, states: Float[Tensor, "*rows width"], tokens: Int[Tensor, "*rows"]
    ) -> Float[Tensor, "*rows width"]:
        """Hand tokens over to the next layer, joined with the states."""
        return self.concat_head(  # type: ignore[no-any-return]
            torch.cat([states, self.embed(tokens)], dim=-1)
        )

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(  # noqa: PLR0913 - the arguments of transformers' encoder-decoders
        self,
        input_ids: Int[Tensor, "batch source"] | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Int[Tensor, "batch canvas"] | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        labels: Int[Tensor, "batch target"] | None = None,
        exits: Int[Tensor, "batch places"] | None = None,
        num_items_in_batch: Tensor | float | None = None,
        **kwargs: Any,
    ) -> ElmerOutput:
        """Score every place of a canvas, and learn from targets.

        Args:
            input_ids: Sources.
            attention_mask: Their tokens that exist; None is all.
            decoder_input_ids: Canvases; None makes them: from the targets' lengths and the
                sources' in training, else from the sources' alone, as for a text that is written
                (a ``plain`` one has room for the target if it is measured).
            decoder_attention_mask: Places that exist, the first of each canvas; None is all.
            encoder_outputs: The sources' states, instead of ``input_ids``.
            labels: Targets with their end tokens, padded at the right with -100; what is longer
                than the canvas is cut off.
            exits: For layer permutation language modeling the exit of each place, 1 to L: of the
                target's tokens, then of those behind its end; 0 is no place. The canvas has as many
                places as there are exits, or without ``canvas_slack`` just the target's length.
            num_items_in_batch: Target tokens that the loss is divided by; None counts them. A
                Trainer gives those of all micro-batches and processes together.
            **kwargs: What a Trainer or a data collator adds; it is not read.

        Raises:
            ConfigError: ``exits`` for another head than ``plain``, or without targets; or an
                argument of BART that ELMER lacks.
            InputError: No target of a batch fits its canvas, or an input has another shape or
                other values than it may have.
        """
        refuse_lacking(kwargs)
        source = (
            self.encode(input_ids, attention_mask)
            if encoder_outputs is None
            else encoder_outputs[0]
        )
        if exits is not None and (labels is None or self.config.output_head != "plain"):
            raise ConfigError("exits needs labels and output_head 'plain'")
        canvas, places = self._canvas(
            source, attention_mask, (decoder_input_ids, decoder_attention_mask), labels, exits
        )
        target = None
        if labels is not None:
            target = target_for(self.config, labels, places, tokens=num_items_in_batch)
        passage = Passage(self, sight_of(source, attention_mask, places), target)
        if exits is not None and labels is not None:
            exits = laid_exits(exits, labels, places, depth=self.config.decoder_layers)
        output = passage.run(canvas, exits)
        if self.config.length_predictor:
            self._learn_length(output, source, attention_mask, target)
        output.encoder_last_hidden_state = source
        return output.ordered()

    def _learn_length(
        self, output: ElmerOutput, source: Tensor, mask: Tensor | None, target: Target | None
    ) -> None:
        """Score the length of the target, and add that loss."""
        logits = self.length_head(source, None if mask is None else mask.bool())
        output.length_logits = logits
        if target is not None:
            lengths = (target.labels != NO_LABEL).sum(-1)
            assert output.loss is not None
            output.loss = output.loss + length_loss(logits, lengths) / target.tokens

    def _canvas(
        self,
        source: Tensor,
        attention_mask: Tensor | None,
        given: tuple[Tensor | None, Tensor | None],
        labels: Tensor | None,
        exits: Tensor | None,
    ) -> tuple[Int[Tensor, "batch canvas"], Bool[Tensor, "batch canvas"]]:
        """Give canvases and their places."""
        canvas, mask = given
        if canvas is not None:
            return canvas, places_of(canvas, mask)
        sources = lengths_of(source, attention_mask)
        lengths = source_sizes(self.config, sources)
        if labels is not None and self.config.output_head == "plain":
            targets = (labels != NO_LABEL).sum(-1).clamp(min=1)
            if exits is None:
                sizes = drawn_sizes if self.training else measured_sizes
                lengths = sizes(self.config, sources, targets)
            else:
                lengths = told_sizes(self.config, exits, targets)
            lengths = lengths.clamp(max=self.config.max_position_embeddings)
        return blank_canvas(self.config, lengths), mask_of(lengths)

    @torch.inference_mode()
    def generate(
        self,
        input_ids: Int[Tensor, "batch source"] | None = None,
        attention_mask: Tensor | None = None,
        *,
        decoding: OneShot | None = None,
        max_new_tokens: int | None = None,
        generator: torch.Generator | None = None,
        return_dict_in_generate: bool = False,
        encoder_outputs: BaseModelOutput | None = None,
        **kwargs: Any,
    ) -> Int[Tensor, "batch length"] | OneShotOutput:
        """Write texts in one pass.

        Args:
            input_ids: Sources.
            attention_mask: Their tokens that exist; None is all but padding.
            decoding: How; None is all layers, the likeliest tokens.
            max_new_tokens: Cut texts (and canvases) there; ``max_length`` means the same here, and
                is read after it, before ``max_new_tokens`` of the model's ``generation_config``.
            generator: Draws tokens, with a temperature.
            return_dict_in_generate: Give an ``OneShotOutput`` instead of token ids.
            encoder_outputs: The sources' states, instead of ``input_ids``.
            **kwargs: ``max_length``, ``generation_config``, and what cannot matter here:
                ``labels`` (a Trainer passes it on; it is never read), ``use_cache``,
                ``synced_gpus``, ``num_beams=1``, ``do_sample=False``.

        Raises:
            ConfigError: The model lacks what ``decoding`` asks for, or an argument is unknown.
            InputError: There are no sources, or they are longer than the model knows.
        """
        settings = decoding or OneShot()
        limit = limit_of(kwargs, max_new_tokens, own=self.generation_config, settings=settings)
        if encoder_outputs is None:
            if attention_mask is None and input_ids is not None:
                attention_mask = input_ids != self.config.pad_token_id
            source = self.encode(input_ids, attention_mask)
        else:
            source = encoder_outputs[0]
        output = write(
            self,
            source,
            attention_mask,
            settings=settings,
            limit=limit,
            generator=generator,
            rated=return_dict_in_generate,
        )
        assert output.sequences is not None
        return output if return_dict_in_generate else output.sequences


AutoConfig.register("elmer", ElmerConfig)
AutoModel.register(ElmerConfig, ElmerModel)
AutoModelForSeq2SeqLM.register(ElmerConfig, ElmerForConditionalGeneration)
