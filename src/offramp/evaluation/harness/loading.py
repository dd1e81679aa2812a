"""Load a model for lm-eval, by the same call as its own ``hf`` does, and give it its exits.

In:  checked settings, and what ``hf`` hands to ``from_pretrained``. Out: a model with exits.
Law: base, tokenizer, dtype and device are those of ``hf`` (tests/evaluation/harness/test_model.py).
Not here: files (offramp.models.auto).
"""

from dataclasses import dataclass
from typing import Any

from offramp.blocks.projections import Block
from offramp.decoding.early_exit import EarlyExit
from offramp.errors import ConfigError
from offramp.evaluation.harness.settings import Decoding, HarnessSettings
from offramp.models.attach import attach_exits, with_exits
from offramp.models.auto import AutoMultiExitModel
from offramp.models.checkpoint import HUB_OPTIONS, TABLE, base_of, find_file
from offramp.models.configuration import MultiExitConfiguration
from offramp.models.default import ensure_default
from offramp.models.embedded import SHIPPED
from offramp.models.multiexit import check_rule


@dataclass(frozen=True)
class Source:
    """Where a model is.

    Attributes:
        base: Folder or hub name of what transformers loads.
        exits: Folder or hub name of exits kept apart from it, or None.
        revision: Of the base, where the exits name it.
    """

    base: str
    exits: str | None
    revision: str | None = None


def source_of(pretrained: str | None, settings: HarnessSettings, options: dict[str, Any]) -> Source:
    """Find the base: it may be the embedded default, or the one that a folder of exits names.

    Args:
        pretrained: Folder or hub name; None is the embedded default with its exits.
        settings: May name exits.
        options: What else was given, ``revision`` and the like among it.

    Raises:
        CheckpointError: A file is missing or damaged.
        DownloadError: The embedded default cannot be fetched.
    """
    if pretrained is None:
        return Source(str(ensure_default()), settings.exits or str(SHIPPED))
    hub = {name: options[name] for name in HUB_OPTIONS if options.get(name) is not None}
    if settings.exits is None and find_file(pretrained, "config.json", hub) is None:
        table = find_file(pretrained, TABLE, hub)
        if table is not None:
            base, revision = base_of(table)
            return Source(base, pretrained, revision)
    return Source(pretrained, settings.exits)


@dataclass(frozen=True)
class Loader:
    """What ``hf`` calls in place of ``AutoModelForCausalLM``.

    Attributes:
        settings: Which exits to attach.
        source: Where they are.
    """

    settings: HarnessSettings
    source: Source

    def from_pretrained(self, name: str, **options: Any) -> Any:
        """Load the base and its exits, as transformers' class of this method loads the base."""
        given = {key: value for key, value in options.items() if value not in (None, "")}
        asked = self.settings.configuration
        attached = MultiExitConfiguration(
            vocab_projection_mode=asked.vocab_projection_mode,
            lm_head_layer_indices=asked.lm_head_layer_indices,
        )
        return AutoMultiExitModel.from_pretrained(name, attached, exits=self.source.exits, **given)


def prepared(model: Any, settings: HarnessSettings) -> Decoding:
    """Give a model exits if it has none, and say how it answers.

    Args:
        model: As it was loaded.
        settings: May leave open who answers; then the model's own choice stands.

    Raises:
        ConfigError: It is an encoder-decoder, or the rule does not suit the model.
        ExitNotFoundError: The model does not have an exit.
    """
    if model.config.is_encoder_decoder:
        raise ConfigError(
            f"the model type offramp scores decoders, got an encoder-decoder "
            f"({type(model).__name__}); use lm-eval's own hf"
        )
    model = with_exits(model)
    if not model.exit_numbers and model.depth > 1:
        attach_exits(model, range(1, model.depth), "direct")
    decoding = settings.decoding if settings.chooses else model.default_decoding
    if decoding is not None:
        check_rule(model, decoding)
    if isinstance(decoding, EarlyExit):
        _refuse_blocks(model, decoding)
    return decoding


def _refuse_blocks(model: Any, plan: EarlyExit) -> None:
    lower = () if plan.lower is None else (plan.lower,)
    asked = {*plan.answering(model), *lower} & set(model.exit_numbers)
    extra = sorted(exit for exit in asked if isinstance(model.exits[str(exit)], Block))
    if extra:
        raise ConfigError(
            f"exits {extra} are 'block' exits, which early exit does not run; name others by "
            "lm_head_layer_indices"
        )
