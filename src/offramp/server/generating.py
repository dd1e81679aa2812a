"""Write for several texts at once: models that go on with a text, and ELMER models.

In:  a request to /v1/generate. Out: texts with the exits of their tokens.
Law: an answer does not depend on what else is written (tests/server/test_generate.py).
Not here: OpenAI's requests (offramp.server.openai_answers).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from secrets import randbits
from typing import Any

from offramp.decoding.oneshot import OneShot
from offramp.evaluation.seq2seq import Written
from offramp.server.asking import wish_of
from offramp.server.choosing import asked_of
from offramp.server.errors import Refusal
from offramp.server.hosted import CausalHost, ElmerHost, Host
from offramp.server.limits import Limits
from offramp.server.metrics import Metrics
from offramp.server.onepass import Wish
from offramp.server.prompting import check_count, encoded
from offramp.server.reading import gathered
from offramp.server.schemas import GenerateRequest
from offramp.server.spelling import Spelling
from offramp.server.told import exits_told

USUAL = 128
"""New tokens where a request does not say, as those of ``offramp generate``."""
LENGTHS = ("max_tokens", "max_new_tokens")


async def generate(
    request: GenerateRequest, host: Host, *, limits: Limits, metrics: Metrics
) -> dict[str, Any]:
    """Write all texts of a request.

    Args:
        request: To answer.
        host: Who writes.
        limits: Of the server.
        metrics: Of the server.

    Raises:
        Refusal: The request is unclear or too much.
        OfframpError: The model cannot do what is asked.
    """
    begun = time.perf_counter()
    if (request.text is None) == (request.texts is None):
        raise Refusal(400, "send text or texts, one of the two", param="text")
    texts = request.texts or [request.text or ""]
    check_count(len(texts), limits)
    if isinstance(host, CausalHost):
        found = await _gone_on(request, host, texts, limits=limits, metrics=metrics)
    else:
        found = await _in_one_pass(request, host, texts)
    answer: dict[str, Any] = {
        "model": host.name,
        "texts": [each.text for each in found],
        "exits": [[token["exit"] for token in each.tokens] for each in found],
        "finish_reasons": [each.ending for each in found],
    }
    if asked_of(request, request.offramp, name="tokens"):
        seconds = round(time.perf_counter() - begun, 6)
        answer["offramp"] = {"tokens": [each.tokens for each in found], "seconds": seconds}
    return answer


@dataclass(frozen=True, kw_only=True)
class _Found:
    """One text: its characters, its tokens in our form, how it ended."""

    text: str
    tokens: list[dict[str, Any]]
    ending: str


async def _gone_on(
    request: GenerateRequest,
    host: CausalHost,
    texts: Sequence[str],
    *,
    limits: Limits,
    metrics: Metrics,
) -> list[_Found]:
    """Go on with each text."""
    begun = time.perf_counter()
    if request.one_shot is not None:
        raise Refusal(400, f"one_shot is for ELMER models, {host.name} is none", param="one_shot")
    wish = wish_of(request, host, limits, asked=_length(request), usual=USUAL)
    prompts = [await encoded(each, host) for each in texts]
    readings = await wish.begin(wish.jobs(prompts, 1, limits))
    found = await gathered(readings, metrics.of(host.name), begun=begun)
    return [
        _Found(text=each.text, tokens=exits_told(each.tokens), ending=each.ending) for each in found
    ]


async def _in_one_pass(
    request: GenerateRequest, host: ElmerHost, texts: Sequence[str]
) -> list[_Found]:
    """Write for each source in one pass."""
    useless = {"top_p", "top_k", "stop", "decoding", "exit", "contrast", "ignore_eos"}
    given = sorted(useless & {name for name, value in request if value is not None})
    if given:
        raise Refusal(
            400,
            f"{given[0]} would change nothing: {host.name} writes in one pass; see one_shot",
            param=given[0],
        )
    fields = {} if request.one_shot is None else request.one_shot.model_dump(exclude_none=True)
    if "exits" in fields:
        fields["exits"] = tuple(fields["exits"])
    if fields.get("exit_rule") == "patience" and "threshold" in fields:
        fields["threshold"] = int(fields["threshold"])
    temperature, seed = request.temperature or 0.0, request.seed
    wish = Wish(
        decoding=OneShot(**fields, temperature=temperature),
        max_new_tokens=_length(request),
        seed=(randbits(32) if seed is None else seed) % 2**32 if temperature else 0,
    )
    return [_of_canvas(each, host) for each in await host.one_pass.write(texts, wish)]


def _of_canvas(written: Written, host: ElmerHost) -> _Found:
    """Say what came of a source, with the text that each token added."""
    spelling = Spelling(host.vocabulary)
    tokens: list[dict[str, Any]] = []
    for token, exit in zip(written.tokens, written.exits or (), strict=True):
        tokens.append(
            {
                "id": token,
                "text": spelling.add(token),
                "exit": exit,
                "confidence": 1.0,
                "prompt_position": None,
            }
        )
    if tokens:
        tokens[-1]["text"] += spelling.rest()
    ending = "stop" if written.finished else "length"
    return _Found(text=written.text, tokens=tokens, ending=ending)


def _length(request: GenerateRequest) -> int | None:
    """Give the longest text that was asked for.

    Raises:
        Refusal: It was said twice.
    """
    given = [value for name in LENGTHS if (value := getattr(request, name)) is not None]
    if len(given) > 1:
        raise Refusal(400, f"{LENGTHS[1]} is said twice; leave out {LENGTHS[0]}", param=LENGTHS[0])
    return given[0] if given else None
