"""Find the contrast under which a text is the most likely.

In:  a model with exits, a text of people. Out: a pair of exits, and whether it is worth it.
Not here: measuring (offramp.evaluation.exits), the contrast (offramp.logits.contrast).

Text that the model wrote itself cannot show it: the model's own scores are the best for that.
"""

from collections.abc import Callable, Iterable
from typing import Any

from offramp.config import ORIGINAL
from offramp.decoding.calibrated import CalibratedContrast
from offramp.decoding.rules import Contrast
from offramp.errors import ConfigError
from offramp.evaluation.exits import measure_exits
from offramp.evaluation.reading import Batch

ALPHA = 0.1
MOST = 8
"""Lower exits to try, evenly spread over those attached."""


def best_contrast(
    model: Any, batches: Iterable[Batch], *, advance: Callable[[int], None] = lambda rows: None
) -> CalibratedContrast:
    """Try the last layer against some of the attached exits.

    Args:
        model: A model with exits.
        batches: As for ``measure_exits``.
        advance: Called after each batch with its number of rows.

    Raises:
        ConfigError: The model has no exit below its last layer.
        InputError: There is no token to predict.
    """
    attached = [exit for exit in model.exit_numbers if exit < model.depth]
    if not attached:
        raise ConfigError("a contrast needs an exit below the last layer; attach some")
    step = max(1, -(-len(attached) // MOST))
    rules = {str(exit): Contrast(lower=exit, alpha=ALPHA) for exit in attached[::step]}
    report = measure_exits(model, batches, exits=attached[:1], rules=rules, advance=advance)
    best = min(report.rules, key=lambda each: each.cross_entropy)
    plain = report.exits[-1].cross_entropy
    return CalibratedContrast(
        upper=ORIGINAL,
        lower=int(best.decoding),
        alpha=ALPHA,
        cross_entropy=best.cross_entropy,
        plain=plain,
        used=best.cross_entropy < plain,
    )
