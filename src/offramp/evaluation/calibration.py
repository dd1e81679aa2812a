"""Find the threshold of early exit that keeps a risk under a bound, and say what it saves.

In:  a replay of recorded texts. Out: a ``Calibration``, which is a value and JSON. Pure: no model.
Law: over the draw of texts, the true risk at the threshold exceeds the bound with probability at
     most 1 - confidence; where confidences know nothing, nothing is saved
     (tests/evaluation/test_calibration.py).
Not here: replaying (offramp.evaluation.replay), the tests (offramp.evaluation.risk).
Sources: Schuster et al. 2022, "CALM", arXiv:2207.07061, section 4; Angelopoulos et al. 2021, "Learn
     then Test", arXiv:2110.01052. Differs from CALM: the risk is disagreement with the whole model
     token by token, not the distance of whole texts; p-values by betting, which pass more.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from offramp.errors import ConfigError, InputError
from offramp.evaluation.replay import Ladder, Replay
from offramp.evaluation.risk import Test, check_share, learn_then_test, texts_needed

AGREEMENT = "agreement"
"""The metric of a risk that is a share of changed tokens."""

Per: TypeAlias = Literal["text", "token"]
"""Whether the risk is the mean over texts of each text's share, or the share of all tokens."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A threshold, the promise that it keeps, and what it saved on the texts of calibration.

    Attributes:
        rule: Where confidences came from, such as ``gate``.
        ladder: The exits; ``ladder.thresholds`` gives each one's own from the threshold.
        per: What the risk is a mean over.
        test: How losses were turned into p-values.
        bound: The risk stays below this, 0 to 1,
        confidence: with this probability over the draw of texts, 0 to 1.
        threshold: The knob of the ladder; a token leaves where it is surer than this. None: not
            even the safest threshold passed.
        risk: Share of tokens that change, or the loss in the metric, on the texts of calibration;
            None without a threshold.
        mean_blocks: Blocks that run for a token; all without a threshold.
        num_texts: How many texts were used.
        num_tokens: How many tokens they have.
        metric: What the risk is a loss in: ``agreement`` with the whole model, token by token, or
            a metric of ``offramp.evaluation.text_risk``.
    """

    rule: str
    ladder: Ladder
    per: Per
    test: Test
    bound: float
    confidence: float
    threshold: float | None
    risk: float | None
    mean_blocks: float
    num_texts: int
    num_tokens: int
    metric: str = AGREEMENT

    def __post_init__(self) -> None:
        check_share("bound", self.bound)
        check_share("confidence", self.confidence)
        if (self.threshold is None) != (self.risk is None):
            raise ConfigError(
                f"threshold {self.threshold} and risk {self.risk} contradict each other; give both "
                "or neither"
            )
        for name, value, highest in (
            ("threshold", self.threshold, 1.0),
            ("risk", self.risk, 1.0),
            ("mean_blocks", self.mean_blocks, float(self.ladder.depth)),
        ):
            if value is not None and not 0 <= value <= highest:
                raise ConfigError(
                    f"{name} must be from 0 to {highest:g}, got {value}; take what calibrate gave"
                )
        if not 1 <= self.num_texts <= self.num_tokens:
            raise ConfigError(
                f"got {self.num_texts} texts and {self.num_tokens} tokens; there must be a text, "
                "and a token in each"
            )

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """Threshold of each exit of the ladder, exact in float32."""
        if self.threshold is None:
            return None
        knobs = torch.tensor([self.threshold], dtype=torch.float64)
        return tuple(self.ladder.thresholds(knobs)[0].tolist())

    @property
    def saved(self) -> float:
        """Share of blocks that did not run, 0 to 1."""
        return 1 - self.mean_blocks / self.ladder.depth

    @property
    def usable(self) -> bool:
        """Whether there is a threshold that saves anything; to never exit keeps any bound."""
        return self.threshold is not None and self.saved > 0

    @property
    def reason(self) -> str:
        """Why it is not usable and what to do, in one line; empty if it is."""
        if self.usable:
            return ""
        asked = f"a risk below {self.bound:g} with confidence {self.confidence:g}"
        needed = texts_needed(self.bound, self.confidence, test=self.test)
        if self.num_texts < needed:
            return (
                f"{self.num_texts} texts cannot show {asked}, even if no token changes; give at "
                f"least {needed}"
            )
        if self.threshold is None:
            return f"not even the safest threshold shows {asked}; begin at 1 or give more texts"
        return (
            f"no threshold that saves a block shows {asked}; raise the bound, give more texts or "
            "train the exits further"
        )

    def as_dict(self) -> dict[str, Any]:
        """Give what JSON can hold: the fields, those of the ladder, and what follows from them."""
        own = asdict(self)
        ladder = {name: _list(each) for name, each in own.pop("ladder").items()}
        derived = {name: _list(getattr(self, name)) for name in _DERIVED}
        return {**own, **ladder, **derived}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Calibration":
        """Read what ``as_dict`` gave.

        Raises:
            InputError: A field is missing, unknown, of the wrong kind or impossible, or what was
                derived does not follow from the rest.
        """
        _check_fields(values)
        own = {name: _tuple(values[name]) for name in _FIELDS}
        try:
            ladder = Ladder(**{name: own.pop(name) for name in _LADDER})
            found = cls(ladder=ladder, **own)
        except ConfigError as error:
            raise InputError(f"impossible calibration: {error}") from None
        _check_derived(values, found)
        return found


def calibrate(
    played: Replay,
    *,
    rule: str,
    bound: float,
    confidence: float = 0.95,
    per: Per = "text",
    longest: int | None = None,
    test: Test = "betting",
) -> Calibration:
    """Find the boldest threshold of a replay whose risk is shown to be below a bound.

    The texts must be drawn independently from those that the promise is for, so that rows cut from
    one document are one text; and nothing may have been fitted on them, exits and gates included.
    Whole texts are the unit of evidence either way, since tokens of one text hang together; ``per``
    only says whether a text counts once or as often as it has tokens.

    Args:
        played: Thresholds from the safest, best 1, to the boldest, fixed without these texts.
        rule: Name of what gave the confidences.
        bound: Share of tokens that may change, between 0 and 1; 0.05 for an agreement of 95 %.
        confidence: Probability, over the draw of texts, that the bound holds, between 0 and 1.
        per: ``text`` for the mean over texts of each text's share, ``token`` for the share of all
            tokens.
        longest: For ``token``: tokens that no text can exceed, known without these texts.
        test: See ``learn_then_test``.

    Raises:
        ConfigError: ``bound`` or ``confidence`` is not between 0 and 1, ``test`` or ``per`` is
            unknown, or ``longest`` is missing.
        InputError: A text is longer than ``longest``.

    Example:
        >>> from offramp.evaluation.replay import Recorded, replay
        >>> sure, right = torch.tensor([[0.9], [0.1]]), torch.tensor([[True], [False]])
        >>> played = replay([Recorded(sure, right)] * 80, ladder=Ladder(exits=(6,), depth=24))
        >>> found = calibrate(played, rule="gate", bound=0.05)
        >>> found.usable, found.saved, 0.1 <= found.threshold < 0.15
        (True, 0.375, True)
        >>> calibrate(played, rule="gate", bound=0.01).reason
        '80 texts cannot show a risk below 0.01 with confidence 0.95, even if no token changes; ...'
    """
    check_share("bound", bound)
    if per not in get_args(Per):
        raise ConfigError(f"per must be one of {', '.join(get_args(Per))}, got {per!r}")
    losses = played.losses if per == "text" else _token_losses(played, bound, longest)
    row = learn_then_test(losses, bound=bound, confidence=confidence, test=test)
    threshold = risk = None
    if row is not None:
        threshold = float(played.thresholds[row])
        shares = played.losses[row].mean(), played.changed[row].sum() / played.tokens.sum()
        risk = float(shares[get_args(Per).index(per)])
    return Calibration(
        rule=rule,
        ladder=played.ladder,
        per=per,
        test=test,
        bound=bound,
        confidence=confidence,
        threshold=threshold,
        risk=risk,
        mean_blocks=float(played.ladder.depth if row is None else played.blocks[row]),
        num_texts=len(played.tokens),
        num_tokens=int(played.tokens.sum()),
    )


def _token_losses(
    played: Replay, bound: float, longest: int | None
) -> Float[Tensor, "thresholds texts"]:
    """Give losses from 0 to 1 whose mean is below the bound where the share of tokens is.

    With a changed tokens of n in a text and n <= N: E[a] < bound E[n] just where the mean of
    (a + bound (N - n)) / N is below the bound.
    """
    if longest is None:
        raise ConfigError(
            "per='token' needs longest, the tokens that no text can exceed, such as the length to "
            "which texts were cut; or use per='text'"
        )
    if longest < played.tokens.max():
        raise InputError(
            f"a text has {int(played.tokens.max())} tokens, more than longest={longest}; cut texts "
            "before recording them, or raise longest"
        )
    return (played.changed + bound * (longest - played.tokens.double())) / longest


_LADDER = tuple(field.name for field in fields(Ladder))
_FIELDS = (*_LADDER, *(field.name for field in fields(Calibration) if field.name != "ladder"))
_CHOICES = {"per": get_args(Per), "test": get_args(Test)}
_WORDS = ("rule", "metric", *_CHOICES)
_WHOLE = ("exits", "depth", "min_exit", "num_texts", "num_tokens")
_LISTS = ("exits", "offsets")
_MAY_MISS = ("offsets", "threshold", "risk")
_DERIVED = ("thresholds", "saved", "usable", "reason")


def _check_fields(values: Mapping[str, Any]) -> None:
    """Refuse fields that are missing, unknown or of the wrong kind."""
    given = set(values) if isinstance(values, Mapping) else set()
    missing, unknown = sorted({*_FIELDS} - given), sorted(given - {*_FIELDS, *_DERIVED}, key=str)
    if missing or unknown:
        raise InputError(
            f"not a calibration: missing {missing}, unknown {unknown}; give what as_dict gave"
        )
    for name in _FIELDS:
        if not _fits(name, values[name]):
            raise InputError(
                f"calibration field {name!r} cannot be {values[name]!r}; give what as_dict gave"
            )


def _fits(name: str, value: Any) -> bool:
    if value is None:
        return name in _MAY_MISS
    if name in _LISTS and not isinstance(value, (list, tuple)):
        return False
    if name in _CHOICES and value not in _CHOICES[name]:
        return False
    kinds = str if name in _WORDS else int if name in _WHOLE else (int, float)
    parts = value if name in _LISTS else [value]
    return all(isinstance(part, kinds) and not isinstance(part, bool) for part in parts)


def _check_derived(values: Mapping[str, Any], found: Calibration) -> None:
    """Refuse what does not follow from the rest, up to how another machine rounds."""
    expected = found.as_dict()
    for name in ("thresholds", "saved", "usable"):
        said, right = values.get(name, expected[name]), expected[name]
        try:
            same = torch.allclose(torch.tensor(said).double(), torch.tensor(right).double())
        except (TypeError, ValueError, RuntimeError):  # None, words, lists of another length
            same = said == right
        if not same:
            raise InputError(
                f"calibration says {name} is {said!r}, but the rest makes it {right!r}; calibrate "
                "again"
            )


def _list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
