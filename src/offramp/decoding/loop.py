"""Write texts token by token, or several tokens at a time where somebody guesses them.

In:  a request, an engine, a rule that makes scores of exits, and a source of drafts. Out: texts.
Law: the texts are those of plain decoding by the same rule, whatever the drafts: greedy token for
     token, up to ties of floating point; sampled, draw for draw for one text, and for several by
     the same distribution, since every token is drawn from the rule's own scores and a draft only
     saves the step after it (tests/decoding/test_loops.py).
Not here: where drafts come from (offramp.decoding.drafts); leaving early, which changes the text
     (offramp.decoding.early_exit).
Source: Leviathan et al. 2022, arXiv:2211.17192, and Zhang et al. 2023, "Draft & Verify",
     arXiv:2309.08168. Differs: a draft is taken if it is the token drawn from the target, instead
     of with probability min(1, p / q). For greedy drafts both take it with probability p(draft);
     and here a seed gives the same one text with drafts and without.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from offramp.blocks.engines import Engine
from offramp.config import ORIGINAL
from offramp.decoding.drafts import Draft, DraftSource
from offramp.decoding.protocol import DecodingRule, LoopModel, Steps
from offramp.decoding.request import Text
from offramp.decoding.steps import climb, embedded, unread


def checked_steps(
    model: LoopModel,
    engine: Engine,
    *,
    rule: DecodingRule | None = None,
    source: DraftSource | None = None,
) -> Steps:
    """Begin to write by a rule, with drafts that it checks or without.

    Args:
        model: Gives the scores of exits.
        engine: Runs the blocks.
        rule: Makes the scores; None is the base's own head.
        source: Guesses tokens; None is one token a step.
    """
    exits = () if rule is None else rule.exits(model)
    return _Loop(
        model=model,
        engine=engine,
        rule=rule,
        source=source,
        captured=tuple(exit for exit in exits if exit != ORIGINAL),
        top=deepest(model, rule),
    )


def deepest(model: LoopModel, rule: DecodingRule | None) -> int:
    """Give the deepest exit that a rule reads; without a rule, the last."""
    exits = () if rule is None else rule.exits(model)
    return max((model.depth if exit == ORIGINAL else exit for exit in exits), default=model.depth)


@dataclass(frozen=True, kw_only=True)
class _Loop:
    """What stays the same from step to step.

    Attributes:
        model: See ``checked_steps``.
        engine: See ``checked_steps``.
        rule: See ``checked_steps``.
        source: See ``checked_steps``.
        captured: Exits whose states the rule reads.
        top: The deepest exit that is read; blocks above it are never run.
    """

    model: LoopModel
    engine: Engine
    rule: DecodingRule | None
    source: DraftSource | None
    captured: tuple[int, ...]
    top: int

    def read(self, texts: Sequence[Text], counts: Sequence[int]) -> None:
        """Run the prompts; of one that is through, score the last position and add its token."""
        states = embedded(self.engine, texts, unread(texts, counts))
        found = climb(self.engine, states, (0, self.top), texts, counts, captured=self.captured)
        ends = torch.tensor(counts, device=states.device).cumsum(0) - 1
        through = [place for place, text in enumerate(texts) if text.read]
        if through:
            found = {exit: each[ends[through]] for exit, each in found.items()}
            self._check([texts[place] for place in through], [Draft() for _ in through], found)

    def step(self, texts: Sequence[Text]) -> None:
        """Run each text's last token and its draft, and add what the rule makes of them."""
        if self.source is None:
            drafts = [Draft() for _ in texts]
        else:
            drafts = self.source.draft(texts, self.captured)
        self._check(texts, drafts, self._states(texts, drafts))

    def _states(
        self, texts: Sequence[Text], drafts: Sequence[Draft]
    ) -> dict[int, Float[Tensor, "tokens width"]]:
        """Take each text's last token and draft to the top, from wherever drafting left them."""
        begun = [draft.states for draft in drafts if draft.states is not None]
        start = max(begun[0]) if begun else 0
        fresh = [place for place, draft in enumerate(drafts) if draft.states is None]
        if fresh:
            mine = [texts[place] for place in fresh]
            tokens = [[texts[place].tokens[-1], *drafts[place].tokens] for place in fresh]
            counts = [len(each) for each in tokens]
            states = embedded(self.engine, mine, tokens)
            found = climb(self.engine, states, (0, start), mine, counts, captured=self.captured)
            parts = {exit: torch.split(each, counts) for exit, each in found.items()}
            for number, place in enumerate(fresh):
                drafts[place].states = {exit: each[number] for exit, each in parts.items()}
        lower = {
            exit: torch.cat([draft.states[exit] for draft in drafts if draft.states is not None])
            for exit in {start, *(exit for exit in self.captured if exit <= start)}
        }
        counts = [len(draft.tokens) + 1 for draft in drafts]
        span = (start, self.top)
        return lower | climb(self.engine, lower[start], span, texts, counts, captured=self.captured)

    def _check(
        self,
        texts: Sequence[Text],
        drafts: Sequence[Draft],
        states: dict[int, Float[Tensor, "tokens width"]],
    ) -> None:
        """Score all positions at once, take what was drafted right, and cut the rest."""
        read = {*self.captured, self.top}
        view = self.model.view_of(self.engine, {exit: states[exit] for exit in read})
        scores = view.logits(ORIGINAL) if self.rule is None else self.rule.scores(view, self.model)
        drawn = [text.request.drawn for text in texts]
        best = [] if all(drawn) else scores.argmax(-1).tolist()
        at = 0
        for text, draft in zip(texts, drafts, strict=True):
            count = len(draft.tokens) + 1
            mine = [] if text.request.drawn else best[at : at + count]
            taken = self._accept(text, draft.tokens, scores[at : at + count], mine)
            text.copied += len(draft.tokens) if draft.copied else 0
            text.row.cut(len(text.tokens) - 1)
            if self.source is not None:
                self.source.note(text, view, at + taken)
            at += count

    def _accept(
        self,
        text: Text,
        draft: Sequence[int],
        scores: Float[Tensor, "positions vocab"],
        best: Sequence[int],
    ) -> int:
        """Add tokens as long as the draft was right, and the one after; say how many were right.

        Args:
            text: To add to.
            draft: Its draft.
            scores: Before each token of the draft, and after the last.
            best: Best token of each; empty where tokens are drawn or processors change scores.
        """
        text.drafted += len(draft)
        for place in range(len(draft) + 1):
            token = best[place] if best else text.pick(scores[place])
            text.score(token, scores[place])
            text.add(token, exit=self.top)
            right = place < len(draft) and token == draft[place]
            text.accepted += right
            if text.done or not right:
                break
        return place
