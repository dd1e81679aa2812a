"""Choose the exits that ``offramp train`` trains, and how.

In:  the options and a loaded model. Out: fresh exits on it, and checked settings.
Law: what contradicts a recipe is refused, by the name of its option (tests/cli/test_train.py).
"""

from dataclasses import replace
from typing import Any

from offramp.blocks.projections import Cast, Lens
from offramp.cli.kept import KeptText
from offramp.cli.settings import flag
from offramp.cli.training import Training
from offramp.config import parse_exits
from offramp.errors import ConfigError
from offramp.models.attach import attach_exits
from offramp.training.settings import TrainSettings, published_recipe


def attach(model: Any, settings: Training) -> tuple[int, ...]:
    """Attach fresh exits, if any are asked for or the model brings none.

    Exits that the model brings at other blocks stay as they are.

    Returns:
        The numbers of the fresh exits; none, if those that the model brings go on.

    Raises:
        ConfigError: The exits do not suit the model, or those it brings do not suit the recipe.
        ExitNotFoundError: The model has fewer blocks.
    """
    brought = {each.mode.short for each in model.exits.values()}
    if settings.exits is None and settings.projection is None and brought:
        if settings.published and brought != {"head"}:
            raise ConfigError(
                f"--recipe published trains head exits, the model brings {', '.join(brought)}; "
                "add --projection head"
            )
        return ()
    end = model.depth + settings.published  # the published model has a head at its last layer, too
    numbers = range(2, end, 2) if settings.exits is None else parse_exits(settings.exits)
    projection = settings.projection or ("head" if settings.published else "lens")
    attach_exits(model, numbers, projection)
    return tuple(numbers)


def settings_of(settings: Training, fresh: tuple[int, ...], kept: KeptText | None) -> TrainSettings:
    """Give the settings of the training.

    Args:
        settings: The options.
        fresh: Exits that were attached; if none, all exits of the model are trained.
        kept: States to train from; full ones decide the positions and the batch size.

    Raises:
        ConfigError: A setting is out of its range, or contradicts the recipe or the states.
    """
    given = dict(settings.given)
    chosen = TrainSettings(**given, exits=fresh or None)
    if settings.published:
        chosen = published_recipe(chosen)
        against = [name for name, value in given.items() if getattr(chosen, name) != value]
        if against:
            told = ", ".join(f"{flag(name)} {given[name]}" for name in against)
            own = ", ".join(f"{getattr(chosen, name)}" for name in against)
            raise ConfigError(
                f"{told} contradicts --recipe published, which has {own}; leave one of them out"
            )
    if kept is None or not kept.positions:
        return chosen
    decided = ("positions", "batch_size")
    kept.check(**{name: given[name] for name in decided if name in given})
    return replace(chosen, **{name: kept.facts[name] for name in decided})


def fitted_exits(
    model: Any,
    numbers: tuple[int, ...],
    settings: Training,
    training: TrainSettings,
    *,
    fresh: bool,
) -> tuple[int, ...]:
    """Give the exits that start from a least-squares fit.

    Args:
        model: With exits.
        numbers: Exits that are trained.
        settings: The options.
        training: What they became.
        fresh: Whether the exits were attached just now.

    Raises:
        ConfigError: A fit is asked for, but no exit has one, or there is no text.
    """
    able = tuple(e for e in numbers if isinstance(model.exits[str(e)], Cast | Lens))
    asked = settings.closed_form or settings.fit_only or settings.closed_form_tokens is not None
    if asked and not able:
        raise ConfigError(
            "nothing to fit: only lens and cast exits have a closed form; add --projection lens, "
            "or leave out --closed-form and --fit-only"
        )
    if asked and not settings.texts.data:
        raise ConfigError("--closed-form reads text; add --data")
    distils = training.objective == "distillation" and bool(settings.texts.data)
    wanted = asked or (settings.closed_form is None and fresh and distils)
    return able if wanted else ()
