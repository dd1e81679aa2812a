"""What clients may send: OpenAI's fields, and ours.

In:  JSON. Out: checked values, or a complaint that names the field.
Law: a field that is not known, or that would change the text and is not followed, is refused
     (tests/server/test_openai.py).
Not here: what depends on the model (offramp.server.asking, offramp.server.choosing).

A description here is the only one of its field; /openapi.json is made from it.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

SEEDS = 2**63
Exit = Annotated[int, Field(ge=0, le=100_000)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


def _whole(text: str) -> str:
    """Refuse half of a surrogate pair, which JSON can write and no text can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("this is no text: it holds half of a surrogate pair") from None
    return text


Text = Annotated[str, AfterValidator(_whole)]
Stop = Annotated[Text, StringConstraints(min_length=1, max_length=256)]
TokenId = Annotated[int, Field(ge=0, le=2**31)]
Place = Annotated[int, Field(ge=-(2**31), le=2**31)]
Count = Annotated[int, Field(ge=1, le=2**31)]
Decoding = Literal["plain", "contrast", "dola", "exit", "early_exit", "speculation"]


class Strict(BaseModel):
    """Knows its fields and no others."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class ContrastChoice(Strict):
    """Two exits to contrast (ACD)."""

    upper: Exit | Literal["original"] | None = Field(
        default=None, description="The exit that is trusted."
    )
    lower: Exit | None = Field(default=None, description="The earlier exit that is taken off.")
    alpha: Share | None = Field(default=None, description="Plausible from this share on.")


class ExitFields(Strict):
    """Which exits answer, and how much is run."""

    decoding: Decoding | None = Field(default=None, description="Without it, as others say.")
    exit: Exit | Literal["original"] | None = Field(default=None, description="Answers; for exit.")
    contrast: ContrastChoice | None = Field(
        default=None, description="The contrast that is followed."
    )
    ignore_eos: bool | None = Field(default=None, description="Write on to the longest text.")
    tokens: bool | None = Field(
        default=None, description="Tell the exit and confidence of each token."
    )


class OfframpFields(ExitFields):
    """Fields that OpenAI does not know."""

    upper: Exit | Literal["original"] | None = Field(default=None, description="As contrast.upper.")
    lower: Exit | None = Field(default=None, description="As contrast.lower; also for early_exit.")
    alpha: Share | None = Field(default=None, description="As contrast.alpha.")
    layers: (
        Literal["low", "high"] | Annotated[list[Exit], Field(min_length=1, max_length=64)] | (None)
    ) = Field(default=None, description="Exits or a bucket of them; for dola.")
    rule: Text | None = Field(
        default=None, max_length=32, description="How sure an exit must be; for early_exit."
    )
    threshold: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] | None = Field(
        default=None, description="Leave above this confidence; for early_exit."
    )
    min_exit: Exit | None = Field(
        default=None, description="No exit below answers; for early_exit."
    )
    draft_exit: Exit | None = Field(
        default=None, description="The exit that drafts; for speculation."
    )
    draft_length: Annotated[int, Field(ge=1, le=32)] | None = Field(
        default=None, description="Tokens of a draft; for speculation."
    )
    lookup: Annotated[int, Field(ge=0, le=32)] | None = Field(
        default=None, description="Copy up to so many tokens from the text; for speculation."
    )
    top_k: Annotated[int, Field(ge=0, le=2**31)] | None = Field(
        default=None, description="Draw from so many best tokens; 0 is off."
    )


class StreamOptions(Strict):
    """What a stream tells beside the text."""

    include_usage: bool | None = Field(default=None, description="Count tokens in a last event.")
    include_obfuscation: bool | None = Field(default=None, description="Without effect.")


class Writing(ExitFields):
    """Fields of every request for a text."""

    model: Text | None = Field(
        default=None, max_length=512, description="Without it, the first served."
    )
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = Field(
        default=None,
        description="0 is greedy; without it, as the model's generation configuration says.",
    )
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = Field(
        default=None, description="Draw from the best that make up this probability."
    )
    top_k: Annotated[int, Field(ge=-1, le=2**31)] | None = Field(
        default=None, description="Draw from so many best tokens; 0 and -1 are off."
    )
    seed: Annotated[int, Field(ge=-SEEDS, lt=SEEDS)] | None = Field(
        default=None, description="The same seed gives the same text."
    )
    max_tokens: Count | None = Field(default=None, description="Longest text, in tokens.")
    stop: Stop | list[Stop] | None = Field(
        default=None, description="Ends the text, is no part of it."
    )
    offramp: OfframpFields | None = Field(
        default=None, description="Fields that OpenAI does not know."
    )


class OpenAIWriting(Writing):
    """Fields of both of OpenAI's requests; some are taken only at the value that does nothing."""

    n: Annotated[int, Field(ge=1, le=128)] | None = Field(
        default=None, description="Texts per prompt."
    )
    stream: bool | None = Field(default=None, description="Send text as it is written.")
    stream_options: StreamOptions | None = None
    generation_config: Annotated[Text, Field(max_length=65_536)] | dict[str, Any] | None = Field(
        default=None, description="As transformers' clients send it; other fields win over it."
    )
    presence_penalty: float | None = Field(default=None, description="Only 0 is followed.")
    frequency_penalty: float | None = Field(default=None, description="Only 0 is followed.")
    logit_bias: dict[str, float] | None = Field(
        default=None, description="Only an empty one is followed."
    )
    user: Text | None = Field(default=None, description="Without effect.")


