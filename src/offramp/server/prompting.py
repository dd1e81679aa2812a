"""Turn what a client sent into the tokens that a model reads.

In:  texts, token ids or conversations. Out: tokens that fit the model.
Law: a prompt that cannot be read in full, or that leaves too little room, is refused
     (tests/server/test_openai.py).
Not here: how tokens look (offramp.server.spelling).
"""

from collections.abc import Sequence
from typing import Any

import anyio.to_thread
from jinja2 import TemplateError

from offramp.errors import first_line
from offramp.server.errors import Refusal
from offramp.server.hosted import CausalHost, Host
from offramp.server.limits import Limits
from offramp.server.schemas import CompletionRequest, Message

LONG = 4_000
"""Characters from which on a text is cut into tokens beside the loop."""


async def prompts_of(
    request: CompletionRequest, host: CausalHost, limits: Limits
) -> list[list[int]]:
    """Give the tokens of each prompt.

    Raises:
        Refusal: A token does not exist, or there are too many prompts.
    """
    prompt = request.prompt
    one = isinstance(prompt, str) or isinstance(prompt[0], int)
    several: Sequence[Any] = [prompt] if one else prompt
    check_count(len(several) * (request.n or 1), limits)
    return [await ids_of(each, host) for each in several]


async def ids_of(text: str | Sequence[int], host: CausalHost) -> list[int]:
    """Give the tokens of a text, or check that those given exist.

    Raises:
        Refusal: A token does not exist.
        CheckpointError: The tokenizer is not the model's own.
    """
    if isinstance(text, str):
        return await encoded(text, host)
    if max(text, default=0) >= host.vocabulary.size:
        raise Refusal(
            400,
            f"no token {max(text)}: the model knows {host.vocabulary.size}, counted from 0",
            param="prompt",
        )
    return list(text)


async def encoded(text: str, host: Host, *, special: bool = True) -> list[int]:
    """Cut a text into tokens, a long one beside the loop.

    Args:
        text: Any.
        host: Whose tokens.
        special: Add what the tokenizer puts around a text.
    """

    def encode() -> list[int]:
        return host.vocabulary.encode(text, special=special)

    return encode() if len(text) < LONG else await anyio.to_thread.run_sync(encode)


async def conversation(messages: Sequence[Message], host: CausalHost) -> list[int]:
    """Put a conversation into the chat template and cut it into tokens.

    Raises:
        Refusal: There is no template, it refuses the conversation, or a message holds more than
            text.
    """
    if host.tokenizer.chat_template is None:
        raise Refusal(
            400, f"the tokenizer of {host.name} has no chat template; ask /v1/completions"
        )
    plain = [_plain(message, place) for place, message in enumerate(messages)]
    try:
        text = host.tokenizer.apply_chat_template(plain, add_generation_prompt=True, tokenize=False)
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise Refusal(
            400,
            f"the chat template of {host.name} refuses the messages: {first_line(error)}",
            param="messages",
        ) from None
    return await encoded(text, host, special=False)


def _plain(message: Message, place: int) -> dict[str, str]:
    """Give role and text of a message."""
    extra = {name for name, value in (message.model_extra or {}).items() if value}
    parts = message.content
    if isinstance(parts, list):
        extra |= {f"content of type {each.type}" for each in parts if each.type != "text"}
    if extra:
        raise Refusal(
            400,
            f"messages.{place}: {', '.join(sorted(extra))} is not read here; send role and text",
            param=f"messages.{place}",
        )
    if parts is None and message.role != "assistant":
        raise Refusal(
            400,
            f"messages.{place} of {message.role!r} has no content; send a text",
            param=f"messages.{place}",
        )
    text = parts if isinstance(parts, str) else "".join(each.text or "" for each in parts or ())
    named = {} if message.name is None else {"name": message.name}
    return {"role": message.role, "content": text, **named}


def check_count(count: int, limits: Limits) -> None:
    """Refuse a request for too many texts.

    Raises:
        Refusal: It is one.
    """
    if count > limits.texts:
        raise Refusal(400, f"at most {limits.texts} texts at a time, got {count}; ask for fewer")


def room_of(prompt: Sequence[int], asked: int | None, host: CausalHost, limits: Limits) -> int:
    """Give how long a text may get.

    Args:
        prompt: Its tokens.
        asked: What the request says; None is as long as possible.
        host: The model.
        limits: Of the server.

    Raises:
        Refusal: The prompt or the text would be too long.
    """
    length, context = len(prompt), host.context
    longest = limits.prompt if context is None else min(limits.prompt or context, context - 1)
    if length == 0:
        raise Refusal(400, "the prompt has no tokens; write at least one word", param="prompt")
    if longest is not None and length > longest:
        raise Refusal(
            400,
            f"the prompt has {length} tokens, at most {longest} are read here; shorten it",
            param="prompt",
            code="context_length_exceeded",
        )
    room = limits.new_tokens if context is None else min(limits.new_tokens, context - length)
    if asked is not None and asked > room:
        raise Refusal(
            400,
            f"a text of {asked} tokens after a prompt of {length} is more than is written here; "
            f"ask for at most {room}",
            param="max_tokens",
            code="context_length_exceeded",
        )
    return room if asked is None else asked
