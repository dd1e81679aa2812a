"""The HTTP side of the server: which address does what.

In:  models, limits, who may ask. Out: an ASGI app.
Law: every answer is in the form that /openapi.json describes, errors included; none is an accident
     (tests/server/test_app.py, tests/server/test_fuzz.py).
Not here: OpenAI's requests (offramp.server.openai_routes), listening and stopping
     (offramp.server.running).

It formats and computes nothing: texts come from the writers, traces from the library.
"""

import json
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from offramp.server.errors import answer_errors
from offramp.server.events import LEFT, unless_left
from offramp.server.generating import generate
from offramp.server.guards import Access, Guard
from offramp.server.hosted import Host, Hosts
from offramp.server.limits import Limits
from offramp.server.openai_routes import openai_routes
from offramp.server.pages import add_page
from offramp.server.prompting import encoded
from offramp.server.replies import (
    ERRORS,
    GenerateReply,
    Health,
    ModelList,
    ModelReply,
    TokenizeReply,
)
from offramp.server.schemas import GenerateRequest, LoadRequest, TokenizeRequest, TraceRequest
from offramp.server.service import Service, service_of
from offramp.version import __version__

own_routes = APIRouter(prefix="/v1", tags=["offramp"])
plain_routes = APIRouter(tags=["operation"])


@own_routes.get("/models", responses={200: {"model": ModelList}, **ERRORS}, summary="All models")
async def models(request: Request) -> Response:
    """List what is served, the first meant where a request names none."""
    data = [_listed(host) for host in service_of(request).hosts]
    return JSONResponse({"object": "list", "data": data})


@own_routes.get(
    "/models/{name:path}", responses={200: {"model": ModelReply}, **ERRORS}, summary="One model"
)
async def model(request: Request, name: str) -> Response:
    """Say what one model can do."""
    return JSONResponse(_listed(service_of(request).hosts.get(name)))


@own_routes.post(
    "/generate",
    responses={200: {"model": GenerateReply}, **ERRORS},
    summary="A text for each text, in one pass by ELMER models",
)
async def generated(request: Request, asked: GenerateRequest) -> Response:
    """Write for several texts at once."""
    service = service_of(request)
    host = service.hosts.get(asked.model)
    work = generate(asked, host, limits=service.limits, metrics=service.metrics)
    return _unless_gone(await unless_left(request.receive, work))


@own_routes.post("/trace", responses={200: {"model": dict}, **ERRORS}, summary="Look at layers")
async def trace(request: Request, asked: TraceRequest) -> Response:
    """Say what every exit would have said at every position; the JSON of ``offramp.trace``."""
    service = service_of(request)
    work = service.tracer.trace(asked, service.hosts.get(asked.model))
    return _unless_gone(await unless_left(request.receive, work))


@own_routes.post(
    "/tokenize", responses={200: {"model": TokenizeReply}, **ERRORS}, summary="Cut a text"
)
async def tokenize(request: Request, asked: TokenizeRequest) -> Response:
    """Cut a text into the model's tokens."""
    host = service_of(request).hosts.get(asked.model)
    ids = await encoded(asked.text, host, special=asked.special)
    return JSONResponse({"ids": ids, "tokens": [host.vocabulary.text(each) for each in ids]})


@plain_routes.get("/healthz", responses={200: {"model": Health}, 503: {"model": Health}})
async def healthz(request: Request) -> Response:
    """Say whether texts are written."""
    if service_of(request).closing:
        return JSONResponse({"status": "closing"}, 503)
    return JSONResponse({"status": "ok"})


@plain_routes.get("/metrics", responses={200: {"content": {"text/plain": {}}}, **ERRORS})
async def metrics(request: Request) -> Response:
    """Count, for Prometheus."""
    text = service_of(request).metrics.exposition()
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})


@plain_routes.post("/load_model", include_in_schema=False)
async def load_model(request: Request, asked: LoadRequest) -> Response:
    """Tell ``transformers chat`` that its model is ready, as ``transformers serve`` does."""
    host = service_of(request).hosts.get(asked.model)
    event = {"status": "ready", "model": host.name, "cached": True}
    return Response(f"data: {json.dumps(event)}\n\n", media_type="text/event-stream")


def create_app(
    hosts: Hosts, *, limits: Limits | None = None, access: Access | None = None
) -> Guard:
    """Make the app.

    Args:
        hosts: The models.
        limits: How much a client may ask for.
        access: Who may ask.

    Returns:
        To be run by any ASGI server; its ``api`` is the FastAPI app behind the guard, its
        ``service`` what the endpoints share, to be closed by whoever runs it.
    """
    limits, access = limits or Limits(), access or Access()
    service = Service(hosts, limits)

    api = FastAPI(
        title="offramp",
        version=__version__,
        summary="Language models that answer from any of their layers.",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
    )
    api.state.service = service
    for routes in (openai_routes, own_routes, plain_routes):
        api.include_router(routes)
    api.add_api_route("/health", healthz, include_in_schema=False)  # for transformers' clients
    answer_errors(api)
    free = add_page(api)
    api.openapi = lambda: _described(api)  # type: ignore[method-assign]
    guarded: ASGIApp = api
    if access.origins:
        guarded = CORSMiddleware(
            api,
            allow_origins=sorted(access.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    return Guard(guarded, api=api, service=service, access=access, free=free)


def _listed(host: Host) -> dict[str, Any]:
    return {
        "id": host.name,
        "object": "model",
        "created": host.created,
        "owned_by": "offramp",
        "offramp": host.facts,
    }


def _unless_gone(answer: dict[str, Any] | None) -> Response:
    return Response(status_code=LEFT) if answer is None else JSONResponse(answer)


def _described(api: FastAPI) -> dict[str, Any]:
    """Describe the app; what FastAPI calls 422 is 400 here."""
    if api.openapi_schema is None:
        found = get_openapi(
            title=api.title, version=api.version, summary=api.summary, routes=api.routes
        )
        for path in found["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            found["components"]["schemas"].pop(name, None)
        key = {"type": "http", "scheme": "bearer"}
        found["components"]["securitySchemes"] = {"key": key}
        found["security"] = [{}, {"key": []}]
        api.openapi_schema = found
    return api.openapi_schema
