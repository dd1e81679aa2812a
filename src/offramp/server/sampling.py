"""Say to a decoding loop how one text is to be written: greedy or drawn, by a seed of its own.

In:  a ``Job``. Out: a ``Request`` of one text.
Law: with temperature, top_k and top_p it is drawn as ``generate`` of transformers draws it after
     ``torch.manual_seed(seed)`` (tests/server/test_sampling.py).
Not here: the loops (offramp.decoding).
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import TemperatureLogitsWarper, TopKLogitsWarper

from offramp.decoding.request import Request
from offramp.server.jobs import Job

LOOKED_AT = 512
"""So many best tokens are looked at first: sorting them costs a tenth of sorting a vocabulary."""


class Nucleus:
    """Cut away all but the smallest set of tokens that has a probability together.

    What ``TopPLogitsWarper`` of transformers does, without sorting the whole vocabulary where the
    best few hundred tokens have that probability.

    Args:
        top_p: The probability, above 0 to 1.

    Example:
        >>> Nucleus(0.6)(torch.zeros(1, 1).long(), torch.tensor([[0.5, 0.3, 0.2]]).log()).exp()
        tensor([[0.5000, 0.3000, 0.0000]])
    """

    def __init__(self, top_p: float) -> None:
        self.top_p = top_p

    def __call__(
        self, ids: Int[Tensor, "one seq"], scores: Float[Tensor, "one vocab"]
    ) -> Float[Tensor, "one vocab"]:
        """Give the scores with -inf for all other tokens."""
        vocab = scores.shape[-1]
        total = scores.logsumexp(-1, keepdim=True)
        count = min(LOOKED_AT, vocab)
        while True:
            best, tokens = scores.topk(count, dim=-1)
            sums = (best - total).exp().cumsum(-1)
            if count == vocab or float(sums[0, -1]) >= self.top_p:
                break
            count = vocab
        kept = torch.ones_like(sums, dtype=torch.bool)
        kept[:, 1:] = sums[:, :-1] < self.top_p
        best = best.masked_fill(~kept, -torch.inf)
        return torch.full_like(scores, -torch.inf).scatter(-1, tokens, best)


def request_of(job: Job, *, most: int, device: torch.device) -> Request:
    """Give what a loop is asked.

    Args:
        job: The text to write.
        most: Tokens at most, the prompt included.
        device: Of the model.
    """
    drawn = job.temperature > 0
    return Request(
        ids=torch.tensor([job.prompt], device=device),
        mask=None,
        processors=_processors(job) if drawn else (),
        criteria=lambda ids, _: int(ids[0, -1]) in job.stop_tokens,
        do_sample=drawn,
        most=most,
        pad=0,
        generator=_generator(job, device) if drawn else None,
        likely=job.logprobs,
    )


def _processors(job: Job) -> list[Callable[..., Any]]:
    found: list[Callable[..., Any]] = []
    if job.temperature != 1:
        found.append(TemperatureLogitsWarper(job.temperature))
    if job.top_k:
        found.append(TopKLogitsWarper(job.top_k))
    if job.top_p < 1:
        found.append(Nucleus(job.top_p))
    return found


def _generator(job: Job, device: torch.device) -> torch.Generator:
    generator = torch.Generator(device)
    if job.seed is None:
        generator.seed()
    else:
        generator.manual_seed(job.seed)
    return generator
