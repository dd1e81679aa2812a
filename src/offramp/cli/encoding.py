"""Turn prompts into the tokens that a model reads.

In:  a prompt, and whether and how it is put into a chat template. Out: tokens, or one error.
Law: a prompt that cannot be answered in full is refused (tests/cli/test_generate.py).
Not here: padding and generating (offramp.cli.answers).
"""

from jinja2 import TemplateError

from offramp.cli.loading import Loaded
from offramp.cli.prompts import Prompt
from offramp.cli.settings import Settings
from offramp.errors import CheckpointError, ConfigError, InputError
from offramp.models.context import context_of

LONGEST_ROW = 512


def uses_chat(loaded: Loaded, settings: Settings) -> bool:
    """Say whether prompts are put into a chat template: where there is one, if not told.

    Raises:
        ConfigError: It is asked for, but the tokenizer has none.
    """
    has_template = loaded.tokenizer.chat_template is not None
    if (settings.chat or settings.system is not None) and not has_template:
        raise ConfigError(
            f"the tokenizer of {loaded.name} has no chat template; leave out --chat and --system"
        )
    return has_template if settings.chat is None else settings.chat


def encode(prompt: Prompt, loaded: Loaded, settings: Settings) -> list[int]:
    """Give a prompt's tokens, chat template and special tokens included.

    Raises:
        InputError: The chat template refuses it, or it does not fit the context.
        ConfigError: It is a conversation, and there is no chat template.
        CheckpointError: The tokenizer is not the model's own.
    """
    tokens = _tokens(prompt, loaded, settings)
    check_tokens(max(tokens, default=0), loaded)
    check_length(prompt, len(tokens), loaded, max_new_tokens=settings.max_new_tokens)
    return tokens


def check_tokens(largest: int, loaded: Loaded) -> None:
    """Refuse a tokenizer that is not the model's own.

    Raises:
        CheckpointError: It gives a token that the model does not know.
    """
    vocabulary = loaded.model.get_input_embeddings().num_embeddings
    if largest >= vocabulary:
        raise CheckpointError(
            f"the tokenizer of {loaded.name} gives token {largest}, its model knows "
            f"{vocabulary} tokens; give the model its own tokenizer"
        )


def block_size_of(loaded: Loaded, asked: int | None) -> int:
    """Give the longest row of a text that is trained on or measured on, in tokens.

    Raises:
        ConfigError: It is more than the model's context.
    """
    context = context_of(loaded.model.config)
    size = asked or min(LONGEST_ROW, context or LONGEST_ROW)
    if context and size > context:
        raise ConfigError(
            f"--block-size {size} is more than the model's context of {context}; use "
            f"--block-size {context} or less"
        )
    return size


def check_length(prompt: Prompt, length: int, loaded: Loaded, *, max_new_tokens: int) -> None:
    """Refuse a prompt that leaves too little of the context.

    Raises:
        InputError: It does, or it has no tokens.
    """
    context = context_of(loaded.model.config)
    apart = loaded.model.config.is_encoder_decoder  # one stack reads the prompt, another one writes
    if length == 0:
        raise InputError(f"{prompt.place} has no tokens; write at least one word")
    if not context:
        return
    longest, room = (context, context) if apart else (context - 1, context - length)
    if length > longest:
        raise InputError(
            f"{prompt.place} has {length} tokens, the model's context {context}; shorten it to at "
            f"most {longest}"
        )
    if max_new_tokens > room:
        raise InputError(
            f"{prompt.place} has {length} tokens, which with --max-new-tokens {max_new_tokens} is "
            f"more than the model's context of {context}; use --max-new-tokens {room} or less"
        )


def _tokens(prompt: Prompt, loaded: Loaded, settings: Settings) -> list[int]:
    content, tokenizer = prompt.content, loaded.tokenizer
    if not uses_chat(loaded, settings):
        if not isinstance(content, str):
            raise ConfigError(
                f'{prompt.place} holds messages, which need a chat template; write a "prompt" '
                "instead, or leave out --no-chat with a model that has a template"
            )
        return list(tokenizer(content)["input_ids"])
    messages = [{"role": "user", "content": content}] if isinstance(content, str) else list(content)
    if settings.system is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": settings.system})
    try:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except TemplateError as error:
        raise InputError(
            f"{prompt.place}: the chat template of {loaded.name} refuses it ({error}); change its "
            "roles, or use --no-chat"
        ) from None
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
