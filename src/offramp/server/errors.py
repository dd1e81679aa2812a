"""Say no over HTTP, in the form in which OpenAI does.

In:  what went wrong. Out: a status and ``{"error": {"message", "type", "param", "code"}}``.
Law: no client ever sees a stack trace or what an unexpected error says (tests/server/test_app.py).
Not here: when to say no (offramp.server.guards, offramp.server.asking).
"""

import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from offramp.errors import ConfigError, ExitNotFoundError, InputError, OfframpError
from offramp.server.jobs import Busy

INVALID, AUTHENTICATION, LIMIT, INTERNAL = (
    "invalid_request_error",
    "authentication_error",
    "rate_limit_error",
    "server_error",
)
LONGEST = 600
"""Characters of a message; what a client sent may be in it."""
_MADE = re.compile(r"^(body|str|int|float|bool)$|[^\w-]")
"""Parts of a place that pydantic made up, such as the member of a union."""
UNEXPECTED = "something went wrong in the server; it was noted there"


class Refusal(HTTPException):
    """An answer that is none, as an HTTP status and OpenAI's words for it.

    Args:
        status: Of HTTP.
        message: What was wrong, and what to do.
        param: The field of the request, if it is one.
        code: A word for programs, if there is one.
        headers: Of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.param, self.code = param, code

    @property
    def body(self) -> dict[str, Any]:
        """What the client reads."""
        return body_of(self.status_code, str(self.detail), param=self.param, code=self.code)

    @property
    def response(self) -> JSONResponse:
        """All of it."""
        return JSONResponse(self.body, self.status_code, headers=self.headers)


def body_of(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Put a message into OpenAI's form.

    Example:
        >>> body_of(404, "no such page")["error"]["type"]
        'invalid_request_error'
    """
    kind = {401: AUTHENTICATION, 429: LIMIT}.get(status, INVALID if status < 500 else INTERNAL)
    if len(message) > LONGEST:
        message = f"{message[: LONGEST - 3]}..."
    message = message.encode("utf-8", errors="replace").decode()  # a half of a surrogate pair
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def refusal_of(error: OfframpError) -> Refusal:
    """Turn an error of the library into an answer; one that is no fault of the client is not told.

    Example:
        >>> refusal_of(ConfigError("alpha must be above 0")).status_code
        400
    """
    if isinstance(error, Busy):
        wait = str(max(1, round(error.retry_after)))
        return Refusal(429, str(error), code="busy", headers={"Retry-After": wait})
    if isinstance(error, (ConfigError, InputError, ExitNotFoundError)):
        return Refusal(400, str(error))
    return Refusal(500, UNEXPECTED)


def closing() -> Refusal:
    """Make the answer of a server that is about to stop."""
    return Refusal(503, "the server is shutting down; ask again later", code="shutting_down")


def answer_errors(app: FastAPI) -> None:
    """Make an app answer in OpenAI's form whatever goes wrong."""
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(OfframpError, _library)
    app.add_exception_handler(Exception, _unexpected)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error, Refusal):
        return error.response
    said = {404: f"{request.url.path} is nothing", 405: f"{request.url.path} is not asked so"}
    message = said.get(error.status_code, str(error.detail))
    return Refusal(
        error.status_code, f"{message}; see /openapi.json", headers=error.headers
    ).response


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = ".".join(str(each) for each in first["loc"] if not _MADE.search(str(each))) or None
    if first["type"] == "json_invalid":
        name, said = None, f"the body is no JSON: {first['ctx']['error']}"
    elif name is None:
        said = "the body must be a JSON object, sent as application/json"
    elif first["type"] == "extra_forbidden":
        said = "is not known here"
    else:
        said = str(first["msg"]).removeprefix("Value error, ")
    return Refusal(400, f"{name}: {said}" if name else said, param=name).response


async def _library(_: Request, error: Exception) -> Response:
    assert isinstance(error, OfframpError)
    return refusal_of(error).response


async def _unexpected(_: Request, error: Exception) -> Response:
    return Refusal(500, UNEXPECTED).response
