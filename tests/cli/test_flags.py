"""Options made from settings: one for each field, with its default and its text."""

import dataclasses
import inspect

import pytest

from offramp.cli.flags import texts_of, with_settings
from offramp.training.finetuning_settings import FinetuneSettings
from offramp.training.pretraining_settings import PretrainSettings


@with_settings(FinetuneSettings, panels={"seed": "Elsewhere"}, panel="Here")
def show(*, name: str = "x", settings=None) -> None:
    """Show what came."""
    seen.append((name, settings))


seen: list = []


@pytest.mark.parametrize("settings", [FinetuneSettings, PretrainSettings])
def test_every_field_has_one_text(settings):
    texts = texts_of(settings)

    assert list(texts) == [field.name for field in dataclasses.fields(settings)]
    assert all(text.endswith(".") and "  " not in text for text in texts.values())


def test_every_field_is_an_option_with_its_default():
    parameters = inspect.signature(show).parameters

    assert list(parameters) == ["name", *[x.name for x in dataclasses.fields(FinetuneSettings)]]
    for field in dataclasses.fields(FinetuneSettings):
        assert parameters[field.name].default == field.default
    option = parameters["seed"].annotation.__metadata__[0]
    assert (option.help, option.rich_help_panel) == (
        "Decides order, dropout and everything drawn.",
        "Elsewhere",
    )


def test_a_command_is_given_the_settings():
    given = {field.name: field.default for field in dataclasses.fields(FinetuneSettings)}

    show(**{**given, "name": "y", "seed": 7})

    assert seen.pop() == ("y", FinetuneSettings(seed=7))
