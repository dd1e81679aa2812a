"""Say how likely the tokens of prompts were: ``echo`` with ``logprobs``.

In:  prompts and who answers. Out: for each token its log-probability and those of the best.
Law: the numbers are those that a text of these tokens would have been written with
     (tests/server/test_prompt_scores.py).
Not here: tokens that are written (offramp.server.writing).

A prompt is read once more for this, by the model's twin, beside the thread that writes.
"""

from collections.abc import Sequence
from typing import Any

import torch

from offramp.config import ORIGINAL
from offramp.decoding import Autoregressive, SelfSpeculation
from offramp.decoding.protocol import DecodingLoop, DecodingRule
from offramp.decoding.request import Likely, likelihood
from offramp.errors import ConfigError
from offramp.evaluation.reading import CHUNK, Places, Reader
from offramp.models.multiexit import check_rule
from offramp.server.aside import Turns
from offramp.server.hosted import CausalHost


async def prompt_scores(
    host: CausalHost,
    prompts: Sequence[Sequence[int]],
    decoding: DecodingRule | DecodingLoop | None,
    *,
    best: int,
    turns: Turns,
) -> list[list[Likely]]:
    """Score all tokens of each prompt but its first, which follows nothing.

    Args:
        host: The model.
        prompts: Token ids, at least one each.
        decoding: Who answers.
        best: Of so many best tokens, too.
        turns: Of all that hooks into the model's twin.

    Raises:
        Busy: Too many wait already.
        ConfigError: The decoding has no scores before a text is written, or cannot be followed.
        ExitNotFoundError: The model does not have an exit.
    """
    rule = _rule_of(decoding)
    if rule is not None:
        check_rule(host.model, rule)
    return await turns.take(
        lambda: [_scored(host.twin, prompt, rule, best=best) for prompt in prompts]
    )


def _rule_of(decoding: DecodingRule | DecodingLoop | None) -> DecodingRule | None:
    """Give the rule whose scores decide what is written.

    Raises:
        ConfigError: Which exit answers is found out only while it writes.
    """
    if isinstance(decoding, Autoregressive | SelfSpeculation):
        return decoding.target
    if isinstance(decoding, DecodingLoop):
        raise ConfigError(
            f"a prompt has no log-probabilities by {type(decoding).__name__}, which chooses exits "
            "while it writes; leave out echo or logprobs, or name plain, contrast, dola or exit"
        )
    return decoding


def _scored(
    model: Any, prompt: Sequence[int], rule: DecodingRule | None, *, best: int
) -> list[Likely]:
    """Read a prompt once and score it a few positions at a time."""
    names = (ORIGINAL,) if rule is None else rule.exits(model)
    reader = Reader(model, [name for name in names if name != ORIGINAL])
    ids = torch.tensor(prompt)
    places = torch.arange(len(prompt) - 1)
    if not len(places):
        return []
    found: list[Likely] = []
    with reader.reading():
        inputs = {"input_ids": ids[None].to(model.device)}
        positions = reader.look(inputs, Places(torch.zeros_like(places), places, ids[1:]))
        for part in positions.chunks(CHUNK):
            view = reader.view(part)
            scores = view.logits(ORIGINAL) if rule is None else rule.scores(view, model)
            pairs = zip(part.targets.tolist(), scores[0], strict=True)
            found += [likelihood(token, each, best) for token, each in pairs]
    return found
