"""Read what lm-eval's ``--model_args`` say about exits.

In:  arguments as lm-eval parsed them: numbers, booleans, strings. Out: checked values, the decoding
     that they stand for, and what lm-eval's own model type ``hf`` shall be given.
Law: names that nobody knows and settings that contradict each other are refused before anything is
     loaded (tests/evaluation/harness/test_settings.py).
Not here: whether the model has the exits (offramp.evaluation.harness.loading).

The names of exits are those of the published library, IBM/auto-contrastive-generation, whose fork
of lm-eval took the same strings. Differs: ``use_original_head`` need not be set to False besides.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from offramp.config import ORIGINAL, parse_exit
from offramp.decoding import Contrast, DoLa, EarlyExit, FixedExit
from offramp.decoding.protocol import DecodingRule
from offramp.decoding.rule_text import early_exit_fields
from offramp.errors import ConfigError
from offramp.evaluation.reading import check_chunk
from offramp.models.configuration import MultiExitConfiguration

Decoding = DecodingRule | EarlyExit | None
"""What answers; None is the base's own head."""

FIRST_TOKEN = ("whole", "rule")

PASSED_ON = (
    "add_bos_token",
    "attn_implementation",
    "batch_size",
    "cache_dir",
    "chat_template_args",
    "device",
    "dtype",
    "enable_thinking",
    "local_files_only",
    "logits_cache",
    "max_batch_size",
    "max_length",
    "parallelize",
    "prefix_token_id",
    "revision",
    "softmax_dtype",
    "think_end_token",
    "token",
    "tokenizer",
    "trust_remote_code",
    "truncation",
    "use_fast_tokenizer",
)
"""Arguments of lm-eval's ``hf`` or of ``from_pretrained``, meaning what they mean there."""


