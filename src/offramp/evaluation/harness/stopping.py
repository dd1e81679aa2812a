"""End each text at its own stop string, whatever its batch mates do.

In:  tokens so far. Out: which texts end here.
Law: a text that ends holds a stop string among its new tokens
     (tests/evaluation/harness/test_model.py).
Source: lm-evaluation-harness 0.4.13, ``MultiTokenEOSCriteria``, which looks at the same few tokens.
     Differs: it remembers nothing, so it may be shown texts one by one.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import StoppingCriteria

MORE = 2
"""Tokens looked at beyond those of the stop string, which may have been written in other pieces."""


class StopStrings(StoppingCriteria):  # type: ignore[misc]
    """Looks for stop strings at the end of what was written."""

    def __init__(self, tokenizer: Any, stop: Sequence[str], *, prompt: int) -> None:
        """Take the strings.

        Args:
            tokenizer: Of the model.
            stop: Where a text ends.
            prompt: Tokens of the prompt, padding included; they are not looked at.
        """
        self.tokenizer, self.prompt = tokenizer, prompt
        self.stop = [
            (each, len(tokenizer.encode(each, add_special_tokens=False)) + MORE) for each in stop
        ]

    def __call__(
        self, input_ids: Int[Tensor, "rows seq"], scores: Any, **_: Any
    ) -> Bool[Tensor, " rows"]:
        """Tell which rows end here."""
        new = input_ids[:, self.prompt :]
        ends = [
            any(text in self.tokenizer.decode(row[-size:]) for text, size in self.stop)
            for row in new
        ]
        return torch.tensor(ends, device=input_ids.device)
