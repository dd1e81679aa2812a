"""Load the encoder-decoders that a command names, and make of the options how each writes.

In:  names and settings. Out: writers.
Law: what cannot read a source is refused before it is loaded; weights in BART's format are those of
     a BART, unless their names or the user say that they are ELMER's (tests/cli/test_seq2seq.py).
Not here: models that answer from exits (offramp.cli.loading).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from offramp.cli.loading import HUB_NAME, device_of
from offramp.cli.show import remark
from offramp.decoding.oneshot import CANVAS_RULES, OneShot
from offramp.errors import CheckpointError, ConfigError, OfframpError, first_line
from offramp.evaluation.seq2seq import Writer, WriteSettings
from offramp.models.auto import load_base
from offramp.models.checkpoint import find_file
from offramp.models.elmer import ElmerForConditionalGeneration
from offramp.models.elmer.published import published_config
from offramp.models.shipped import shipped_folder

AS_ELMER = "elmer:"
"""Before a model's name: what has BART's format is to be read as ELMER."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model that was named, before it is loaded.

    Attributes:
        name: What the user named.
        place: Where it lies: the name without ``elmer:``, but the folder of a model that is
            shipped.
        one_pass: Whether it is an ELMER model, ours, a published one, or what is read as such.
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
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.place)
        except Exception as error:  # over damaged files its readers raise anything
            raise CheckpointError(
                f"cannot load the tokenizer of {self.name!r}: {first_line(error)}; save it into "
                "the folder of the model"
            ) from error
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if self.one_pass:
            model = self._elmer(dtype, tokenizer.mask_token_id)
        else:
            model = load_base(self.place, {"dtype": dtype})
        return Writer(model.to(place), tokenizer, settings)

    def _elmer(self, dtype: str, mask: int | None) -> Any:
        config = published_config(self.place, {}, mask=mask)
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


def find_source(name: str, *, as_elmer: bool = False) -> Source:
    """Look at the configuration of a model that shall read sources.

    Args:
        name: Folder or hub name; with ``elmer:`` before it, it is read as an ELMER model.
        as_elmer: Read it so without that.

    Raises:
        CheckpointError: There is none.
        ConfigError: It is a decoder only, or cannot be read as an ELMER model.
    """
    place = _place_of(name)
    if not os.path.isdir(place) and not HUB_NAME.fullmatch(place):
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
    auto = "auto" if place == bare_name(name) else "float32"
    if as_elmer or bare_name(name) != name:
        if config.model_type not in ("bart", "elmer"):
            raise ConfigError(
                f"--model {name} is a {config.model_type}, which cannot be read as ELMER; name "
                "weights in the format of ELMER or BART"
            )
        return Source(name=name, place=place, one_pass=True, auto=auto)
    return Source(name=name, place=place, one_pass=_is_elmer(name, place, config), auto=auto)


def bare_name(name: str) -> str:
    """Give the name of a model without ``elmer:``.

    Example:
        >>> bare_name("elmer:RUCAIBox/elmer"), bare_name("elmer-g2p")
        ('RUCAIBox/elmer', 'elmer-g2p')
    """
    return name if os.path.isdir(name) else name.removeprefix(AS_ELMER)


def _place_of(name: str) -> str:
    """Give the folder of a model that is shipped, and any other name without ``elmer:``."""
    name = bare_name(name)
    if os.path.isdir(name):
        return name
    return str(shipped_folder(name) or name)


def is_elmer(name: str | None) -> bool:
    """Tell whether a name is that of an ELMER model; what cannot be read is none.

    Args:
        name: Folder or hub name, or None; with ``elmer:`` before it, it is meant to be one.
    """
    if name is None:
        return False
    if bare_name(name) != name:
        return True
    place = _place_of(name)
    if not os.path.isdir(place) and not HUB_NAME.fullmatch(place):
        return False
    try:
        return find_file(place, "config.json", {}) is not None and _is_elmer(
            name, place, _configuration(place)
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
    if "path" in given:
        options["path"], _, value = str(given["path"]).partition(":")
        if value:
            options["length_penalty"] = _number(value, "--path", given["path"], "viterbi:1.3")
    if early_exit is not None:
        rule, _, value = early_exit.partition(":")
        if rule not in CANVAS_RULES:
            raise ConfigError(
                f"--early-exit of an ELMER model takes one of {', '.join(CANVAS_RULES)}, got "
                f"{rule!r}; try entropy:0.9"
            )
        threshold = _number(value, "--early-exit", early_exit, f"{rule}:0.9") if value else None
        options |= {"exit_rule": rule, "threshold": threshold}
    return OneShot(**options)


def _number(value: str, option: str, given: str, example: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ConfigError(f"{option} {given}: {value!r} is no number; try {example}") from None


def _configuration(name: str) -> Any:
    try:
        return AutoConfig.from_pretrained(name)
    except Exception as error:  # over damaged files transformers raises anything
        raise CheckpointError(f"cannot load {name!r}: {first_line(error)}") from error


def _is_elmer(name: str, place: str, config: Any) -> bool:
    """Tell ELMER from BART, whose configuration the published weights have.

    The fine-tuned ones hold a matrix that no BART has. The pre-trained ones cannot be told from a
    BART: what is called an ELMER is then remarked on.
    """
    if config.model_type != "bart":
        return bool(config.model_type == "elmer")
    found = published_config(place, {})
    if found is not None and found.soft_exit:
        return True
    called = f"{name} {os.path.basename(os.path.realpath(place))}".lower()
    if "elmer" in called and os.environ.get("RANK", "0") == "0":
        remark(
            f"{name} says that it is a BART, and is read as one, token by token; if it holds "
            f"ELMER's weights, name it {AS_ELMER}{name}"
        )
    return False