@dataclass(frozen=True, kw_only=True)
class HarnessSettings:
    """Which exits a model has, and how it answers; see docs/lm-eval.md.

    Attributes:
        exits: Folder or hub name of exits that are kept apart from the model.
        vocab_projection_mode: How fresh exits read their state: head, cast, direct, lens or block.
        lm_head_layer_indices: Exits to attach, such as 6;12; by default those of the checkpoint,
            and with none there a direct one at every block.
        use_original_head: Answer with the base's own head; this is so where nothing else is named.
        output_layer_index: Answer from this exit.
        contrast_layer_indices: Answer by contrast of two exits, such as original;12.
        alpha: Of the contrast: a token is plausible from this share of the best probability on.
        dola: Answer by DoLa: low, high or exits, such as 2;4;6.
        early_exit: Leave early by a rule and its threshold, such as gate, gate:0.9 or top_gap:0.8.
        first_token: With early_exit: whole scores the first token after a context by the last
            layer, as generation does; rule asks the rule there, too.
        chunk: Positions whose scores of the vocabulary exist at a time. By default 128; for the
            original head a whole batch, as in hf, so that the numbers are the same bits.
        multi_exit_config: The published configuration as an object, in place of its names above.

    Raises:
        ConfigError: A value is not allowed or two of them contradict each other.

    Example:
        >>> HarnessSettings(contrast_layer_indices="original;12").decoding
        Contrast(upper='original', lower=12, ...)
    """

    exits: str | None = None
    vocab_projection_mode: Any = None
    lm_head_layer_indices: Any = None
    use_original_head: Any = None
    output_layer_index: Any = None
    contrast_layer_indices: Any = None
    alpha: Any = None
    dola: Any = None
    early_exit: str | None = None
    first_token: str = "whole"
    chunk: Any = None
    multi_exit_config: MultiExitConfiguration | None = None

    def __post_init__(self) -> None:
        if self.multi_exit_config is not None and self._published():
            raise ConfigError(
                f"multi_exit_config and {', '.join(self._published())} say the same; give one"
            )
        ways = ("output_layer_index", "contrast_layer_indices", "dola", "early_exit")
        self._refuse_pairs([name for name in ways if getattr(self, name) is not None])
        given = [name for name in ways if getattr(self, name) is not None]
        if given and self.configuration.use_original_head and self.use_original_head is not None:
            raise ConfigError(
                f"use_original_head={self.use_original_head} contradicts {given[0]}="
                f"{getattr(self, given[0])}; leave one of them out"
            )
        if self.alpha is not None and (
            self.contrast_layer_indices is None or self.early_exit is not None
        ):
            raise ConfigError(
                f"alpha={self.alpha} belongs to contrast_layer_indices alone; add "
                "contrast_layer_indices=original;12"
            )
        if not isinstance(self.alpha, int | float | None):
            raise ConfigError(f"alpha must be a number, got {self.alpha!r}; try 0.1")
        if self.first_token not in FIRST_TOKEN:
            raise ConfigError(f"first_token must be whole or rule, got {self.first_token!r}")
        if self.first_token == "rule" and self.early_exit is None:
            raise ConfigError("first_token=rule belongs to early_exit; add early_exit=gate")
        if self.chunk is not None:
            if not isinstance(self.chunk, int):
                raise ConfigError(f"chunk must be a whole number, got {self.chunk!r}; try 128")
            check_chunk(self.chunk)
        _ = self.decoding  # what it cannot read it refuses

    def _refuse_pairs(self, given: list[str]) -> None:
        pair = ["contrast_layer_indices", "early_exit"]
        if len(given) > 1 and given != pair:
            named = " and ".join(f"{name}={getattr(self, name)}" for name in given)
            raise ConfigError(f"{named} exclude each other; keep one of them")
        if given and self.multi_exit_config is not None:
            raise ConfigError(f"multi_exit_config and {given[0]} exclude each other; keep one")

    def _published(self) -> dict[str, Any]:
        names = [each.name for each in fields(MultiExitConfiguration)]
        given = {name: getattr(self, name, None) for name in names}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def configuration(self) -> MultiExitConfiguration:
        """The exits, in the published form."""
        if self.multi_exit_config is not None:
            return self.multi_exit_config
        given = self._published()
        for name in ("lm_head_layer_indices", "contrast_layer_indices"):
            if isinstance(given.get(name), int):  # lm-eval has read a lonely exit as a number
                given[name] = str(given[name])
        chosen = self.output_layer_index is not None or self.contrast_layer_indices is not None
        return MultiExitConfiguration(**{"use_original_head": not chosen, **given})

    @property
    def chooses(self) -> bool:
        """Whether anything was said about who answers."""
        ways = ("use_original_head", "output_layer_index", "contrast_layer_indices", "dola")
        return any(getattr(self, name) is not None for name in (*ways, "early_exit")) or (
            self.multi_exit_config is not None
        )

    @property
    def decoding(self) -> Decoding:
        """What answers; None is the base's own head."""
        rule = self.configuration.rule
        if self.early_exit is not None:
            return _early_exit(str(self.early_exit), rule)
        if self.dola is not None:
            return DoLa(layers=_layers(self.dola))
        if isinstance(rule, Contrast) and self.alpha is not None:
            return Contrast(upper=rule.upper, lower=rule.lower, alpha=float(self.alpha))
        return None if rule == FixedExit(exit=ORIGINAL) else rule


def read_arguments(arguments: Mapping[str, Any]) -> tuple[HarnessSettings, dict[str, Any]]:
    """Split ``--model_args`` into ours and those of lm-eval's ``hf``.

    Raises:
        ConfigError: A name is not known, or a value not allowed.

    Example:
        >>> settings, passed_on = read_arguments({"output_layer_index": 12, "dtype": "float32"})
        >>> settings.output_layer_index, passed_on
        (12, {'dtype': 'float32'})
    """
    own = [each.name for each in fields(HarnessSettings)]
    for name in arguments:
        if name not in own and name not in PASSED_ON:
            known = ["pretrained", *own, *PASSED_ON]
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(known)}"
            raise ConfigError(f"--model_args has no {name!r} for the model type offramp; {hint}")
    settings = HarnessSettings(**{name: arguments[name] for name in own if name in arguments})
    return settings, {name: value for name, value in arguments.items() if name not in own}


def _layers(value: Any) -> Any:
    if value in ("low", "high"):
        return value
    layers = tuple(parse_exit(part) for part in str(value).split(";"))
    if ORIGINAL in layers:
        raise ConfigError(f"dola takes low, high or exit numbers, got {value!r}; try 2;4;6")
    return layers


def _early_exit(value: str, rule: DecodingRule | None) -> EarlyExit:
    options = early_exit_fields(value, option="early_exit=")
    if isinstance(rule, Contrast):
        if rule.upper != ORIGINAL:
            raise ConfigError(
                f"early_exit chooses the upper exit, got {rule.upper}; write "
                f"contrast_layer_indices=original;{rule.lower}"
            )
        options |= {"lower": rule.lower, "alpha": rule.alpha}
    return EarlyExit(**options)
