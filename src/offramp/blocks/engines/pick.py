"""Choose the engine for a model."""

from offramp.blocks.anatomy import Anatomy
from offramp.blocks.engines.engine import Engine
from offramp.blocks.engines.family import FamilyEngine
from offramp.blocks.engines.plain import PlainEngine, fits
from offramp.errors import ConfigError


def engine_for(anatomy: Anatomy, name: str = "auto") -> Engine:
    """Give the fastest engine that computes what the model's own blocks do.

    Args:
        anatomy: The model's parts.
        name: ``"plain"``, ``"family"``, or ``"auto"``: plain where it fits.

    Raises:
        ConfigError: No such engine, or it does not know this family.
    """
    if name == "family" or (name == "auto" and not fits(anatomy)):
        return FamilyEngine(anatomy)
    if name not in ("auto", "plain"):
        raise ConfigError(f"no engine {name!r}; use auto, plain or family")
    if not fits(anatomy):
        raise ConfigError(
            f"engine 'plain' does not know the blocks of {anatomy.config.model_type} (or they "
            "have sliding windows, are on several devices or in training); use 'family'"
        )
    return PlainEngine(anatomy)
