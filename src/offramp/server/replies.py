"""Describe what clients get, for /openapi.json; nothing is computed from it.

Law: every answer fits its description (tests/server/test_fuzz.py).
Not here: making answers (offramp.server.openai_shapes, offramp.server.generating).
"""

from typing import Any, Literal

from pydantic import BaseModel, Field

Ending = Literal["stop", "length"]


class ErrorText(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """An error, in OpenAI's form."""

    error: ErrorText


class Usage(BaseModel):
    """Tokens that were read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TokenTold(BaseModel):
    """A token and the exit that gave it."""

    id: int
    text: str
    exit: int | None
    confidence: float | None
    prompt_position: int | None


class ChoiceTold(BaseModel):
    """What is told of a choice beside OpenAI's fields, with ``tokens``."""

    tokens: list[TokenTold]
    seconds: float = Field(description="Since the request.")


class CompletionChoice(BaseModel):
    """One text."""

    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: Ending | None
    offramp: ChoiceTold | None = None


class CompletionReply(BaseModel):
    """Texts that go on."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str | None
    choices: list[CompletionChoice]
    usage: Usage


class ChatMessage(BaseModel):
    """What the model said."""

    role: Literal["assistant"]
    content: str
    refusal: str | None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: ChatMessage
    logprobs: dict[str, Any] | None
    finish_reason: Ending | None
    offramp: ChoiceTold | None = None


class ChatReply(BaseModel):
    """Answers to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str | None
    choices: list[ChatChoice]
    usage: Usage


class ModelFacts(BaseModel):
    """What a model can do."""

    kind: Literal["causal", "elmer"]
    depth: int
    exits: list[int]
    decodings: list[str]
    default_contrast: dict[str, Any] | None
    calibrated: bool
    gates: bool
    chat: bool
    context: int | None


class ModelReply(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: Literal["offramp"]
    offramp: ModelFacts


class ModelList(BaseModel):
    """All models that are served, the first meant where a request names none."""

    object: Literal["list"]
    data: list[ModelReply]


class GeneratedTokens(BaseModel):
    """The tokens of each text, with ``tokens``."""

    tokens: list[list[TokenTold]]
    seconds: float


class GenerateReply(BaseModel):
    """A text for each text that was sent."""

    model: str
    texts: list[str]
    exits: list[list[int]] = Field(description="The exit of each token.")
    finish_reasons: list[Ending]
    offramp: GeneratedTokens | None = None


class TokenizeReply(BaseModel):
    """A text in tokens."""

    ids: list[int]
    tokens: list[str]


class Health(BaseModel):
    """Whether texts are written."""

    status: Literal["ok", "closing"]


ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorReply, "description": "The request is not possible."},
    401: {"model": ErrorReply, "description": "The key is missing or wrong."},
    403: {
        "model": ErrorReply,
        "description": "Asked by another name, or by a page from elsewhere.",
    },
    404: {"model": ErrorReply, "description": "There is no such model."},
    408: {"model": ErrorReply, "description": "The body took too long to arrive."},
    413: {"model": ErrorReply, "description": "The body is too long."},
    429: {"model": ErrorReply, "description": "Too many wait; Retry-After says how long to wait."},
    500: {"model": ErrorReply, "description": "A fault of the server."},
    503: {"model": ErrorReply, "description": "The server is shutting down."},
}
