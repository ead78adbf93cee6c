"""The HTTP API: routes, bodies and errors. A refusal has OpenAI's shape. Knows no engine internals."""

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from ryzanstein_worker import contract
from ryzanstein_worker.server import errors
from ryzanstein_worker.server.errors import ApiError
from ryzanstein_worker.server.gate import error_response
from ryzanstein_worker.server.health import Probes, page
from ryzanstein_worker.server.openai import ChatCompletionRequest, CompletionRequest, StrictModel
from ryzanstein_worker.server.parsing import RequestT, parse, salt_of
from ryzanstein_worker.server.quarantine import fingerprint
from ryzanstein_worker.server.responses import ChatCompletion, ChatCompletionChunk, Completion, Model, ModelList
from ryzanstein_worker.server.resume import Resume, open_envelope
from ryzanstein_worker.server.service import Caller, Run, Service
from ryzanstein_worker.server.stream import EventStream, as_api_error, unless_gone
from ryzanstein_worker.telemetry.metrics import ServerMetrics

MAX_BODY_BYTES = 16 << 20
MAX_RESUME_BYTES = 2 * MAX_BODY_BYTES
"""A client's body and the tokens of what it has of the answer."""
JSON = "application/json"
BODY_TIMEOUT_SECONDS = 60.0
INLINE_BODY_BYTES = 1 << 16
"""Bodies up to this size are parsed on the event loop; larger ones in a thread."""

_log = logging.getLogger(__name__)


def build_app(service: Service, probes: Probes, metrics: ServerMetrics) -> FastAPI:
    """The application of one served model."""
    # The document is served; the pages that show it are not, for they load scripts from elsewhere.
    app = FastAPI(title="Ryzanstein worker", docs_url=None, redoc_url=None)
    _add_errors(app, service)

    @app.post(contract.COMPLETIONS, **_documented(CompletionRequest, Completion, Completion))
    async def completions(request: Request) -> Response:
        return await _generate(request, service, CompletionRequest)

    @app.post(contract.CHAT_COMPLETIONS, **_documented(ChatCompletionRequest, ChatCompletion, ChatCompletionChunk))
    async def chat_completions(request: Request) -> Response:
        return await _generate(request, service, ChatCompletionRequest)

    refusals: dict[int | str, dict[str, Any]] = {"4XX": {"model": errors.ErrorResponse}}

    @app.get(contract.MODELS, responses=refusals)
    async def models() -> ModelList:
        return ModelList(object="list", data=[service.model()])

    @app.get(contract.MODELS + "/{name:path}", responses=refusals)
    async def model(name: str) -> Model:
        if name != service.name:
            raise errors.model_not_found(service.name)
        return service.model()

    async def health_page(request: Request) -> Response:
        answer = page(request.url.path, probes, metrics.expose, request.headers.get("accept", ""))
        assert answer is not None, "only the pages' own paths are routed here"
        return Response(answer.body, answer.status, media_type=answer.content_type)

    for path in (contract.HEALTH_LIVE, contract.HEALTH_READY, contract.METRICS):
        app.router.routes.append(Route(path, health_page, methods=["GET"]))
    _add_schemas(app)
    return app


async def _generate(request: Request, service: Service, model: type[RequestT]) -> Response:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in (JSON, contract.CONTENT_TYPE_RESUME):
        raise ApiError(415, "The content type must be application/json.")
    salt = salt_of(request.headers.get(contract.HEADER_CACHE_SALT, ""))
    resumes = content_type == contract.CONTENT_TYPE_RESUME
    body = await _body(request, MAX_RESUME_BYTES if resumes else MAX_BODY_BYTES)
    if len(body) <= INLINE_BODY_BYTES:
        asked = _read(body, model, resumes=resumes)
    else:
        asked = await asyncio.to_thread(_read, body, model, resumes=resumes)
    caller = Caller(request.state.arrival, salt, asked.fingerprint)
    try:
        return await _answer(request, service, caller, asked.request, asked.resume)
    except ClientDisconnect:
        return Response(status_code=499)  # nobody reads it
    except ApiError:
        raise
    except Exception as error:
        raise as_api_error(error) from None


