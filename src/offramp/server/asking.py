"""Turn a request into texts to write, and refuse what is too much.

In:  a checked request, a model and limits. Out: jobs, and readings of what is written for them.
Law: nothing is written before all of a request is known to be possible
     (tests/server/test_openai.py).
Not here: prompts (offramp.server.prompting), decoding rules (offramp.server.choosing), reading what
     is written (offramp.server.transcript).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from offramp.server.choosing import asked_of, decoding_of
from offramp.server.drawing import Sampling, Wished, sampling_of
from offramp.server.errors import Refusal
from offramp.server.hosted import CausalHost
from offramp.server.jobs import Job
from offramp.server.limits import Limits
from offramp.server.prompting import room_of
from offramp.server.reading import Reading
from offramp.server.schemas import Writing
from offramp.server.transcript import Transcript


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What all texts of a request have in common.

    Attributes:
        host: Who writes.
        job: With everything but prompt, length and seed.
        sampling: See ``Sampling``.
        stop: Strings that end a text.
        asked: Longest text, if the request says.
        usual: Longest text if it does not; less where there is less room.
        tells_end: Whether the token that ends a text is told.
    """

    host: CausalHost
    job: Job
    sampling: Sampling
    stop: tuple[str, ...]
    asked: int | None
    usual: int | None
    tells_end: bool = False

    def jobs(self, prompts: Sequence[Sequence[int]], n: int, limits: Limits) -> list[Job]:
        """Make a job of each text, the texts of one prompt in a row.

        Raises:
            Refusal: A prompt or text would be too long.
        """
        rooms = [room_of(prompt, self.asked, self.host, limits) for prompt in prompts]
        if self.asked is None and self.usual is not None:
            rooms = [min(room, self.usual) for room in rooms]
        return [
            replace(
                self.job,
                prompt=tuple(prompt),
                max_new_tokens=rooms[place],
                **self.sampling.of_text(place * n + again),
            )
            for place, prompt in enumerate(prompts)
            for again in range(n)
        ]

    async def begin(self, jobs: Sequence[Job]) -> list[Reading]:
        """Hand jobs to the writers, all or none.

        Raises:
            OfframpError: The writers refuse one.
        """
        begun: list[Reading] = []
        try:
            for job in jobs:
                ticket = await self.host.writers.submit(job)
                transcript = Transcript(
                    self.host.vocabulary,
                    stop=self.stop,
                    silent=self.host.stop_tokens,
                    tells_end=self.tells_end,
                )
                begun.append(Reading(ticket, transcript, prompt=len(job.prompt)))
        except BaseException:
            for each in begun:
                each.ticket.cancel()
            raise
        return begun


def wish_of(
    request: Writing,
    host: CausalHost,
    limits: Limits,
    *,
    asked: int | None,
    logprobs: int | None = None,
    wished: Wished | None = None,
    usual: int | None = None,
) -> Wish:
    """Read what is asked of each text.

    Args:
        request: The request.
        host: Who writes.
        limits: Of the server.
        asked: Longest text, if the request says.
        logprobs: Best tokens to tell at each place; None is nothing.
        wished: What transformers' clients ask for.
        usual: Longest text if nobody says; None is as long as possible.

    Raises:
        Refusal: Something is too much.
        ConfigError: Fields contradict each other.
    """
    if logprobs is not None and logprobs > limits.logprobs:
        raise Refusal(
            400, f"at most {limits.logprobs} log-probabilities, got {logprobs}", param="logprobs"
        )
    own, wished = request.offramp, wished or Wished()
    silent = asked_of(request, own, name="ignore_eos")
    return Wish(
        host=host,
        job=Job(
            prompt=(0,),
            max_new_tokens=1,
            decoding=decoding_of(host, request, own),
            stop_tokens=frozenset() if silent else host.stop_tokens,
            logprobs=logprobs,
        ),
        sampling=sampling_of(request, host, wished),
        stop=stops_of(request, limits),
        asked=asked,
        usual=wished.max_new_tokens or usual,
    )


def stops_of(request: Writing, limits: Limits) -> tuple[str, ...]:
    """Give the strings that end a text.

    Raises:
        Refusal: There are too many.
    """
    stop = request.stop or ()
    found = (stop,) if isinstance(stop, str) else tuple(stop)
    if len(found) > limits.stops:
        raise Refusal(
            400, f"stop takes at most {limits.stops} strings, got {len(found)}", param="stop"
        )
    return found
