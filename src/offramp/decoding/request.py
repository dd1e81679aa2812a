"""What a decoding loop is asked, and a text while it is written.

In:  what ``generate`` of transformers has prepared: prompts, processors, stopping criteria. Out:
     texts with their tokens, and what was noted of each.
Law: processors and criteria see each text as transformers would show it, left padding included;
     a text's scores do not depend on its batch mates (tests/decoding/test_loops.py). Texts of a
     batch that are sampled draw from one generator, in turn.
Not here: where the scores come from (offramp.decoding.loop, offramp.decoding.early_exit).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.generation import logits_process as known

from offramp.blocks.engines import Engine, Row

ROW_BY_ROW = frozenset(
    {
        known.EpsilonLogitsWarper,
        known.EtaLogitsWarper,
        known.ExponentialDecayLengthPenalty,
        known.ForcedBOSTokenLogitsProcessor,
        known.ForcedEOSTokenLogitsProcessor,
        known.InfNanRemoveLogitsProcessor,
        known.LogitNormalization,
        known.MinLengthLogitsProcessor,
        known.MinNewTokensLengthLogitsProcessor,
        known.MinPLogitsWarper,
        known.NoBadWordsLogitsProcessor,
        known.NoRepeatNGramLogitsProcessor,
        known.SequenceBiasLogitsProcessor,
        known.SuppressTokensAtBeginLogitsProcessor,
        known.SuppressTokensLogitsProcessor,
        known.TemperatureLogitsWarper,
        known.TopHLogitsWarper,
        known.TopKLogitsWarper,
        known.TopPLogitsWarper,
        known.TypicalLogitsWarper,
    }
)
"""Processors of transformers that hold nothing of a row, so that one row is enough for them."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One call of ``generate``, prepared.

    Attributes:
        ids: Prompts [B, T], padded on the left.
        mask: 1 where ``ids`` is a token, [B, T]; None is everywhere.
        processors: Change the scores [1, V] of the next token, given the ids [1, t] so far; empty
            where there are none.
        criteria: Given the ids [1, t], tell whether the text ends here, [1].
        do_sample: Draw from the scores; else take the best.
        most: A text is at most so long, T included.
        pad: Fills shorter rows of the result.
        encoder: What the decoder reads of the encoder, [B, ...] each; empty without one.
        put: Is given each new token, as a tensor [1]; for a streamer.
        generator: Draws; None is the global one of torch.
        likely: Note the log-probability of each new token, and those of so many best; None is no.
    """

    ids: Int[Tensor, "batch seq"]
    mask: Tensor | None
    processors: Sequence[Callable[..., Any]]
    criteria: Callable[..., Any]
    do_sample: bool
    most: int
    pad: int
    encoder: Mapping[str, Tensor] = field(default_factory=dict)
    put: Callable[[Tensor], None] | None = None
    generator: torch.Generator | None = None
    likely: int | None = None

    @property
    def drawn(self) -> bool:
        """Whether a token may be another than the best of the rule's scores."""
        return bool(self.processors) or self.do_sample


Likely = tuple[float, tuple[tuple[int, float], ...]]
"""The log-probability of a token, and the best tokens with theirs, best first."""


def likelihood(token: int, scores: Float[Tensor, " vocab"], count: int) -> Likely:
    """Give the log-probability of a token, and those of so many best that are possible.

    Example:
        >>> log_p, best = likelihood(0, torch.tensor([0.0, 0.0, -torch.inf]), 3)
        >>> round(log_p, 4), [token for token, _ in best]
        (-0.6931, [0, 1])
    """
    shares = scores.float().log_softmax(-1)
    values, best = shares.topk(min(count, len(shares)))
    pairs = zip(best.tolist(), values.tolist(), strict=True)
    return float(shares[token]), tuple(pair for pair in pairs if pair[1] > -torch.inf)


