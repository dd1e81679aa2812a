"""Load the encoder-decoders that a command names, and make of the options how each writes.

In:  names and settings. Out: writers.
Law: what cannot read a source is refused before it is loaded (tests/cli/test_seq2seq.py).
Not here: models that answer from exits (offramp.cli.loading).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from offramp.cli.loading import HUB_NAME, device_of
from offramp.decoding.oneshot import CANVAS_RULES, OneShot
from offramp.errors import CheckpointError, ConfigError, OfframpError, first_line
from offramp.evaluation.seq2seq import Writer, WriteSettings
from offramp.models.auto import load_base
from offramp.models.checkpoint import find_file
from offramp.models.elmer import ElmerForConditionalGeneration
from offramp.models.elmer.published import published_config
from offramp.models.shipped import shipped_folder


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model that was named, before it is loaded.

    Attributes:
        name: What the user named.
        place: Where it lies: the name, but the folder of a model that is shipped.
        one_pass: Whether it is an ELMER model, ours or a published one.
        auto: What the dtype ``"auto"`` means; that of the file, but float32 for models that are
            shipped: their files are rounded to be small, and not every processor is fast with that.
    """

    name: str
    place: str
    one_pass: bool
    auto: str = "auto"

    def load(self, settings: WriteSettings, *, dtype: str, device: str) -> Writer:
        """Load the model and its tokenizer.

        Args:
            settings: How it writes.
            dtype: ``"auto"`` or a name of torch.
            device: ``"auto"`` or a name of torch.

        Raises:
            ConfigError: The device cannot be used, or it is a decoder only.
            CheckpointError: The model or its tokenizer cannot be loaded.
        """
        place = device_of(device)
        dtype = self.auto if dtype == "auto" else dtype
        model = self._elmer(dtype) if self.one_pass else load_base(self.place, {"dtype": dtype})
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.place)
        except Exception as error:  # over damaged files its readers raise anything
            raise CheckpointError(
                f"cannot load the tokenizer of {self.name!r}: {first_line(error)}; save it into "
                "the folder of the model"
            ) from error
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return Writer(model.to(place), tokenizer, settings)

    def _elmer(self, dtype: str) -> Any:
        config = published_config(self.place, {})
        if config is None:
            return load_base(self.place, {"dtype": dtype})
        try:
            return ElmerForConditionalGeneration.from_pretrained(
                self.place, config=config, dtype=dtype
            )
        except OfframpError:
            raise
        except Exception as error:  # as above
            raise CheckpointError(f"cannot load {self.name!r}: {first_line(error)}") from error


def find_source(name: str) -> Source:
    """Look at the configuration of a model that shall read sources.

    Args:
        name: Folder or hub name.

    Raises:
        CheckpointError: There is none.
        ConfigError: It is a decoder only.
    """
    place = _place_of(name)
    if not os.path.isdir(place) and not HUB_NAME.fullmatch(name):
        raise CheckpointError(
            f"--model {name!r} is no folder, nor a hub name such as owner/name; check the path"
        )
    if find_file(place, "config.json", {}) is None:
        raise CheckpointError(
            f"{name} holds no config.json; name the folder or hub name of an encoder-decoder"
        )
    config = _configuration(place)
    if not config.is_encoder_decoder:
        raise ConfigError(
            f"--model {name} is a decoder only ({config.model_type}), which reads no "
            "source; give --pairs an encoder-decoder such as ELMER, BART or T5"
        )
    auto = "auto" if place == name else "float32"
    return Source(name=name, place=place, one_pass=_is_elmer(place, config), auto=auto)


def _place_of(name: str) -> str:
    """Give the folder of a model that is shipped, and any other name as it is."""
    if os.path.isdir(name):
        return name
    return str(shipped_folder(name) or name)


def is_elmer(name: str | None) -> bool:
    """Tell whether a name is that of an ELMER model; what cannot be read is none.

    Args:
        name: Folder or hub name, or None.
    """
    if name is None:
        return False
    name = _place_of(name)
    if not os.path.isdir(name) and not HUB_NAME.fullmatch(name):
        return False
    try:
        return find_file(name, "config.json", {}) is not None and _is_elmer(
            name, _configuration(name)
        )
    except (OfframpError, OSError, ValueError):
        return False  # whoever loads it will say what is wrong


def one_shot_of(
    given: Mapping[str, Any], *, early_exit: str | None, no_repeat_ngram: int | None
) -> OneShot:
    """Make what an ELMER model is told.

    Args:
        given: Fields of ``OneShot`` that were given as options.
        early_exit: Value of ``--early-exit``.
        no_repeat_ngram: Value of ``--no-repeat-ngram-size``.

    Raises:
        ConfigError: A value is unknown or out of range.
    """
    options = {**given, "no_repeat_ngram": no_repeat_ngram or 0}
    if early_exit is not None:
        rule, _, value = early_exit.partition(":")
        if rule not in CANVAS_RULES:
            raise ConfigError(
                f"--early-exit of an ELMER model takes one of {', '.join(CANVAS_RULES)}, got "
                f"{rule!r}; try entropy:0.9"
            )
        try:
            options |= {"exit_rule": rule, "threshold": float(value) if value else None}
        except ValueError:
            raise ConfigError(
                f"--early-exit {early_exit}: {value!r} is no number; try {rule}:0.9"
            ) from None
    return OneShot(**options)


def _configuration(name: str) -> Any:
    try:
        return AutoConfig.from_pretrained(name)
    except Exception as error:  # over damaged files transformers raises anything
        raise CheckpointError(f"cannot load {name!r}: {first_line(error)}") from error


def _is_elmer(name: str, config: Any) -> bool:
    """Tell ELMER from BART, whose configuration the published fine-tuned weights have."""
    if config.model_type != "bart":
        return bool(config.model_type == "elmer")
    found = published_config(name, {})
    return found is not None and bool(found.soft_exit)
