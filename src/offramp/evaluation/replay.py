"""Play early exit on recorded texts, for many thresholds at once.

In:  for every token of some texts, how sure each exit was and whether it said what the whole model
     says. Out: for every threshold, how often each text's tokens would have changed, and how many
     blocks would have run. Pure: no model.
Law: at threshold 1 every token runs the whole model and nothing changes; the numbers are those of
     a walk through exits token by token (tests/evaluation/test_replay.py).
Not here: recording; what follows from the losses (offramp.evaluation.calibration).
Source: Schuster et al. 2022, "CALM", arXiv:2207.07061, section 3.

What a replay knows. Each token is judged with the prefix of the record and with states of the
whole model below it. So a loss is the share of single tokens that change, given that prefix, as
with deferred fill of the cache; it is not how far two texts drift apart once one token differs.
To bound that, let the model write with every threshold, and hand the losses of whole texts to
``offramp.evaluation.risk.learn_then_test``.

Which thresholds. Learn-then-Test needs them before it sees the texts it tests. Quantiles of the
same texts' confidences are seen too late: the theorem does not cover them, although they are no
losses. So they are a fixed grid, even in log-odds, since that is where gates and softmax differ
near 0 and 1; or quantiles of *other* texts, for confidences that crowd in a narrow range. Steps
cost no confidence in a fixed sequence, only time: 200 leave at most 0.12 of log-odds unused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from offramp.errors import ConfigError, InputError

STEPS = 200
HIGHEST, LOWEST = 15.0, -8.0
"""Log-odds between which the grid lies; float32 knows few numbers between sigmoid(15) and 1."""


class Recorded(NamedTuple):
    """One text as its exits saw it; column k belongs to the k-th exit of the ladder.

    Attributes:
        confidence: 0 to 1, higher is surer.
        agrees: Whether the exit's best token is the whole model's.
    """

    confidence: Float[Tensor, "tokens exits"]
    agrees: Bool[Tensor, "tokens exits"]


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """The exits at which a token may leave, and how their thresholds hang together.

    A token leaves at the first exit that is surer than its threshold, else at the last layer. One
    number, the knob, sets all thresholds: that of an exit is sigmoid(logit(knob) + offset).

    Attributes:
        exits: Numbers, ascending, below ``depth``.
        depth: Number of blocks, L.
        min_exit: No token leaves at an exit below this.
        offsets: Log-odds for each exit, positive for exits that are to be surer; like the grid,
            they must not come from the texts that are tested. None: one threshold for all.
    """

    exits: tuple[int, ...]
    depth: int
    min_exit: int = 0
    offsets: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        exits, depth = self.exits, self.depth
        if not exits or list(exits) != sorted(set(exits)) or not 0 <= exits[0] <= exits[-1] < depth:
            raise ConfigError(
                f"exits must ascend from 0 or above and lie below the depth {depth}, which "
                f"answers without being asked; got {exits}"
            )
        if self.min_exit > exits[-1]:
            raise ConfigError(
                f"min_exit {self.min_exit} leaves no exit of {exits}; name at most {exits[-1]}"
            )
        if self.offsets is not None and len(self.offsets) != len(exits):
            raise ConfigError(
                f"got {len(self.offsets)} offsets for {len(exits)} exits; give one for each"
            )
        if not torch.tensor(self.offsets or (0.0,)).isfinite().all():
            raise ConfigError(
                f"offsets must be finite, got {self.offsets}; leave an exit out to forbid it"
            )

    def thresholds(self, knobs: Float[Tensor, " knobs"]) -> Float[Tensor, "knobs exits"]:
        """Give the thresholds that knobs set, as float32, in which they are to be compared.

        Example:
            >>> ladder = Ladder(exits=(6, 12), depth=24, offsets=(1.0, 0.0))
            >>> ladder.thresholds(torch.tensor([1.0, 0.5]))
            tensor([[1.0000, 1.0000],
                    [0.7311, 0.5000]])
        """
        if self.offsets is None:
            return knobs.float()[:, None].expand(-1, len(self.exits))
        offsets = torch.tensor(self.offsets, dtype=torch.float64, device=knobs.device)
        return (knobs.double().logit()[:, None] + offsets).sigmoid().float()


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What would have happened to M texts at T thresholds.

    Attributes:
        ladder: The exits.
        thresholds: Knobs of the ladder, from the safest to the boldest.
        changed: Tokens of each text whose best token changes; float64.
        tokens: Tokens of each text.
        blocks: Blocks that run for a token, in the mean over all tokens.
    """

    ladder: Ladder
    thresholds: Float[Tensor, " thresholds"]
    changed: Float[Tensor, "thresholds texts"]
    tokens: Int[Tensor, " texts"]
    blocks: Float[Tensor, " thresholds"]

    @property
    def losses(self) -> Float[Tensor, "thresholds texts"]:
        """Share of each text's tokens that change."""
        return self.changed / self.tokens

    @property
    def saved(self) -> Float[Tensor, " thresholds"]:
        """Share of blocks that need not run, 0 to 1."""
        return 1 - self.blocks / self.ladder.depth

    def saved_at(self, agreement: float) -> float:
        """Give the most that any threshold saves on these texts with at least this agreement.

        This looks at the losses to choose, so it describes these texts and promises nothing.

        Args:
            agreement: Least share of all tokens that must not change, 0 to 1.

        Returns:
            Share of blocks, 0 to 1; 0 if no threshold agrees so much.
        """
        kept = self.changed.sum(-1) <= (1 - agreement) * self.tokens.sum() + 1e-9
        return float(self.saved[kept].max()) if kept.any() else 0.0