class CompletionRequest(OpenAIWriting):
    """A text to go on with."""

    prompt: (
        Text
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[Text], Field(min_length=1)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1)]
    ) = Field(description="One or several, as text or as token ids.")
    logprobs: Annotated[int, Field(ge=0, le=1000)] | None = Field(
        default=None, description="Tell so many best tokens with their log-probabilities."
    )
    echo: bool | None = Field(default=None, description="Give the prompt before the text.")
    best_of: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Only n is followed."
    )
    suffix: Text | None = Field(default=None, description="Only an empty one is followed.")


class Part(BaseModel):
    """A part of a message; only text is read."""

    model_config = ConfigDict(extra="allow")

    type: Text
    text: Text | None = None


class Message(BaseModel):
    """One message of a conversation; fields that are not named must be null or empty."""

    model_config = ConfigDict(extra="allow")

    role: Text = Field(max_length=64)
    content: Text | list[Part] | None = None
    name: Text | None = None


Messages = Annotated[list[Message], Field(min_length=1, max_length=4096)]


class ResponseFormat(BaseModel):
    """How the answer shall look; only text is followed."""

    model_config = ConfigDict(extra="allow")

    type: Text


class ChatRequest(OpenAIWriting):
    """A conversation to answer."""

    messages: Messages
    max_completion_tokens: Count | None = Field(
        default=None, description="Longest text, in tokens."
    )
    logprobs: bool | None = Field(
        default=None, description="Tell the log-probability of each token."
    )
    top_logprobs: Annotated[int, Field(ge=0, le=1000)] | None = Field(
        default=None, description="With logprobs: tell so many best tokens with theirs."
    )
    tools: list[Any] | None = Field(default=None, description="Only an empty list is followed.")
    tool_choice: Any = Field(default=None, description='Only "none" and "auto" are followed.')
    parallel_tool_calls: bool | None = Field(default=None, description="Without effect.")
    response_format: ResponseFormat | None = Field(
        default=None, description="Only text is followed."
    )
    modalities: list[Text] | None = Field(default=None, description="Only text is followed.")
    metadata: dict[str, Any] | None = Field(default=None, description="Without effect.")
    store: bool | None = Field(default=None, description="Without effect.")
    service_tier: Text | None = Field(default=None, description="Without effect.")
    safety_identifier: Text | None = Field(default=None, description="Without effect.")
    prompt_cache_key: Text | None = Field(default=None, description="Without effect.")


class OnePassFields(Strict):
    """How an ELMER model writes: the fields of ``OneShot``."""

    exit_rule: Text | None = Field(default=None, max_length=32)
    threshold: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] | None = None
    exits: Annotated[list[Exit], Field(min_length=1, max_length=64)] | None = None
    min_exit: Exit | None = None
    canvas_length: Annotated[int, Field(ge=1, le=4096)] | None = None
    lengths: Annotated[int, Field(ge=1, le=16)] | None = None
    refine_steps: Annotated[int, Field(ge=0, le=16)] | None = None
    path: Text | None = Field(default=None, max_length=32)
    collapse_repeats: bool | None = None
    no_repeat_ngram: Annotated[int, Field(ge=0, le=64)] | None = None


class GenerateRequest(Writing):
    """Texts to go on with, or sources of an ELMER model."""

    text: Text | None = Field(default=None, description="One text.")
    texts: Annotated[list[Text], Field(min_length=1)] | None = Field(
        default=None, description="Several."
    )
    max_new_tokens: Count | None = Field(default=None, description="Longest text, in tokens.")
    one_shot: OnePassFields | None = Field(default=None, description="How an ELMER model writes.")


class TraceRequest(Strict):
    """A text to look at, exit by exit."""

    model: Text | None = Field(
        default=None, max_length=512, description="Without it, the first served."
    )
    prompt: Text | Annotated[list[TokenId], Field(min_length=1)] | None = Field(
        default=None, description="A text, or token ids."
    )
    messages: Messages | None = Field(
        default=None, description="A conversation, in place of a prompt."
    )
    text: Text | None = Field(default=None, description="As prompt; of an ELMER model, its source.")
    written: list[TokenId] | None = Field(
        default=None, description="Token ids that follow the prompt."
    )
    exits: Annotated[list[Exit | Literal["original"]], Field(min_length=1, max_length=256)] | (
        None
    ) = Field(default=None, description="Without it, all.")
    top: Annotated[int, Field(ge=1, le=50)] = Field(
        default=5, description="Best tokens of each exit."
    )
    window: tuple[Place | None, Place | None] | None = Field(
        default=None,
        description="First position and the one after the last; negative ones from the end.",
    )
    decoding: Decoding | None = Field(default=None, description="The rule whose effect is shown.")
    offramp: OfframpFields | None = Field(default=None, description="Fields of the rule.")


class TokenizeRequest(Strict):
    """A text to cut into tokens."""

    model: Text | None = Field(
        default=None, max_length=512, description="Without it, the first served."
    )
    text: Text
    special: bool = Field(default=True, description="Add the tokens that stand around a text.")


class LoadRequest(BaseModel):
    """A model that ``transformers chat`` wants to be ready."""

    model_config = ConfigDict(extra="ignore")

    model: Text = Field(max_length=512)
