"""The ways to write that benchmarks/elmer.py times, on models of one size with random weights.

In:  sizes, a seed. Out: ways, each with the work it does.
Not here: timing them (benchmarks/elmer.py), counting (benchmarks/elmer_costs.py).

All ways of float32 hold the very same matrices: the shallow decoder is the first layer of the deep
one, and ELMER's variants are one model under several configurations. Random weights say nothing
about quality; they take the same time as trained ones, with three exceptions that are arranged:
the end token and BOS never come (all texts have all their tokens), a forced exit is left by
everybody, and the lengths of CTC's and DAG's texts, which come as they come, are reported.
"""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from elmer_costs import Sizes, Work, encoding, one_pass, step_by_step
from torch import nn
from transformers import BartConfig, BartForConditionalGeneration, GenerationConfig

from offramp.decoding.oneshot import OneShot
from offramp.models.elmer import ElmerConfig, ElmerForConditionalGeneration

CTC_CANVAS, DAG_CANVAS = 2, 4
"""Places of a canvas for each token of the text."""

BASE, SHALLOW, PLAIN = "bart", "bart-6-1", "elmer"
BOS, PAD, EOS = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to write.

    Attributes:
        model: Its model.
        run: Gives ids; takes ``input_ids`` or ``encoder_outputs``, and ``attention_mask``.
        work: What its decoder does, given the batch.
        encoder_work: What its encoder does.
        layers: Decoder layers that are run.
        decoding: How it writes in one pass; None of a way that writes token by token.
        weight_bytes: Of each number of a matrix.
        whole: It writes all tokens.
    """

    model: Any
    run: Callable[..., Any]
    work: Callable[[int], list[Work]]
    encoder_work: Callable[[int], list[Work]]
    layers: int
    decoding: OneShot | None = None
    weight_bytes: int = 4
    whole: bool = True


class Ways:
    """Models of one size, and the ways to write with them.

    Args:
        sizes: Of the models and texts.
        seed: Of the weights.
        device: Where they are.
    """

    def __init__(self, sizes: Sizes, *, seed: int, device: str) -> None:
        self.sizes, self.device = sizes, device
        torch.manual_seed(seed)
        self.bart = BartForConditionalGeneration(BartConfig(**self._fields())).to(device).eval()
        self.rich = self._elmer()

    def _fields(self, **others: Any) -> dict[str, Any]:
        sizes = self.sizes
        longest = max(sizes.source, max(CTC_CANVAS, DAG_CANVAS) * sizes.tokens, 1024)
        return {
            "vocab_size": sizes.vocab,
            "d_model": sizes.width,
            "encoder_layers": sizes.encoder_layers,
            "decoder_layers": sizes.decoder_layers,
            "encoder_ffn_dim": sizes.ffn,
            "decoder_ffn_dim": sizes.ffn,
            "encoder_attention_heads": sizes.heads,
            "decoder_attention_heads": sizes.heads,
            "max_position_embeddings": longest,
            "bos_token_id": BOS,
            "pad_token_id": PAD,
            "eos_token_id": EOS,
        } | others

    def _elmer(self) -> Any:
        """Make the model that has every part; each way uses some."""
        config = ElmerConfig(**self._fields(), soft_exit=True, output_head="dag", gates=True)
        model = ElmerForConditionalGeneration(config).to(self.device).eval()
        model.load_state_dict(self.bart.state_dict(), strict=False, assign=True)
        bias = torch.zeros(1, self.sizes.vocab, device=self.device)
        bias[0, [BOS, EOS]] = -1e9
        model.final_logits_bias = bias
        return model

    def variant(self, head: str = "plain", *, soft_exit: bool = False) -> Any:
        """Give the same weights under another configuration."""
        model = copy.copy(self.rich)
        model.config = copy.deepcopy(self.rich.config)
        model.config.output_head, model.config.soft_exit = head, soft_exit
        return model

    def shallow(self) -> Any:
        """Give the autoregressive model with the first decoder layer only."""
        with torch.device("meta"):
            model = BartForConditionalGeneration(BartConfig(**self._fields(decoder_layers=1)))
        weights = {
            name: weight
            for name, weight in self.bart.state_dict().items()
            if name in model.state_dict()
        }
        model.load_state_dict(weights, assign=True)
        return model.eval()

    def made(self, only: list[str]) -> dict[str, Way]:
        """Make the ways asked for; the base is always among them."""
        makers = self.makers()
        return {name: make() for name, make in makers.items() if name == BASE or name in only}

    def makers(self) -> dict[str, Callable[[], Way]]:
        """Name every way."""
        depth = self.sizes.decoder_layers
        found: dict[str, Callable[[], Way]] = {
            BASE: lambda: self._steps(self.bart, depth),
            SHALLOW: lambda: self._steps(self.shallow(), 1),
            "bart-beam4": lambda: self._steps(self.bart, depth, beams=4),
            "bart-int8": lambda: self._steps(int8(self.bart), depth, weight_bytes=1),
            PLAIN: lambda: self._pass(self.variant()),
        }
        for rule in ("gate", "entropy"):
            for exit in range(1, depth):
                found[f"elmer-{rule}-{exit}"] = lambda rule=rule, exit=exit: self._left(rule, exit)
            found[f"elmer-{rule}-never"] = lambda rule=rule: self._left(rule, None)
        return found | {
            "elmer-soft": lambda: self._pass(
                self.variant(soft_exit=True), scored=depth, joined=depth - 1
            ),
            "elmer-ctc": lambda: self._pass(self.variant("ctc"), longer=CTC_CANVAS),
            "elmer-dag": lambda: self._pass(self.variant("dag"), longer=DAG_CANVAS, joined=1),
            "elmer-int8": lambda: self._pass(int8(self.variant()), weight_bytes=1),
        }

    def _steps(self, model: Any, layers: int, *, beams: int = 1, weight_bytes: int = 4) -> Way:
        """Write with an autoregressive model, a token at a time."""
        tokens, sizes = self.sizes.tokens, self.sizes
        settings = GenerationConfig(
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            num_beams=beams,
            do_sample=False,
            use_cache=True,
            decoder_start_token_id=EOS,
            bos_token_id=BOS,
            pad_token_id=PAD,
            eos_token_id=EOS,
        )
        return Way(
            model=model,
            run=lambda **inputs: model.generate(**inputs, generation_config=settings)[:, 1:],
            work=lambda batch: step_by_step(sizes, batch, layers=layers, beams=beams),
            encoder_work=lambda batch: encoding(sizes, batch),
            layers=layers,
            weight_bytes=weight_bytes,
        )

    def _pass(
        self,
        model: Any,
        *,
        longer: int = 1,
        scored: int = 1,
        joined: int = 0,
        weight_bytes: int = 4,
    ) -> Way:
        """Write with all layers, in one pass."""
        depth, canvas = self.sizes.decoder_layers, longer * self.sizes.tokens
        settings = OneShot(canvas_length=canvas)
        return Way(
            model=model,
            run=lambda **inputs: model.generate(**inputs, decoding=settings),
            work=lambda batch: one_pass(
                self.sizes, batch, layers=depth, canvas=canvas, scored=scored, joined=joined
            ),
            encoder_work=lambda batch: encoding(self.sizes, batch),
            layers=depth,
            decoding=settings,
            weight_bytes=weight_bytes,
            whole=longer == 1,
        )

    def _left(self, rule: str, exit: int | None) -> Way:
        """Write in one pass that everybody leaves at one exit; at None all are asked in vain."""
        model, canvas, depth = self.variant(), self.sizes.tokens, self.sizes.decoder_layers
        settings = OneShot(exit_rule=rule, threshold=1.0, canvas_length=canvas)
        if exit is not None:
            settings = replace(settings, threshold=0.0, exits=(exit,))
        layers = exit or depth
        # scores that an exit was left by are the text's
        scored = depth if rule == "entropy" and exit is None else 1
        return Way(
            model=model,
            run=lambda **inputs: model.generate(**inputs, decoding=settings),
            work=lambda batch: one_pass(
                self.sizes, batch, layers=layers, canvas=canvas, scored=scored
            ),
            encoder_work=lambda batch: encoding(self.sizes, batch),
            layers=layers,
            decoding=settings,
        )


def int8(model: Any) -> Any:
    """Quantise all linear layers: weights once, activations as they come."""
    with warnings.catch_warnings():  # PyTorch calls this module deprecated and has no successor
        warnings.simplefilter("ignore")  # as fast on processors
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