def threshold_grid(
    steps: int = STEPS, *, like: Float[Tensor, "*tokens"] | None = None
) -> Float[Tensor, " thresholds"]:
    """Give thresholds from 1, which never stops, down to 0, which stops at once.

    Args:
        steps: How many, 3 or more; fewer where float32 has not so many numbers.
        like: Confidences of texts other than those that will be tested: take their quantiles, not
            steps of equal log-odds.

    Returns:
        Float32, descending.

    Raises:
        ConfigError: ``steps`` is below 3.
        InputError: A confidence is not from 0 to 1.

    Example:
        >>> threshold_grid(5)
        tensor([1.0000e+00, 1.0000e+00, 9.7069e-01, 3.3535e-04, 0.0000e+00])
    """
    if steps < 3:
        raise ConfigError(f"a grid needs 3 steps or more, got {steps}; try {STEPS}")
    if like is None:
        inner = torch.linspace(HIGHEST, LOWEST, steps - 2, dtype=torch.float64).sigmoid()
    else:
        _check_confidence(like, "the grid")
        ranked = like.flatten().sort().values
        places = torch.linspace(0, max(len(ranked) - 1, 0), steps - 2, dtype=torch.float64)
        inner = ranked[places.round().long()] if len(ranked) else ranked
    return torch.tensor(sorted({0.0, 1.0, *inner.float().tolist()}, reverse=True))


def replay(
    texts: Sequence[Recorded],
    *,
    ladder: Ladder,
    thresholds: Float[Tensor, " thresholds"] | None = None,
) -> Replay:
    """Let every token of recorded texts leave early, once for each threshold.

    Args:
        texts: One or more, each with at least one token.
        ladder: The exits.
        thresholds: Knobs from 1 to 0, not rising; they must not come from these texts. None:
            ``threshold_grid()``.

    Raises:
        ConfigError: Thresholds rise or lie outside 0 to 1.
        InputError: There is no text, or one is empty, has a column too many or too few, or a
            confidence that is not from 0 to 1.

    Example:
        >>> text = Recorded(torch.tensor([[0.9], [0.2]]), torch.tensor([[True], [False]]))
        >>> played = replay([text], ladder=Ladder(exits=(6,), depth=24),
        ...     thresholds=torch.tensor([1.0, 0.5, 0.1]))
        >>> played.losses.tolist(), played.blocks.tolist()
        ([[0.0], [0.0], [0.5]], [24.0, 15.0, 6.0])
    """
    knobs = threshold_grid() if thresholds is None else thresholds.float()
    _check_knobs(knobs)
    _check_texts(texts, ladder)
    first = sum(exit < ladder.min_exit for exit in ladder.exits)
    confidence = torch.cat([text.confidence.float() for text in texts])[:, first:]
    agrees = torch.cat([text.agrees for text in texts])[:, first:]
    wrong = torch.nn.functional.pad((~agrees).double(), (0, 1))
    tokens = torch.tensor([len(text.agrees) for text in texts])
    owners = torch.arange(len(texts)).repeat_interleave(tokens).to(wrong.device)
    depths = torch.tensor((*ladder.exits[first:], ladder.depth), dtype=torch.float64)
    stops = torch.ones(wrong.shape, dtype=torch.uint8, device=wrong.device)
    changed, blocks = [], []
    for row in ladder.thresholds(knobs)[:, first:]:
        stops[:, :-1] = confidence > row.to(confidence.device)
        places = stops.argmax(-1)  # the first of the largest
        lost = wrong.gather(-1, places[:, None])[:, 0]
        changed.append(lost.new_zeros(len(texts)).index_add_(0, owners, lost).cpu())
        left = places.bincount(minlength=len(depths)).cpu().double()
        blocks.append(left @ depths / left.sum())
    return Replay(
        ladder=ladder,
        thresholds=knobs.cpu(),
        changed=torch.stack(changed),
        tokens=tokens,
        blocks=torch.stack(blocks),
    )


def _check_knobs(knobs: Tensor) -> None:
    if not len(knobs) or not ((knobs >= 0) & (knobs <= 1)).all() or (knobs.diff() > 0).any():
        raise ConfigError(
            f"thresholds must go down from at most 1 to at least 0, got {knobs.tolist()[:4]}; "
            "sort them, safest first, or leave them out"
        )


def _check_texts(texts: Sequence[Recorded], ladder: Ladder) -> None:
    if not texts:
        raise InputError("there is no text to play; record at least one")
    for number, (confidence, agrees) in enumerate(texts):
        shape, width = tuple(confidence.shape), len(ladder.exits)
        if shape != tuple(agrees.shape) or len(shape) != 2 or shape[0] < 1 or shape[1] != width:
            raise InputError(
                f"text {number} has confidences {list(shape)} and agreements "
                f"{list(agrees.shape)}; both must be [tokens, {width}], one column for each of the "
                f"exits {ladder.exits}, and one token or more"
            )
        if agrees.dtype != torch.bool:
            raise InputError(f"agreements of text {number} are {agrees.dtype}; make them bool")
        _check_confidence(confidence, f"text {number}")


def _check_confidence(confidence: Tensor, where: str) -> None:
    wrong = confidence[~((confidence >= 0) & (confidence <= 1))]
    if len(wrong):
        raise InputError(
            f"a confidence must be from 0 to 1, got {wrong[0].item():g} in {where}; take the "
            "sigmoid of log-odds"
        )
