"""Turn what exits say about single tokens into means, intervals, calibration and oracle depth.

In:  scores of one exit, the last layer's, and the tokens of the text, a chunk of positions at a
     time. Out: numbers. Pure: no model.
Law: however tokens are cut into chunks, the numbers are those of all tokens at once
     (tests/evaluation/test_tally.py).
Not here: running a model (offramp.evaluation.exits).
Sources: expected calibration error, Guo et al. 2017, arXiv:1706.04599; intervals of a mean of
     tokens that hang together in texts, the ratio estimator of cluster sampling (Cochran 1977).
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BINS = 15
"""Bins of equal width for calibration, as in Guo et al."""

TOP = 5
NORMAL_95 = 1.959963984540054


class Judged(NamedTuple):
    """What one exit says about N tokens; float64, but for ``agrees``.

    Attributes:
        loss: -log p of the next token of the text, in nats.
        correct: Whether the exit's best token is the next token of the text, 0 or 1.
        agrees: Whether it is the last layer's best token.
        agrees_top: Whether the last layer's best token is among the exit's five best.
        divergence: KL(last || exit), in nats.
        confidence: Probability of the exit's best token.
    """

    loss: Float[Tensor, " tokens"]
    correct: Float[Tensor, " tokens"]
    agrees: Bool[Tensor, " tokens"]
    agrees_top: Float[Tensor, " tokens"]
    divergence: Float[Tensor, " tokens"]
    confidence: Float[Tensor, " tokens"]


def log_probabilities(scores: Float[Tensor, "*rows vocab"]) -> Float[Tensor, "*rows vocab"]:
    """Normalise scores in float32, or in float64 if they are."""
    return (scores if scores.dtype == torch.float64 else scores.float()).log_softmax(-1)


def losses(
    log_p: Float[Tensor, "tokens vocab"], targets: Int[Tensor, " tokens"]
) -> Float[Tensor, " tokens"]:
    """Give -log p of each next token, in float64."""
    return -log_p.gather(-1, targets[:, None])[:, 0].double()


class Last(NamedTuple):
    """What the last layer says about N tokens, worked out once for all exits.

    Attributes:
        log_p: Log-probabilities.
        p: Probabilities.
        best: The best tokens.
    """

    log_p: Float[Tensor, "tokens vocab"]
    p: Float[Tensor, "tokens vocab"]
    best: Int[Tensor, " tokens"]

    @classmethod
    def of(cls, scores: Float[Tensor, "tokens vocab"]) -> "Last":
        """Work it out from scores."""
        log_p = log_probabilities(scores)
        return cls(log_p=log_p, p=log_p.exp(), best=log_p.argmax(-1))


def judge(
    log_exit: Float[Tensor, "tokens vocab"], last: Last, targets: Int[Tensor, " tokens"]
) -> Judged:
    """Compare an exit with the text and with the last layer.

    Args:
        log_exit: Log-probabilities of the exit.
        last: What the last layer says.
        targets: The next tokens of the text.

    Example:
        >>> last = Last.of(torch.tensor([[0.0, 2.0]]))
        >>> judge(last.log_p, last, torch.tensor([1])).divergence.item()
        0.0
    """
    confidence, answers = log_exit.max(-1)
    better = log_exit > log_exit.gather(-1, last.best[:, None])
    terms = (last.log_p - log_exit).mul_(last.p)  # NaN where p is 0 and counts nothing
    return Judged(
        loss=losses(log_exit, targets),
        correct=(answers == targets).double(),
        agrees=answers == last.best,
        agrees_top=(better.sum(-1) < TOP).double(),
        divergence=terms.nansum(-1, dtype=torch.float64),
        confidence=confidence.double().exp(),
    )


class RowMeans:
    """Means per token of some quantities, with intervals that know which tokens share a row.

    Tokens of one text hang together, so a row counts as one observation: with sums a_r over n_r
    tokens of R rows, p = sum a / sum n has variance R / (R - 1) * sum (a_r - p n_r)^2 / (sum n)^2.
    """

    def __init__(self) -> None:
        self.rows, self.tokens = 0, 0
        self._sum: Tensor = torch.zeros((), dtype=torch.float64)
        self._squares, self._products, self._lengths = self._sum, self._sum, 0

    def add(self, sums: Float[Tensor, "rows what numbers"], tokens: Int[Tensor, " rows"]) -> None:
        """Take in whole rows; those without a token are left out.

        Args:
            sums: Sums of the quantities over the tokens of each row.
            tokens: Number of tokens of each row.
        """
        kept = tokens > 0
        sums, tokens = sums[kept].double().cpu(), tokens[kept].cpu()
        self.rows += len(tokens)
        self.tokens += int(tokens.sum())
        self._lengths += int((tokens**2).sum())
        self._sum = self._sum + sums.sum(0)
        self._squares = self._squares + (sums**2).sum(0)
        self._products = self._products + torch.tensordot(tokens.double(), sums, dims=1)

    def merge(self, other: "RowMeans") -> None:
        """Take in the rows that another one took in."""
        self.rows += other.rows
        self.tokens += other.tokens
        self._lengths += other._lengths
        self._sum = self._sum + other._sum
        self._squares = self._squares + other._squares
        self._products = self._products + other._products

    @property
    def mean(self) -> Float[Tensor, "*what numbers"]:
        """Sum of all tokens by their number."""
        return self._sum / self.tokens

    @property
    def half_width(self) -> Float[Tensor, "*what numbers"]:
        """Half the 95 % interval of the mean; NaN for fewer than two rows."""
        if self.rows < 2:
            return torch.full_like(self._sum, torch.nan)
        mean = self.mean
        spread = self._squares - 2 * mean * self._products + mean**2 * self._lengths
        variance = spread.clamp(min=0) * self.rows / (self.rows - 1)
        return NORMAL_95 * variance.sqrt() / self.tokens


class CalibrationError:
    """How far stated probabilities lie from observed shares, for some exits."""

    def __init__(self, exits: int) -> None:
        """Begin with no tokens.

        Args:
            exits: How many exits are asked, E.
        """
        self._bins = torch.zeros(exits * BINS, 3, dtype=torch.float64)

    def add(
        self, confidence: Float[Tensor, "tokens exits"], correct: Float[Tensor, "tokens exits"]
    ) -> None:
        """Take in tokens.

        Args:
            confidence: Probability of the best token.
            correct: 1 where it was right, else 0.
        """
        places = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
        places = places + torch.arange(places.shape[1], device=places.device) * BINS
        each = torch.stack((torch.ones_like(confidence), confidence, correct), -1)
        self._bins.index_add_(0, places.flatten().cpu(), each.flatten(0, 1).double().cpu())

    def merge(self, other: "CalibrationError") -> None:
        """Take in the tokens that another one took in."""
        self._bins += other._bins

    @property
    def error(self) -> Float[Tensor, " exits"]:
        """Mean over tokens of the gap between probability and share of its bin, 0 to 1."""
        count, confidence, correct = self._bins.reshape(-1, BINS, 3).unbind(-1)
        return (confidence - correct).abs().sum(-1) / count.sum(-1)


def oracle_places(agrees: Bool[Tensor, "tokens exits"]) -> Int[Tensor, " tokens"]:
    """Find the first exit of each token from which on every exit gives the final answer.

    Args:
        agrees: Whether the exits, shallowest first, give it; the last one is the last layer.

    Example:
        >>> oracle_places(torch.tensor([[True, False, True], [False, True, True]])).tolist()
        [2, 1]
    """
    from_here_on = agrees.int().flip(-1).cumprod(-1)
    return agrees.shape[-1] - from_here_on.sum(-1)
