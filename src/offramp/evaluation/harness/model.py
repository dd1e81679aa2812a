"""The model type ``offramp`` of lm-evaluation-harness.

In:  ``--model_args``, or a model; lm-eval's requests. Out: log-likelihoods and texts.
Law: with the original head the numbers are those of lm-eval's own ``hf``, bit for bit; with any
     other they do not depend on batch, padding or chunk (tests/evaluation/harness/test_model.py).
Not here: scores of given texts (offramp.evaluation.harness.scoring); why importing this module is
     what makes the name known (docs/decisions/0011-lm-eval.md).
Source: lm-evaluation-harness 0.4.13, lm_eval/models/huggingface.py, from which tokens, chat
     templates, windows and batches of generation are inherited.
"""

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import StoppingCriteriaList

from offramp.config import ORIGINAL
from offramp.decoding import EarlyExit, FixedExit
from offramp.evaluation.harness.loading import Loader, prepared, source_of
from offramp.evaluation.harness.requests import asked, batches
from offramp.evaluation.harness.scoring import Scorer
from offramp.evaluation.harness.settings import read_arguments
from offramp.evaluation.harness.stopping import StopStrings
from offramp.version import __version__

IMPOSSIBLE = -100.0
"""Log-probability of a token that a rule never writes, where answers are to be ranked. DoLa's own
code has -1000 (``relative_top_value``), with which lm-eval's mean perplexity of short answers
overflows. Rolling likelihoods get the true one, which is -inf."""

Request = tuple[tuple[str, str] | None, list[int], list[int]]
"""Strings (None for a window of a longer text), tokens of the context, of the continuation."""


@register_model("offramp")
class OfframpLM(HFLM):  # type: ignore[misc]
    """A model that lm-eval asks, answering from any of its exits.

    Attributes:
        decoding: What answers; None is the base's own head.
    """

    def __init__(self, pretrained: Any = None, **arguments: Any) -> None:
        """Load a model, or take one.

        Args:
            pretrained: Folder or hub name, or a model of transformers, then with ``tokenizer``;
                None is the embedded default with the exits that ship with it.
            **arguments: See ``offramp.evaluation.harness.settings``.

        Raises:
            OfframpError: An argument is unknown or contradicts another, or loading fails.
        """
        settings, passed_on = read_arguments(arguments)
        if pretrained is None or isinstance(pretrained, str):
            source = source_of(pretrained, settings, passed_on)
            pretrained = source.base
            if source.revision is not None:
                passed_on["revision"] = source.revision
            passed_on.setdefault("device", "cuda" if torch.cuda.is_available() else "cpu")
            self.AUTO_MODEL_CLASS = Loader(settings, source)
        super().__init__(pretrained=pretrained, **passed_on)
        self.decoding = prepared(self.model, settings)
        self._whole_first = settings.first_token == "whole"
        as_hf = self.decoding is None and self.model.default_decoding is None
        self._scorer = (
            None
            if as_hf and settings.chunk is None
            else Scorer(self.model, self.decoding, chunk=settings.chunk)
        )

    def get_model_info(self) -> dict[str, Any]:
        """Say what was measured, for the file of results."""
        info: dict[str, Any] = super().get_model_info()
        answers = "original" if self.decoding is None else str(self.decoding)
        return {**info, "offramp_version": __version__, "offramp_decoding": answers}

    def _model_call(
        self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """Score everything at once; lm-eval asks this to find a batch size."""
        if self.decoding is None or isinstance(self.decoding, EarlyExit):
            return super()._model_call(inps, attn_mask, labels)  # type: ignore[no-any-return]
        with torch.no_grad():
            scores: Tensor = self.model(inps, decoding=self.decoding).logits
        return scores

    def _loglikelihood_tokens(
        self,
        requests: Sequence[Request],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """Score continuations, of which only their own positions are given to a head."""
        if self._scorer is None:
            return super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)  # type: ignore[no-any-return]
        if not requests:
            return []
        wanted = [asked(each[1], each[2], longest=self.max_length) for each in requests]
        found: dict[int, tuple[float, bool]] = {}
        bar = tqdm(
            total=len(requests),
            disable=disable_tqdm or self.rank != 0,
            desc="Running loglikelihood requests",
        )
        with bar:
            for batch in batches(wanted, self._size(requests, override_bs)):
                tokens = batch.tokens
                if self._whole_first:
                    tokens = tokens.masked_fill(tokens == 0, -1)
                scored = self._scorer.score(batch.ids, batch.places, tokens=tokens)
                for number, log_p, greedy in batch.answers(scored):
                    strings = requests[number][0]
                    if strings is not None:
                        log_p = log_p.masked_fill(log_p.isinf(), IMPOSSIBLE)
                    found[number] = float(log_p.sum()), greedy
                    if strings is not None:
                        self.cache_hook.add_partial("loglikelihood", strings, found[number])
                bar.update(len(batch.numbers))
        return [found[number] for number in range(len(requests))]

    def _size(self, requests: Sequence[Request], override: int | None) -> int:
        if override is not None:
            return override
        if self.batch_size != "auto":
            return int(self.batch_size)
        longest = sorted(requests, key=lambda each: -len(each[1]) - len(each[2]))
        return int(self._detect_batch_size(longest))

    def _model_generate(
        self, context: Tensor, max_length: int, stop: list[str], **generation: Any
    ) -> Tensor:
        """Write; ``decoding`` travels with the call."""
        rule = self.decoding
        if rule is None and self.model.default_decoding is not None:
            rule = FixedExit(exit=ORIGINAL)
        if rule is not None:
            generation["decoding"] = rule
        if not isinstance(rule, EarlyExit):
            return super()._model_generate(context, max_length, stop, **generation)  # type: ignore[no-any-return]
        # lm-eval's criteria remember rows of one batch; our loops show them one text at a time.
        if not generation.get("do_sample"):
            generation["do_sample"] = False
            generation.pop("temperature", None)
        criteria = StopStrings(self.tokenizer, stop, prompt=int(context.shape[1]))
        written: Tensor = self.model.generate(
            input_ids=context,
            max_length=max_length,
            stopping_criteria=StoppingCriteriaList([criteria]),
            pad_token_id=self.tokenizer.pad_token_id,
            use_cache=True,
            **generation,
        )
        return written
