"""Say which exits a model has and which of them answer, in the words of the published library.

In:  arguments as in IBM/auto-contrastive-generation, strings of lm-eval's ``model_args`` included.
Out: a checked, frozen configuration, and the decoding rule it stands for.
Law: names, order and defaults are the published ones (tests/models/test_configuration.py).
"""

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from offramp.config import (
    ExitName,
    VocabularyProjectionMode,
    check_pair,
    parse_exit,
    parse_exits,
)
from offramp.decoding import Contrast, FixedExit
from offramp.errors import ConfigError
from offramp.logits.contrast import contrast_logits

PUBLISHED_CONTRAST = partial(contrast_logits, alpha=0.1, minimum_candidates=1)


@dataclass(frozen=True)
class MultiExitConfiguration:
    """Which exits a model has, and which of them answer when a call does not say otherwise.

    Attributes:
        vocab_projection_mode: How exits read their state; a member, its published name or its
            short name (``"head"``, ``"cast"``, ``"direct"``, ``"lens"``, ``"block"``). With exits
            loaded from a checkpoint, the file decides.
        lm_head_layer_indices: Exits to attach, such as ``(6, 12)`` or ``"6;12"``. None takes those
            of the checkpoint.
        freeze_parameters: Freeze the base, so that training trains exits only.
        use_original_head: Answer with the base's own head.
        output_layer_index: Answer from this exit.
        contrast_layer_indices: Answer by contrast of (upper, lower), such as
            ``("original", 12)`` or ``"original;12"``.
        contrast_function: Any function of (upper logits, lower logits). The default is
            auto-contrastive decoding with alpha 0.1, which is computed sparsely.

    Raises:
        ConfigError: A value is not allowed or two of them contradict each other.

    Example:
        >>> MultiExitConfiguration(
        ...     use_original_head=False, contrast_layer_indices="original;12"
        ... ).get_description()
        'original_vs_12'
    """

    vocab_projection_mode: VocabularyProjectionMode | str = (
        VocabularyProjectionMode.LAYER_SPECIFIC_PROJECTION
    )
    lm_head_layer_indices: Sequence[int] | str | None = None
    freeze_parameters: bool | str = False
    use_original_head: bool | str = True
    output_layer_index: int | str | None = None
    contrast_layer_indices: Sequence[ExitName] | str | None = None
    contrast_function: Callable[[Tensor, Tensor], Tensor] = PUBLISHED_CONTRAST

    def __post_init__(self) -> None:
        put = partial(object.__setattr__, self)
        put("vocab_projection_mode", VocabularyProjectionMode.parse(self.vocab_projection_mode))
        put("use_original_head", _flag("use_original_head", self.use_original_head))
        put("freeze_parameters", _flag("freeze_parameters", self.freeze_parameters))
        if self.lm_head_layer_indices is not None:
            put("lm_head_layer_indices", parse_exits(self.lm_head_layer_indices))
        if self.output_layer_index is not None:
            put("output_layer_index", parse_exit(self.output_layer_index))
        if self.contrast_layer_indices is not None:
            put("contrast_layer_indices", _pair(self.contrast_layer_indices))
        self._check()

    def _check(self) -> None:
        if self.use_original_head and self.contrast_layer_indices is not None:
            raise ConfigError(
                "use_original_head=True contradicts contrast_layer_indices="
                f"{self.contrast_layer_indices}; set use_original_head=False to contrast"
            )
        if self.output_layer_index is not None and self.contrast_layer_indices is not None:
            raise ConfigError(
                f"output_layer_index={self.output_layer_index} contradicts contrast_layer_indices="
                f"{self.contrast_layer_indices}; give one of them"
            )
        if not self.use_original_head and (
            self.output_layer_index is None and self.contrast_layer_indices is None
        ):
            raise ConfigError(
                "use_original_head=False needs output_layer_index or contrast_layer_indices, got "
                "neither; try contrast_layer_indices=('original', 12)"
            )

    @property
    def rule(self) -> Contrast | FixedExit | None:
        """The decoding rule that this stands for; None is the base's own head."""
        if self.use_original_head:
            return None
        if self.contrast_layer_indices is None:
            return FixedExit(exit=parse_exit(self.output_layer_index))
        upper, lower = _pair(self.contrast_layer_indices)
        return Contrast(upper=upper, lower=lower, **_contrast_settings(self.contrast_function))

    def get_description(self) -> str:
        """Name the answer in a file name's letters, as the published library does."""
        if self.use_original_head:
            return "original_head"
        if self.contrast_layer_indices:
            return f"{self.contrast_layer_indices[0]}_vs_{self.contrast_layer_indices[1]}"
        return f"layer_{self.output_layer_index}"


def _flag(name: str, value: bool | str) -> bool:
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value.strip().capitalize())
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # of too many brackets
            raise ConfigError(f"{name} must be True or False, got {value!r}") from None
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, got {value!r}")
    return value


def _pair(value: Any) -> tuple[ExitName, ExitName]:
    if isinstance(value, str):
        parts = value.split(";")
    else:
        parts = list(value) if isinstance(value, Sequence) else [value]
    if len(parts) != 2:
        raise ConfigError(f"a contrast takes two exits, got {value!r}; try 'original;12'")
    upper, lower = (parse_exit(part) for part in parts)
    check_pair(upper, lower)
    return upper, lower


def _contrast_settings(function: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Any]:
    """Recognise our own contrast, with any settings, so that it can be computed sparsely."""
    if function is contrast_logits:
        return {}
    if isinstance(function, partial) and function.func is contrast_logits and not function.args:
        return dict(function.keywords)
    return {"function": function}
