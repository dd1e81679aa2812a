"""Say how a text is written in one pass.

In:  values that travel with a call of ``generate`` of an ELMER model. Out: the same, checked.
Law: whatever is left at its default changes nothing, what is not is checked; nothing here is drawn
     from a reference (tests/decoding/test_oneshot.py).
Not here: the writing (offramp.models.elmer.writing), how sure an exit is (offramp.logits.rules).
Source: Li et al. 2022, "ELMER", arXiv:2210.13304, section 3.3 (hard exit); Ghazvininejad et al.
     2019, "Mask-Predict", arXiv:1904.09324 (refinement, several lengths); Huang et al. 2022,
     "DA-Transformer", arXiv:2205.07459 (paths).
"""

import math
from dataclasses import dataclass

from offramp.errors import ConfigError

CANVAS_RULES = ("gate", "entropy", "top_probability", "top_gap", "saturation", "patience")
"""Ways to say that a position has its answer."""

PATHS = ("lookahead", "greedy", "viterbi", "beam")
SEARCHES = ("viterbi", "beam")
"""Paths that are found among those of all lengths."""


@dataclass(frozen=True, kw_only=True)
class OneShot:
    """Write every token at once.

    Attributes:
        exit_rule: When a position leaves the layers, its state copied to all later ones: ``gate``
            (learnt), ``entropy`` (1 minus its share of the largest), ``top_probability``,
            ``top_gap``, ``saturation`` (cosine with the state before), ``patience`` (so many exits
            in a row have the same best token); None never.
        threshold: Leave above this confidence, 0 to 1; 1 never. For ``patience`` how many exits
            must agree. None is the gates' own, for ``gate``.
        exits: At which exits it is asked, each a number of layers; None is all but the last.
        min_exit: No position leaves below this exit.
        canvas_length: Tokens that there is room for; None is what the model's configuration says.
        lengths: So many of the likeliest lengths are tried, the best text of all is kept; above 1
            it needs a model with a length predictor.
        refine_steps: Times that the least sure tokens are masked again and rewritten.
        path: How a directed acyclic decoder is read: ``lookahead``, ``greedy``, ``viterbi``, or
            ``beam``, which keeps the five starts of texts that are likeliest over all their paths
            and takes many times as long.
        length_penalty: With ``viterbi`` and ``beam`` log-probabilities are divided by the length
            to this power: more prefers longer texts; 0 or above. Choose it on texts held out.
        collapse_repeats: Drop a token that repeats the one before it.
        no_repeat_ngram: No row of so many tokens is written twice; 0 allows it.
        temperature: Draw tokens at this temperature; 0 takes the likeliest.

    Raises:
        ConfigError: A value is unknown or out of range.

    Example:
        >>> OneShot(exit_rule="entropy", threshold=0.9).min_exit
        1
    """

    exit_rule: str | None = None
    threshold: float | None = None
    exits: tuple[int, ...] | None = None
    min_exit: int = 1
    canvas_length: int | None = None
    lengths: int = 1
    refine_steps: int = 0
    path: str = "lookahead"
    length_penalty: float = 1.0
    collapse_repeats: bool = False
    no_repeat_ngram: int = 0
    temperature: float = 0.0

    def __post_init__(self) -> None:
        self._check_rule()
        if self.path not in PATHS:
            raise ConfigError(f"no path {self.path!r}; use one of {', '.join(PATHS)}")
        self._check_penalty()
        lowest = {"min_exit": 1, "lengths": 1, "refine_steps": 0, "no_repeat_ngram": 0}
        for name, least in lowest.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.canvas_length is not None and self.canvas_length < 1:
            raise ConfigError(f"canvas_length must be at least 1, got {self.canvas_length}")
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(
                f"temperature must be 0 (the likeliest) or above, got {self.temperature}; try 0.7"
            )
        if self.lengths > 1 and self.canvas_length is not None:
            raise ConfigError("lengths are predicted, canvas_length is given; leave one of the two")

    def _check_penalty(self) -> None:
        penalty = self.length_penalty
        if not 0 <= penalty < math.inf:
            raise ConfigError(f"length_penalty must be 0 or above, got {penalty}; try 1.3")
        if penalty != OneShot.length_penalty and self.path not in SEARCHES:
            raise ConfigError(
                f"length_penalty {penalty} is for path {' and '.join(SEARCHES)}, which compare "
                f"texts of several lengths; {self.path!r} does not"
            )

    def _check_rule(self) -> None:
        rule, threshold = self.exit_rule, self.threshold
        if rule is None:
            for name in ("threshold", "exits", "min_exit"):
                if getattr(self, name) != getattr(OneShot, name):
                    raise ConfigError(
                        f"{name} {getattr(self, name)} without exit_rule; try 'entropy'"
                    )
            return
        if rule not in CANVAS_RULES:
            raise ConfigError(f"no exit_rule {rule!r}; use one of {', '.join(CANVAS_RULES)}")
        if rule == "patience":
            if threshold is None or threshold not in range(2, 1000):
                raise ConfigError(
                    "patience needs how many exits must agree as threshold, at least 2; got "
                    f"{threshold!r}"
                )
        elif threshold is None:
            if rule != "gate":
                raise ConfigError(f"exit_rule {rule!r} needs a threshold from 0 to 1; try 0.9")
        elif not 0 <= threshold <= 1:
            raise ConfigError(f"threshold must be from 0 to 1, got {threshold}; try 0.9")
