"""Load a model with exits from wherever they are.

In:  a name or folder, as ``from_pretrained`` takes it, and which exits to use. Out: a model of
     transformers with exits attached, checked against each other.
Law: the published format, our own and a plain checkpoint load by the same call and give the
     numbers of the published library (tests/models/test_golden.py).
Not here: reading and writing the files (offramp.models.checkpoint).
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from offramp.blocks.anatomy import Layout
from offramp.config import VocabularyProjectionMode as Mode
from offramp.decoding.calibrated import Calibrated
from offramp.errors import CheckpointError, first_line
from offramp.models.attach import attach_exits, with_exits
from offramp.models.calibration import FILE as CALIBRATION
from offramp.models.calibration import hash_exits, read_calibration
from offramp.models.checkpoint import (
    HUB_OPTIONS,
    TABLE,
    StoredExits,
    base_of,
    find_file,
    read_own,
    read_published,
)
from offramp.models.configuration import MultiExitConfiguration
from offramp.models.drafting import FILE as DRAFTER
from offramp.models.drafting import attach_drafter
from offramp.models.fingerprint import check_fingerprint
from offramp.models.multiexit import check_rule

_LIBRARY = logging.getLogger("transformers.modeling_utils")


class AutoMultiExitModel:
    """Loads multi-exit models, as ``AutoModelForCausalLM`` loads plain ones."""

    @staticmethod
    def from_pretrained(
        model_name_or_path: str | Path,
        multi_exit_config: MultiExitConfiguration | None = None,
        *,
        exits: str | Path | None = None,
        layout: Layout | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load a base and its exits.

        Exits come, in this order, from ``exits``; from ``exits.json`` beside the base; from a
        checkpoint in the published format; or they are attached fresh, where
        ``multi_exit_config.lm_head_layer_indices`` asks for exits that the checkpoint lacks.

        Args:
            model_name_or_path: Folder or hub name of a plain checkpoint, a published multi-exit
                checkpoint, one of ours, or a folder of exits that names its base.
            multi_exit_config: Which exits to attach and which of them answer; by default those of
                the checkpoint, and the original head answers.
            exits: Folder or hub name of exits kept apart from the base.
            layout: Where the model's parts are, for a family that is not known.
            **kwargs: As ``from_pretrained`` of transformers: ``dtype``, ``device_map``,
                ``quantization_config``, ``revision``, ``token``, ``trust_remote_code``, ...

        Returns:
            The transformers model of the base's own class, with exits.

        Raises:
            CheckpointError: Files are missing or damaged, or exits and base do not fit.
            ConfigError: The configuration contradicts the checkpoint.
            ExitNotFoundError: The configuration answers from an exit that there is not.
            UnknownLayoutError: The parts of the model cannot be found.

        Example:
            >>> model = AutoMultiExitModel.from_pretrained(  # doctest: +SKIP
            ...     "IBM/gpt2-medium-multiexit",
            ...     multi_exit_config=MultiExitConfiguration(
            ...         use_original_head=False, contrast_layer_indices=(24, 12)))
        """
        settings = multi_exit_config or MultiExitConfiguration()
        source = str(model_name_or_path)
        hub = {name: kwargs[name] for name in HUB_OPTIONS if kwargs.get(name) is not None}
        has_base = find_file(source, "config.json", hub) is not None  # first: it fails fastest
        table = find_file(str(exits or source), TABLE, {} if exits else hub)
        if exits and table is None:
            raise CheckpointError(
                f"{exits} holds no {TABLE}; give the folder that save_exits wrote"
            )
        if table and not exits and not has_base:
            source, kwargs["revision"] = base_of(table)
        model = load_base(source, kwargs)
        stored = _stored_exits(model, source, hub, table=table, settings=settings)
        _attach(model, stored, settings, layout)
        drafter = None if table is None else find_file(str(exits or source), DRAFTER, hub)
        if drafter is not None:
            attach_drafter(model, drafter)
        if table is not None:
            model.exits_from = str(table.parent)
            model.calibration = _calibration(
                model, stored, str(exits or source), {} if exits else hub
            )
        rule = settings.rule
        if rule is not None:
            check_rule(model, rule)
        model.default_decoding = rule
        return model


def _stored_exits(
    model: Any,
    source: str,
    hub: Mapping[str, Any],
    *,
    table: Path | None,
    settings: MultiExitConfiguration,
) -> StoredExits:
    """Find the exits that belong to a base: our own, published ones, or none."""
    listed = getattr(model.config, "lm_head_layer_indices", None)
    if listed is not None:
        del model.config.lm_head_layer_indices  # from here on the attached exits say it
        model.generation_config.output_hidden_states = False
        model.generation_config.return_dict_in_generate = False
    if table is not None:
        stored = read_own(table)
        check_fingerprint(model, dict(stored.fingerprint or {}), stored.source)
        return stored
    if listed is None:
        return StoredExits({}, {}, source)
    asked = Mode.parse(settings.vocab_projection_mode)
    return read_published(source, hub, listed=listed, asked=asked)


def _attach(
    model: Any, stored: StoredExits, settings: MultiExitConfiguration, layout: Layout | None
) -> None:
    """Attach the exits held, or those that the settings name: fresh where none is held."""
    with_exits(model, layout)
    for exit in settings.lm_head_layer_indices or sorted(stored.projections):
        number = int(exit)
        attach_exits(
            model,
            (number,),
            stored.projections.get(number, Mode.parse(settings.vocab_projection_mode)),
            layout=layout,
        )
    stored.fill_(model.exits)
    if settings.freeze_parameters:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("exits."))


def _calibration(
    model: Any, stored: StoredExits, folder: str, hub: Mapping[str, Any]
) -> Calibrated | None:
    """Find what was found for the exits, if all of them and no others are attached.

    Raises:
        CheckpointError: It was found for other exits than those it lies beside.
    """
    path = find_file(folder, CALIBRATION, hub)
    if path is None:
        return None
    found = read_calibration(path, hash_exits(stored.projections, stored.tensors))
    same = set(model.exit_numbers) == set(stored.projections)
    return found if same else None


def load_base(name: str, kwargs: dict[str, Any]) -> Any:
    """Load the plain model; whatever stops it becomes one line."""
    options = dict(kwargs)
    config = options.pop("config", None)
    try:
        if config is None:
            config = AutoConfig.from_pretrained(
                name,
                **{
                    each: options[each]
                    for each in (*HUB_OPTIONS, "trust_remote_code")
                    if each in options
                },
            )
        indices = getattr(config, "lm_head_layer_indices", None)
        if indices is not None:
            config.output_hidden_states = False  # the published library saved it switched on
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        with _quiet():
            model, info = auto.from_pretrained(
                name, config=config, output_loading_info=True, **options
            )
    except Exception as error:  # over damaged files transformers and its readers raise anything
        raise CheckpointError(f"cannot load {name!r}: {first_line(error)}") from error
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"])[:3])
        raise CheckpointError(
            f"{name!r} lacks {len(info['missing_keys'])} weights of a {type(model).__name__} "
            f"({missing}, ...); it is cut off or of another family"
        )
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the report of unexpected keys, which are the exits; what is missing we check.

    By a filter and not by a level: a raised level makes transformers report its sharding plan.
    """

    def errors_only(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    _LIBRARY.addFilter(errors_only)
    try:
        yield
    finally:
        _LIBRARY.removeFilter(errors_only)
