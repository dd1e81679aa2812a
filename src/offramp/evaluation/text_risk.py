"""Promise what early exit costs whole texts, in a metric against references.

In:  a model with exits, prompts and what should follow them. Out: a ``Promise`` whose risk is the
     mean, over texts, of how much worse the metric is than without early exit.
Law: nothing that is found depends on the texts kept back; thresholds are tried in a fixed order and
     none after the first that fails (tests/evaluation/test_text_risk.py).
Not here: tokens that change after a given prefix (offramp.evaluation.promises), which needs one
     pass and no references; p-values (offramp.evaluation.risk).
Source: Schuster et al. 2022, "CALM", arXiv:2207.07061, section 4.2 (risk consistency). Differs: a
     loss is of a text, and the first token of a text is the last layer's.

The model writes every text again for each threshold, greedily. So the loss has all that follows
from a token that changed, and each threshold costs as much as writing all texts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float64
from torch import Tensor

from offramp.decoding.early_exit import EarlyExit
from offramp.errors import ConfigError, InputError
from offramp.evaluation.calibration import Calibration
from offramp.evaluation.promises import HeldOut, Promise, margin_of
from offramp.evaluation.replay import Ladder
from offramp.evaluation.resampling import Measure
from offramp.evaluation.risk import check_share, learn_then_test
from offramp.evaluation.text_metrics import TextSettings, measure_texts
from offramp.logits.labels import NO_LABEL, first_label

METRICS: Mapping[str, str] = {
    "rouge1": "rouge",
    "rouge2": "rouge",
    "rougeL": "rouge",
    "chrf": "chrf",
    "exact_match": "errors",
}
"""Metrics of single texts that are better the higher, by the group they are measured in."""

THRESHOLDS: tuple[float, ...] = (
    *(0.999, 0.995, 0.99, 0.98, 0.97, 0.95, 0.93, 0.9, 0.87, 0.84, 0.8),
    *(0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.4, 0.3, 0.2, 0.1),
)
"""From the safest to the boldest; fixed without any text."""

Losses: TypeAlias = Float64[Tensor, " texts"]


@dataclass(frozen=True)
class Asked:
    """A prompt and what should follow.

    Attributes:
        tokens: The prompt's, or the source's of an encoder-decoder.
        references: At least one text.
    """

    tokens: tuple[int, ...]
    references: tuple[str, ...]


def asked_of(rows: Any, tokenizer: Any, *, apart: bool) -> list[Asked]:
    """Read prompts and references from encoded pairs; rows of one prompt are one text.

    Args:
        rows: With ``input_ids`` and ``labels``, as ``load_rows`` gives them.
        tokenizer: Decodes references.
        apart: The source has ids of its own, as for encoder-decoders.

    Raises:
        InputError: A row has no prompt, or nothing follows it.
    """
    found: dict[tuple[int, ...], list[str]] = {}
    for number, row in enumerate(rows, 1):
        ids, labels = list(row["input_ids"]), list(row["labels"])
        first = first_label(labels)
        wanted = tokenizer.decode(
            [label for label in labels if label != NO_LABEL], skip_special_tokens=True
        ).strip()
        if not wanted or (first < 2 and not apart):
            raise InputError(
                f"a metric of whole texts needs pairs, row {number} has no prompt or no "
                'completion; give JSON lines with "prompt" and "completion"'
            )
        prompt = tuple(ids if apart else ids[:first])
        found.setdefault(prompt, []).append(wanted)
    return [Asked(tokens, tuple(texts)) for tokens, texts in found.items()]


@dataclass(frozen=True, kw_only=True)
class TextRisk:
    """Which loss is to stay below what, and how texts are written.

    Attributes:
        metric: One of ``METRICS``; its points count as shares, 0 to 1.
        ladder: The exits that may answer.
        rule: How sure they are, as in ``EarlyExit``.
        bound: Loss in the metric to stay below, between 0 and 1.
        confidence: With which it does, over the draw of texts, between 0 and 1.
        max_new_tokens: Longest text.
        batch_size: Texts at a time.

    Raises:
        ConfigError: A value is unknown or out of range.
    """

    metric: str
    ladder: Ladder
    rule: str
    bound: float
    confidence: float = 0.95
    max_new_tokens: int = 64
    batch_size: int = 8

    def __post_init__(self) -> None:
        check_share("bound", self.bound)
        check_share("confidence", self.confidence)
        if self.metric not in METRICS:
            raise ConfigError(f"no metric {self.metric!r}; use one of {', '.join(METRICS)}")


def promise_of_texts(
    model: Any,
    tokenizer: Any,
    texts: Sequence[Asked],
    held_out: Sequence[Asked],
    risk: TextRisk,
    *,
    advance: Callable[[int], None] = lambda texts: None,
) -> Promise:
    """Find the boldest threshold whose texts are shown to lose less than a bound.

    Args:
        model: Has the exits of the ladder.
        tokenizer: Its own.
        texts: To find the threshold on; drawn independently of each other, and of all training.
        held_out: To see what it does; may be empty.
        risk: Which loss is to stay below what.
        advance: Called with the number of texts written.

    Raises:
        ConfigError: The metric's package is missing.
        InputError: There is no text.
    """
    if not texts:
        raise InputError("there is no text to calibrate on; give some")
    writing = _Writing(model, tokenizer, risk, advance)
    compared = _Compared(writing, texts)
    threshold, loss, blocks = None, None, float(risk.ladder.depth)
    for each in THRESHOLDS:
        losses, mean = compared.at(each)
        if learn_then_test(losses[None], bound=risk.bound, confidence=risk.confidence) is None:
            break
        threshold, loss, blocks = each, float(losses.mean()), mean
    found = Calibration(
        rule=risk.rule,
        ladder=risk.ladder,
        per="text",
        test="betting",
        bound=risk.bound,
        confidence=risk.confidence,
        threshold=threshold,
        risk=loss,
        mean_blocks=blocks,
        num_texts=len(texts),
        num_tokens=compared.tokens,
        metric=risk.metric,
    )
    kept = _Compared(writing, held_out) if held_out else None
    return Promise(found=found, held_out=None if kept is None else _held_out(kept, found))


def _held_out(kept: "_Compared", found: Calibration) -> HeldOut:
    losses, blocks = kept.at(1.0 if found.threshold is None else found.threshold)
    return HeldOut(
        risk=float(losses.mean()),
        margin=margin_of(losses),
        saved=1 - blocks / found.ladder.depth,
        most_saved=None,
        num_texts=len(losses),
        num_tokens=kept.tokens,
    )


@dataclass(frozen=True)
class _Writing:
    """Lets a model answer prompts greedily, leaving early above a threshold."""

    model: Any
    tokenizer: Any
    risk: TextRisk
    advance: Callable[[int], None]

    def write(self, texts: Sequence[Asked], threshold: float) -> tuple[list[str], list[int]]:
        """Give the texts, and the exit of every token; at 1 nobody leaves."""
        plan = EarlyExit(rule=self.risk.rule, threshold=threshold, exits=self.risk.ladder.exits)
        written: list[str] = []
        exits: list[int] = []
        for batch in self._batches(texts):
            with torch.no_grad():
                made = self.model.generate(
                    **batch,
                    decoding=plan,
                    max_new_tokens=self.risk.max_new_tokens,
                    do_sample=False,
                    num_beams=1,
                    pad_token_id=self._pad,
                    return_dict_in_generate=True,
                )
            new = made.sequences[:, -made.exits.shape[1] :]
            for tokens, left in zip(new.tolist(), made.exits.tolist(), strict=True):
                mine = [exit for exit in left if exit >= 0]
                exits.extend(mine)
                written.append(
                    self.tokenizer.decode(tokens[: len(mine)], skip_special_tokens=True).strip()
                )
            self.advance(len(new))
        return written, exits

    @property
    def _pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return 0 if pad is None else int(pad)

    def _batches(self, texts: Sequence[Asked]) -> Iterator[dict[str, Tensor]]:
        side = "right" if self.model.config.is_encoder_decoder else "left"
        size = self.risk.batch_size
        for first in range(0, len(texts), size):
            rows = [torch.tensor(each.tokens) for each in texts[first : first + size]]
            pack = torch.nn.utils.rnn.pad_sequence
            ids = pack(rows, batch_first=True, padding_value=self._pad, padding_side=side)
            ones = [torch.ones_like(row) for row in rows]
            mask = pack(ones, batch_first=True, padding_side=side)
            yield {
                "input_ids": ids.to(self.model.device),
                "attention_mask": mask.to(self.model.device),
            }


class _Compared:
    """Some texts, with and without early exit."""

    def __init__(self, writing: _Writing, texts: Sequence[Asked]) -> None:
        self._writing, self._texts, self._metric = writing, texts, writing.risk.metric
        whole, exits = writing.write(texts, 1.0)
        self._whole, self.tokens = self._scores(whole), len(exits)

    def at(self, threshold: float) -> tuple[Losses, float]:
        """Give what each text loses, and the mean exit of a token."""
        written, exits = self._writing.write(self._texts, threshold)
        losses = (self._whole - self._scores(written)).clamp(0, 1)
        return losses, sum(exits) / len(exits)

    def _scores(self, written: Sequence[str]) -> Losses:
        """Score each text alone, from 0 to 1."""
        settings = TextSettings(metrics=(METRICS[self._metric],), samples=0)
        references = [each.references for each in self._texts]
        for each in measure_texts(written, references, settings).measures:
            if each.name == self._metric and isinstance(each, Measure):
                return each.combine(each.rows) / (100 if each.unit == "points" else 1)
        raise AssertionError(f"{METRICS[self._metric]} has no {self._metric}")
