"""Guess the next tokens of a text, cheaply.

In:  texts. Out: for each some tokens, and the states that were computed on the way.
Law: a draft changes no text, only how long it takes (offramp.decoding.loop).
Not here: checking drafts (offramp.decoding.loop); the trained drafter (offramp.blocks.drafter).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from offramp.blocks.engines import Engine
from offramp.blocks.products import product
from offramp.config import ORIGINAL
from offramp.decoding.protocol import LoopModel, StateView
from offramp.decoding.request import Text
from offramp.decoding.steps import climb, embedded

LONGEST_AUTO = 6
"""Tokens of a draft whose length is left to confidence."""

DRAFTER = "drafter"
"""Where a text keeps the state that the trained drafter reads."""


@dataclass
class Draft:
    """A guess about one text.

    Attributes:
        tokens: What may come after the text's last token.
        states: States of the last token and of these, by exit, as far as they were run; None if
            none was.
        copied: The tokens stood in the text before.
    """

    tokens: list[int] = field(default_factory=list)
    states: dict[int, Float[Tensor, "tokens width"]] | None = None
    copied: bool = False


@runtime_checkable
class DraftSource(Protocol):
    """Somebody who guesses."""

    def draft(self, texts: Sequence[Text], captured: Sequence[int]) -> list[Draft]:
        """Guess for each text; states that are computed are given at the captured exits too."""

    def note(self, text: Text, view: StateView, row: int) -> None:
        """Hear that a text was checked, and which row of the view stands before its last token."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a draft becomes.

    Attributes:
        longest: Tokens of a draft at most.
        surest: Guess on as long as all of the draft is right with this probability, by the
            drafter's own count; 0 is always to the longest.
    """

    longest: int
    surest: float = 0.0


class ExitDrafts:
    """Drafts of an exit: its blocks are run for each guess, and never again for the same token."""

    def __init__(
        self,
        model: LoopModel,
        engine: Engine,
        *,
        exit: int,
        patience: Patience,
        vocabulary: Int[Tensor, " some"] | None,
    ) -> None:
        self._model, self._engine, self._exit, self._patience = model, engine, exit, patience
        self._vocabulary = vocabulary
        self._rows = None if vocabulary is None else model.head_rows(exit, vocabulary)

    def note(self, text: Text, view: StateView, row: int) -> None:
        """Remember nothing: everything is in the cache."""

    def draft(self, texts: Sequence[Text], captured: Sequence[int]) -> list[Draft]:
        """Guess for each text.

        A guess is run through the exit's blocks too, whether or not another follows: the check
        needs its state.
        """
        drafts = [Draft() for _ in texts]
        parts: list[list[dict[int, Tensor]]] = [[] for _ in texts]
        sure = [1.0] * len(texts)
        live = list(range(len(texts)))
        while live:
            found = self._run([texts[p] for p in live], [drafts[p] for p in live], captured)
            for number, place in enumerate(live):
                parts[place].append({exit: each[number][None] for exit, each in found.items()})
            going = [
                number
                for number, place in enumerate(live)
                if len(drafts[place].tokens) < min(self._patience.longest, texts[place].room - 1)
            ]
            if not going:
                break
            guesses, shares = self._guess(found[self._exit][going])
            ahead = []
            for number, guess, share in zip(going, guesses, shares, strict=True):
                place = live[number]
                sure[place] *= share
                if sure[place] >= self._patience.surest:
                    drafts[place].tokens.append(guess)
                    ahead.append(place)
            live = ahead
        for draft, some in zip(drafts, parts, strict=True):
            draft.states = {exit: torch.cat([each[exit] for each in some]) for exit in some[0]}
        return drafts

    def _run(
        self, texts: Sequence[Text], drafts: Sequence[Draft], captured: Sequence[int]
    ) -> dict[int, Float[Tensor, "tokens width"]]:
        """Take the newest token of each text and its draft up to the exit."""
        newest = [
            [(draft.tokens or text.tokens)[-1]] for text, draft in zip(texts, drafts, strict=True)
        ]
        states = embedded(self._engine, texts, newest)
        span, ones = (0, self._exit), [1] * len(texts)
        return climb(self._engine, states, span, texts, ones, captured=captured)

    def _guess(self, states: Float[Tensor, "rows width"]) -> tuple[list[int], list[float]]:
        view = self._model.view_of(self._engine, {self._exit: states})
        if self._vocabulary is None or self._rows is None:
            scores = view.logits(self._exit)
        else:
            scores = view.among(self._exit, self._vocabulary, self._rows)
        return best_of(scores, self._vocabulary)


class DrafterDrafts:
    """Drafts of a trained drafter: it reads the last checked state and the token after it."""

    def __init__(self, model: LoopModel, engine: Engine, *, patience: Patience) -> None:
        self._model, self._engine, self._patience = model, engine, patience
        self._drafter = model.drafter
        self._embeddings = engine.anatomy.stack.get_input_embeddings()  # type: ignore[operator]
        self._rows = model.head_rows(ORIGINAL, self._drafter.tokens)

    def note(self, text: Text, view: StateView, row: int) -> None:
        """Remember the state before the text's last token."""
        text.kept[DRAFTER] = view.finished()[row]

    def draft(self, texts: Sequence[Text], captured: Sequence[int]) -> list[Draft]:
        """Guess for each text."""
        drafts = [Draft() for _ in texts]
        sure = [1.0] * len(texts)
        live = [place for place, text in enumerate(texts) if text.room > 1]
        state = torch.stack([texts[place].kept[DRAFTER] for place in live]) if live else None
        tokens = [texts[place].tokens[-1] for place in live]
        for _ in range(self._patience.longest):
            if not live or state is None:
                break
            last = torch.tensor(tokens, device=state.device)
            state = self._drafter(state, self._embeddings(last))
            guesses, shares = best_of(product(state, self._rows), self._drafter.tokens)
            kept = []
            for number, place in enumerate(live):
                sure[place] *= shares[number]
                if sure[place] < self._patience.surest:
                    continue
                drafts[place].tokens.append(guesses[number])
                if len(drafts[place].tokens) < texts[place].room - 1:
                    kept.append(number)
            state = state[kept]
            live, tokens = [live[n] for n in kept], [guesses[n] for n in kept]
        return drafts