@dataclass
class Text:
    """One row while it is written.

    Attributes:
        request: What was asked.
        place: Which row of the request it is.
        row: Its cache.
        tokens: All of it without padding, the prompt first.
        done: It has ended.
        exits: Which exit gave each new token.
        confidence: How sure that exit was, 0 to 1; 1 where nobody was asked.
        blocks: How many blocks were run for each new token, fills and drafts of others included.
        drafted: How many tokens were drafted for it.
        accepted: How many of them were taken.
        copied: How many of those drafted were copied from the text itself.
        run: Blocks that were run since the last new token, times tokens.
        taken: How many tokens of the prompt have been run.
        likely: Of each new token, if the request asks for it.
        kept: What a loop keeps of the text from step to step, by a name of the loop's.
    """

    request: Request
    place: int
    row: Row
    tokens: list[int]
    shown: Tensor
    length: int
    done: bool = False
    exits: list[int] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    drafted: int = 0
    accepted: int = 0
    copied: int = 0
    run: int = 0
    taken: int = 0
    likely: list[Likely] = field(default_factory=list)
    kept: dict[int | str, Tensor] = field(default_factory=dict)

    @property
    def room(self) -> int:
        """How many tokens may still come."""
        return self.request.most - self.length

    @property
    def read(self) -> bool:
        """Whether the whole prompt has been run."""
        return self.taken >= len(self.tokens) - len(self.exits)

    def pick(self, scores: Float[Tensor, " vocab"]) -> int:
        """Choose the next token, which is not added.

        Processors but those ``ROW_BY_ROW`` may hold something for each row of the batch, so they
        are shown as many rows as it has, all of them this text.
        """
        row = scores.to(torch.float32, copy=True)[None]
        seen, rows = self.shown[:, : self.length], len(self.request.ids)
        for processor in self.request.processors:
            if type(processor) in ROW_BY_ROW:
                row = processor(seen, row)
            else:
                all_rows = processor(seen.expand(rows, -1), row.repeat(rows, 1))
                row = all_rows[self.place : self.place + 1]
        if self.request.do_sample:
            shares = row.softmax(-1)
            return int(torch.multinomial(shares, num_samples=1, generator=self.request.generator))
        return int(row.argmax(-1))

    def mark(self) -> Callable[[], None]:
        """Remember how far the text is; calling what is given goes back there, once or never."""
        lengths = list(self.row.lengths)
        lists: list[list[Any]] = [self.tokens, self.exits, self.confidence, self.blocks]
        lists.append(self.likely)
        counts = [len(each) for each in lists]
        values = {
            name: getattr(self, name)
            for name in ("length", "done", "drafted", "accepted", "copied", "run", "taken")
        }
        kept, generator = dict(self.kept), self.request.generator
        state = None if generator is None else generator.get_state()

        def back() -> None:
            self.row.cut(lengths)
            for each, count in zip(lists, counts, strict=True):
                del each[count:]
            vars(self).update(values, kept=kept)
            if generator is not None and state is not None:
                generator.set_state(state)

        return back

    def score(self, token: int, scores: Float[Tensor, " vocab"]) -> None:
        """Note how likely a token is by the rule's scores, if the request asks for it."""
        count = self.request.likely
        if count is not None:
            self.likely.append(likelihood(token, scores, count))

    def add(self, token: int, *, exit: int, confidence: float = 1.0) -> None:
        """Add a token, and see whether the text ends with it."""
        self.tokens.append(token)
        self.shown[0, self.length] = token
        self.length += 1
        self.exits.append(exit)
        self.confidence.append(confidence)
        self.blocks.append(self.run)
        self.run = 0
        if self.request.put is not None:
            self.request.put(self.shown[0, self.length - 1 : self.length].cpu())
        ends = self.request.criteria(self.shown[:, : self.length], None)
        self.done = bool(ends) or self.room <= 0


def begin(request: Request, engine: Engine) -> list[Text]:
    """Make a text of each prompt, with an empty cache; padding is left out of it."""
    texts = []
    for place, ids in enumerate(request.ids):
        tokens = ids if request.mask is None else ids[request.mask[place].bool()]
        shown = ids.new_full((1, request.most + 1), request.pad)
        shown[0, : len(ids)] = ids
        inputs = {name: value[place : place + 1] for name, value in request.encoder.items()}
        texts.append(
            Text(
                request=request,
                place=place,
                row=engine.row(**inputs),
                tokens=tokens.tolist(),
                shown=shown,
                length=len(ids),
            )
        )
    return texts
