"""Write texts token by token, or several tokens at a time where somebody guesses them.

In:  a request, an engine, a rule that makes scores of exits, and a source of drafts. Out: texts.
Law: the texts are those of plain decoding by the same rule, whatever the drafts: greedy token for
     token, up to ties of floating point; sampled, draw for draw, since every token is drawn from
     the rule's own scores and a draft only saves the step after it
     (tests/decoding/test_loops.py).
Not here: where drafts come from (offramp.decoding.drafts); leaving early, which changes the text
     (offramp.decoding.early_exit).
Source: Leviathan et al. 2022, arXiv:2211.17192, and Zhang et al. 2023, "Draft & Verify",
     arXiv:2309.08168. Differs: a draft is taken if it is the token drawn from the target, instead
     of with probability min(1, p / q). For greedy drafts both take it with probability p(draft);
     and here a seed gives the same text with drafts and without.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from offramp.blocks.engines import Engine
from offramp.config import ORIGINAL
from offramp.decoding.drafts import Draft, DraftSource
from offramp.decoding.protocol import DecodingRule, LoopModel
from offramp.decoding.request import Request, Text, begin
from offramp.decoding.steps import climb, embedded


def write(
    model: LoopModel,
    request: Request,
    *,
    engine: Engine,
    rule: DecodingRule | None = None,
    source: DraftSource | None = None,
) -> list[Text]:
    """Write all texts of a request to their ends.

    Args:
        model: Gives the scores of exits.
        request: The prompts and what was asked.
        engine: Runs the blocks.
        rule: Makes the scores; None is the base's own head.
        source: Guesses tokens; None is one token a step.
    """
    texts = begin(request, engine)
    exits = () if rule is None else rule.exits(model)
    captured = tuple(exit for exit in exits if exit != ORIGINAL)
    top = max(captured) if captured and ORIGINAL not in exits else engine.anatomy.depth
    prompts = [Draft(tokens=text.tokens[1:]) for text in texts]
    _verify(model, engine, rule, (texts, prompts, captured, top), source, prompt=True)
    while live := [text for text in texts if not text.done]:
        drafts = [Draft() for _ in live] if source is None else source.draft(live, captured)
        _verify(model, engine, rule, (live, drafts, captured, top), source)
    return texts


def _verify(
    model: LoopModel,
    engine: Engine,
    rule: DecodingRule | None,
    work: tuple[list[Text], list[Draft], tuple[int, ...], int],
    source: DraftSource | None,
    *,
    prompt: bool = False,
) -> None:
    """Run each text's last token and its draft, and add what the rule makes of them.

    A prompt is run like a draft that nobody doubts: its last position alone is scored.
    """
    texts, drafts, captured, top = work
    wanted = captured if top in captured else (*captured, top)
    counts = [len(draft.tokens) + 1 for draft in drafts]
    states = _states(engine, (texts, drafts, captured, top), prompt=prompt)
    if prompt:
        ends = torch.tensor(counts, device=states[top].device).cumsum(0) - 1
        states = {exit: states[exit][ends] for exit in wanted}
        drafts, counts = [Draft() for _ in texts], [1] * len(texts)
    view = model.view_of(engine, {exit: states[exit] for exit in wanted})
    scores = view.logits(ORIGINAL) if rule is None else rule.scores(view, model)
    best = None if _chosen_by_hand(texts[0].request) else scores.argmax(-1).tolist()
    at = 0
    for text, draft, count in zip(texts, drafts, counts, strict=True):
        taken = _accept(text, draft.tokens, scores[at : at + count], best and best[at:], top)
        text.row.cut(len(text.tokens) - 1)
        if source is not None:
            source.note(text, view, at + taken)
        at += count


def _states(
    engine: Engine,
    work: tuple[list[Text], list[Draft], tuple[int, ...], int],
    *,
    prompt: bool,
) -> dict[int, Float[Tensor, "tokens width"]]:
    """Take each text's last token and draft from wherever they are to the top."""
    texts, drafts, captured, top = work
    known = [draft.states for draft in drafts if draft.states is not None]
    start = min((max(each) for each in known), default=0)
    fresh = [place for place, draft in enumerate(drafts) if draft.states is None]
    if fresh:
        mine = [texts[place] for place in fresh]
        tokens = [
            (text.tokens if prompt else [text.tokens[-1], *drafts[place].tokens])
            for place, text in zip(fresh, mine, strict=True)
        ]
        counts = [len(each) for each in tokens]
        found = climb(
            engine, embedded(engine, mine, tokens), (0, start), mine, counts, captured=captured
        )
        parts = {exit: torch.split(each, counts) for exit, each in found.items()}
        for number, place in enumerate(fresh):
            drafts[place].states = {exit: each[number] for exit, each in parts.items()}
    lower = {
        exit: torch.cat([draft.states[exit] for draft in drafts if draft.states is not None])
        for exit in {start, *(exit for exit in captured if exit <= start)}
    }
    counts = [len(draft.tokens) + 1 for draft in drafts]
    return lower | climb(engine, lower[start], (start, top), texts, counts, captured=captured)


def _chosen_by_hand(request: Request) -> bool:
    return bool(request.processors) or request.do_sample


def _accept(
    text: Text,
    draft: Sequence[int],
    scores: Float[Tensor, "positions vocab"],
    best: list[int] | None,
    top: int,
) -> int:
    """Add tokens as long as the draft was right, and the one after; say how many were right."""
    text.drafted += len(draft)
    for place in range(len(draft) + 1):
        token = text.pick(scores[place]) if best is None else best[place]
        text.add(token, exit=top)
        if text.done or place == len(draft) or token != draft[place]:
            break
        text.accepted += 1
    return place
