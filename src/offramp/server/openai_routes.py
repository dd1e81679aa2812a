"""OpenAI's two requests for texts.

In:  a request. Out: a text, or its events.
Law: the official client works unchanged (tests/server/test_serving.py).
Not here: what is asked (offramp.server.asking), how it is answered (offramp.server.openai_answers).
"""

import time
from collections.abc import Sequence
from dataclasses import replace

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from offramp.decoding.request import Likely
from offramp.server.aside import Turns
from offramp.server.asking import Wish, wish_of
from offramp.server.choosing import asked_of
from offramp.server.drawing import refuse_unfollowed, wished_of
from offramp.server.errors import Refusal
from offramp.server.events import LEFT, EventStream, unless_left
from offramp.server.jobs import Job
from offramp.server.openai_answers import Answer
from offramp.server.openai_shapes import ChatShape, CompletionShape, Echo, Extra, Shape
from offramp.server.prompt_scores import prompt_scores
from offramp.server.prompting import check_count, conversation, prompts_of
from offramp.server.replies import ERRORS, ChatReply, CompletionReply
from offramp.server.schemas import ChatRequest, CompletionRequest, OpenAIWriting
from offramp.server.service import service_of

USUAL_COMPLETION = 16
"""New tokens of a completion whose request does not say: OpenAI's own number."""
EVENTS = {"text/event-stream": {"schema": {"type": "string"}}}

openai_routes = APIRouter(prefix="/v1", tags=["OpenAI"])


@openai_routes.post(
    "/completions",
    responses={200: {"model": CompletionReply, "content": EVENTS}, **ERRORS},
    summary="Go on with a text",
)
async def completions(request: Request, asked: CompletionRequest) -> Response:
    """Write after each prompt; with ``stream`` event by event."""
    begun, service = time.perf_counter(), service_of(request)
    host = service.hosts.causal(asked.model)
    refuse_unfollowed(asked)
    wish = wish_of(
        asked,
        host,
        service.limits,
        asked=asked.max_tokens,
        logprobs=asked.logprobs,
        wished=wished_of(asked),
        usual=USUAL_COMPLETION,
    )
    wish = replace(wish, tells_end=asked.logprobs is not None)
    prompts = await prompts_of(asked, host, service.limits)
    jobs = wish.jobs(prompts, asked.n or 1, service.limits)
    echo = await _echo(asked, wish, prompts, service.turns) if asked.echo else []
    return await _answer(
        request,
        asked,
        wish=wish,
        jobs=jobs,
        shape=CompletionShape(
            vocabulary=host.vocabulary, logprobs=asked.logprobs is not None, echo=echo
        ),
        extra=Extra(
            tokens=bool(asked_of(asked, asked.offramp, name="tokens")),
            begun=begun,
            vocabulary=host.vocabulary,
            prompts=[each.tokens for each in echo],
        ),
    )


@openai_routes.post(
    "/chat/completions",
    responses={200: {"model": ChatReply, "content": EVENTS}, **ERRORS},
    summary="Answer a conversation",
)
async def chat(request: Request, asked: ChatRequest) -> Response:
    """Answer as the assistant; with ``stream`` event by event."""
    begun, service = time.perf_counter(), service_of(request)
    host = service.hosts.causal(asked.model)
    refuse_unfollowed(asked)
    check_count(asked.n or 1, service.limits)
    if asked.top_logprobs and not asked.logprobs:
        raise Refusal(400, "top_logprobs needs logprobs; set it to true", param="top_logprobs")
    wish = wish_of(
        asked,
        host,
        service.limits,
        asked=_length(asked),
        logprobs=asked.top_logprobs or 0 if asked.logprobs else None,
        wished=wished_of(asked),
    )
    return await _answer(
        request,
        asked,
        wish=wish,
        jobs=wish.jobs([await conversation(asked.messages, host)], asked.n or 1, service.limits),
        shape=ChatShape(vocabulary=host.vocabulary, logprobs=bool(asked.logprobs)),
        extra=Extra(
            tokens=bool(asked_of(asked, asked.offramp, name="tokens")),
            begun=begun,
            vocabulary=host.vocabulary,
        ),
    )


async def _echo(
    asked: CompletionRequest, wish: Wish, prompts: Sequence[Sequence[int]], turns: Turns
) -> list[Echo]:
    """Give what is put before each choice."""
    likely: Sequence[Sequence[Likely]] = [()] * len(prompts)
    if asked.logprobs is not None:
        likely = await prompt_scores(
            wish.host, prompts, wish.job.decoding, best=asked.logprobs, turns=turns
        )
    return [
        Echo(text=wish.host.vocabulary.decode(list(prompt)), tokens=prompt, likely=some)
        for prompt, some in zip(prompts, likely, strict=True)
        for _ in range(asked.n or 1)
    ]


async def _answer(
    request: Request,
    asked: OpenAIWriting,
    *,
    wish: Wish,
    jobs: Sequence[Job],
    shape: Shape,
    extra: Extra,
) -> Response:
    """Begin the texts and answer, at once or event by event."""
    options = asked.stream_options
    if options is not None and not asked.stream:
        raise Refusal(400, "stream_options needs stream; set it to true", param="stream_options")
    answer = Answer(
        model=wish.host.name,
        n=asked.n or 1,
        readings=await wish.begin(jobs),
        shape=shape,
        extra=extra,
        usage=bool(options is not None and options.include_usage),
        metrics=service_of(request).metrics,
    )
    if asked.stream:
        return EventStream(answer.events())
    whole = await unless_left(request.receive, answer.whole())
    return Response(status_code=LEFT) if whole is None else JSONResponse(whole)


def _length(asked: ChatRequest) -> int | None:
    """Give the longest text that was asked for, by its new name or its old one."""
    return asked.max_completion_tokens or asked.max_tokens