@dataclass(frozen=True)
class _Asked:
    request: StrictModel
    resume: Resume | None
    fingerprint: bytes


def _read(body: bytes, model: type[RequestT], *, resumes: bool) -> _Asked:
    """What a body asks for. Raises ApiError."""
    resume = None
    if resumes:
        body, resume = open_envelope(body)
        if len(body) > MAX_BODY_BYTES:
            raise _too_large(MAX_BODY_BYTES)
    return _Asked(parse(body, model), resume, fingerprint(body))


async def _answer(
    request: Request, service: Service, caller: Caller, parsed: StrictModel, resume: Resume | None
) -> Response:
    async def prepare() -> Run:
        if isinstance(parsed, CompletionRequest):
            return await service.completion(parsed, caller, resume)
        assert isinstance(parsed, ChatCompletionRequest)
        return await service.chat(parsed, caller, resume)

    run = await unless_gone(request.receive, prepare())
    assert isinstance(parsed, CompletionRequest | ChatCompletionRequest)
    if parsed.stream:
        journal = request.headers.get(contract.HEADER_JOURNAL) == "1"
        return EventStream(run, service.stream(run), partial(_refusal, service), journal=journal)
    answer = await unless_gone(request.receive, service.whole(run))
    usage = {contract.HEADER_USAGE: f"{run.prompt_tokens} {answer.usage.completion_tokens}"} if answer.usage else None
    return Response(answer.to_json(), headers=usage, media_type="application/json")


async def _body(request: Request, limit: int) -> bytes:
    """The body, within the bounds of size and time."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "Compressed bodies are not accepted.")
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise _too_large(limit)
    except TimeoutError:
        raise ApiError(408, "The body did not arrive in time.", headers={"connection": "close"}) from None
    return bytes(body)


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"The body is larger than {limit} bytes.", headers={"connection": "close"})


def _refusal(service: Service, error: ApiError) -> Response:
    """The answer to a request that generates and cannot; counted."""
    service.refused(error)
    return error_response(error)


def _add_errors(app: FastAPI, service: Service) -> None:
    async def api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return _refusal(service, error) if request.method == "POST" else error_response(error)

    async def http_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        sentence = {404: "There is nothing at this path.", 405: "This path does not take this method."}
        refusal = ApiError(error.status_code, sentence.get(error.status_code, "The request is not valid."))
        refusal.headers.update(error.headers or {})
        return error_response(refusal)

    async def gone(_: Request, __: Exception) -> Response:
        return Response(status_code=499)

    async def anything(_: Request, error: Exception) -> Response:
        return _refusal(service, as_api_error(error))

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(Exception, anything)


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _documented(
    request: type[StrictModel], whole: type[Completion | ChatCompletion], chunk: type[Completion | ChatCompletionChunk]
) -> dict[str, Any]:
    """What the OpenAPI document says of a route whose body we parse ourselves."""
    body = {"required": True, "content": {"application/json": {"schema": _ref(request.__name__)}}}
    return {
        "responses": {
            200: {"model": whole, "content": {"text/event-stream": {"schema": _ref(chunk.__name__)}}},
            "4XX": {"model": errors.ErrorResponse},
            "5XX": {"model": errors.ErrorResponse},
        },
        "response_class": Response,
        "openapi_extra": {"requestBody": body},
    }


def _add_schemas(app: FastAPI) -> None:
    """Put the models that FastAPI does not see into the document."""
    make = app.openapi

    def document() -> dict[str, Any]:
        models = [(CompletionRequest, "validation"), (ChatCompletionRequest, "validation")]
        chunks = [(Completion, "serialization"), (ChatCompletionChunk, "serialization")]
        _, found = models_json_schema([*models, *chunks], ref_template="#/components/schemas/{model}")  # type: ignore[list-item]  # the pairs' literals widen to str
        schema = make()
        schema["components"]["schemas"] = found["$defs"] | schema["components"]["schemas"]
        return schema

    app.openapi = document  # type: ignore[method-assign]  # FastAPI documents this way of extending it
