"""A job while it is written: its ticket, its text, and what its reader has been told.

In:  a job and an engine. Out: new tokens for the ticket, and why the text ended.
Law: a reader is told each token once, in order (tests/server/test_batching.py).
Not here: when it is written (offramp.server.batching).
"""

import asyncio
from dataclasses import dataclass, field
from time import monotonic

import torch

from offramp.blocks.engines import Engine
from offramp.decoding.protocol import DecodingLoop
from offramp.decoding.request import Text, begin
from offramp.errors import OfframpError
from offramp.server.jobs import Job, Reason, Ticket, Written
from offramp.server.sampling import request_of


@dataclass(eq=False, kw_only=True)
class Writing:
    """One text from its submission to its end.

    Attributes:
        job: What was asked.
        loop: How it is decoded.
        ticket: Is told.
        home: The asyncio loop that the ticket is used in.
        most: Tokens at most, the prompt included.
        since: When it was submitted, in seconds of ``monotonic``.
        text: None until it has a slot.
        error: What went wrong, if anything.
    """

    job: Job
    loop: DecodingLoop
    ticket: Ticket
    home: asyncio.AbstractEventLoop
    most: int
    since: float = field(default_factory=monotonic)
    text: Text | None = None
    error: OfframpError | None = None
    _told: int = 0

    def begin(self, engine: Engine, device: torch.device) -> None:
        """Make the text, with an empty cache."""
        request = request_of(self.job, most=self.most, device=device)
        (self.text,) = begin(request, engine)

    @property
    def begun(self) -> Text:
        """The text, which must have been made."""
        assert self.text is not None
        return self.text

    @property
    def ending(self) -> Reason | None:
        """Why no token will follow; None while one may."""
        if self.error is not None:
            return "error"
        if self.ticket.cancelled:
            return "cancelled"
        if self.text is None or not self.text.done:
            return None
        return "stop" if self.text.tokens[-1] in self.job.stop_tokens else "length"

    def news(self) -> list[Written]:
        """Give the tokens that nobody has been told of."""
        if self.text is None:
            return []
        text, first = self.text, self._told
        self._told = len(text.exits)
        tokens = text.tokens[len(self.job.prompt) :]
        found = []
        for place in range(first, self._told):
            logprob, best = text.likely[place] if text.likely else (None, ())
            found.append(
                Written(
                    token=tokens[place],
                    exit=text.exits[place],
                    confidence=text.confidence[place],
                    logprob=logprob,
                    best=best,
                )
            )
        return found