class LookupDrafts:
    """Drafts copied from the text itself, where its last words stood before; else another's.

    Args:
        other: Is asked where nothing is found; None is no draft.
        longest: Tokens of a draft at most.
        match: So many last tokens must have stood before.
        texts: No draft where more texts than these share a step: their products are slower with
            more lines; None is however many.

    Source: Saxena 2023, "prompt lookup decoding"; Yang et al. 2023, arXiv:2304.04487.
    """

    def __init__(
        self,
        other: DraftSource | None,
        *,
        longest: int,
        match: int = 3,
        texts: int | None = None,
    ) -> None:
        self._other, self._longest, self._match, self._texts = other, longest, match, texts

    def note(self, text: Text, view: StateView, row: int) -> None:
        """Let the other source remember."""
        if self._other is not None:
            self._other.note(text, view, row)

    def draft(self, texts: Sequence[Text], captured: Sequence[int]) -> list[Draft]:
        """Guess for each text."""
        if self._texts is not None and len(texts) > self._texts:
            return [Draft() for _ in texts]
        drafts = [Draft(tokens=self._found(text), copied=True) for text in texts]
        empty = [place for place, draft in enumerate(drafts) if not draft.tokens]
        if empty and self._other is not None:
            others = self._other.draft([texts[place] for place in empty], captured)
            for place, draft in zip(empty, others, strict=True):
                drafts[place] = draft
        return drafts

    def _found(self, text: Text) -> list[int]:
        """Find the latest earlier place of the last tokens, and copy what came after it."""
        tokens, match = text.tokens, self._match
        longest = min(self._longest, text.room - 1)
        if longest < 1 or len(tokens) <= match:
            return []
        last = tokens[-match:]
        for place in range(len(tokens) - match - 1, -1, -1):
            if tokens[place] == last[0] and tokens[place : place + match] == last:
                return tokens[place + match : place + match + longest]
        return []


def best_of(
    scores: Float[Tensor, "rows some"], tokens: Int[Tensor, " some"] | None
) -> tuple[list[int], list[float]]:
    """Give each row's best token and its probability among those scored."""
    scores = scores.float()
    best, place = scores.max(-1)
    shares = (best - scores.logsumexp(-1)).exp()
    chosen = place if tokens is None else tokens[place]
    return chosen.tolist(), shares.tolist()
