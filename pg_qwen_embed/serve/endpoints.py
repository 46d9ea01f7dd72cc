"""SGLang's endpoints over HTTP: routes, the API key, and errors as JSON.

Requests are parsed and errors written by `protocol`; a service answers what is left. This file knows no model: the
local server (app.py) is one service, the fake server of tests and benchmarks is another."""

import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from pg_qwen_embed.serve import bounds, protocol
from pg_qwen_embed.serve.protocol import (
    DetokenizeRequest,
    EmbeddingRequest,
    Load,
    RequestError,
    ServedModel,
    TokenizeRequest,
)

KEEP_ALIVE = 5  # seconds; SGLang's, so that a client meets the same expiry here
OPEN_PATHS = ("/ready", "/health")  # answered without the key

_log = logging.getLogger(__name__)


class Service(Protocol):
    """What answers behind the endpoints. Its properties are read at each request."""

    @property
    def served(self) -> ServedModel: ...

    @property
    def api_key(self) -> str | None:
        """None: no key is required."""

    @property
    def is_ready(self) -> bool: ...

    @property
    def load(self) -> Load: ...

    async def check_health(self) -> None:
        """Returns when the model has answered; any error makes /health fail."""

    async def embed(self, request: EmbeddingRequest) -> bytes:
        """The body of the answer. Raises RequestError; so do the next two."""

    async def tokenize(self, request: TokenizeRequest) -> bytes: ...

    async def detokenize(self, request: DetokenizeRequest) -> bytes: ...


def create_app(service: Service) -> web.Application:
    """The application in front of a service. A middleware appended to it runs behind the key check."""
    app = web.Application(middlewares=[_guarded(service)], client_max_size=bounds.MAX_BODY)
    endpoints = Endpoints(service)
    for path, handler in (
        ("/ready", endpoints.ready),
        ("/health", endpoints.health),
        ("/v1/models", endpoints.models),
        ("/model_info", endpoints.model_info),
        ("/server_info", endpoints.server_info),
        ("/v1/loads", endpoints.loads),
    ):
        app.router.add_get(path, handler, allow_head=False)
    app.router.add_post("/v1/embeddings", endpoints.embeddings)
    for prefix in ("", "/v1"):
        app.router.add_post(f"{prefix}/tokenize", endpoints.tokenize)
        app.router.add_post(f"{prefix}/detokenize", endpoints.detokenize)
    return app


class Endpoints:
    """One method a path: parse, let the service answer, respond. Counts the bytes of bodies that are not answered."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._admitted = 0

    async def ready(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self._service.is_ready else 503)

    async def health(self, _: web.Request) -> web.Response:
        if not self._service.is_ready:
            return web.Response(status=503)
        await self._service.check_health()
        return web.Response()

    async def embeddings(self, request: web.Request) -> web.Response:
        with self._admission(request):
            parsed = protocol.parse_embeddings(*await _body(request), self._service.served)
            return json_response(await self._service.embed(parsed))

    async def tokenize(self, request: web.Request) -> web.Response:
        with self._admission(request):
            return json_response(await self._service.tokenize(protocol.parse_tokenize(*await _body(request))))

    async def detokenize(self, request: web.Request) -> web.Response:
        with self._admission(request):
            return json_response(await self._service.detokenize(protocol.parse_detokenize(*await _body(request))))

    async def models(self, _: web.Request) -> web.Response:
        return json_response(protocol.models_answer(self._service.served, created=int(time.time())))

    async def model_info(self, _: web.Request) -> web.Response:
        return json_response(protocol.model_info_answer(self._service.served))

    async def server_info(self, _: web.Request) -> web.Response:
        return json_response(protocol.server_info_answer(self._service.served))

    async def loads(self, _: web.Request) -> web.Response:
        return json_response(protocol.loads_answer(self._service.load))

    @contextmanager
    def _admission(self, request: web.Request) -> Iterator[None]:
        """Room for the body of a request. Raises RequestError before the body is read."""
        length = request.content_length
        if length is not None and length > bounds.MAX_BODY:
            raise _body_too_large()
        size = bounds.MAX_BODY if length is None else length
        if self._admitted + size > bounds.MAX_BODIES:
            raise protocol.queue_full()
        self._admitted += size
        try:
            yield
        finally:
            self._admitted -= size


def json_response(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")


async def _body(request: web.Request) -> tuple[bytes, str]:
    return await request.read(), request.headers.get("Content-Type", "")


def _body_too_large() -> RequestError:
    sentence = f"The request's body has more than {bounds.MAX_BODY} bytes, the most that this server takes."
    return RequestError(sentence, status=413, kind="RequestEntityTooLarge")


def _guarded(service: Service) -> Middleware:
    """The key is checked first; every error is answered as JSON."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        key = service.api_key
        if key is not None and not _has_key(request, key) and not request.path.startswith(OPEN_PATHS):
            return json_response(b'{"error":"Unauthorized"}', 401)
        try:
            return await handler(request)
        except Exception as error:
            return _error_response(request, error)

    return guard


def _has_key(request: web.Request, expected: str) -> bool:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return scheme.lower() == "bearer" and secrets.compare_digest(key.encode(errors="replace"), expected.encode())


def _error_response(request: web.Request, error: Exception) -> web.Response:
    match error:
        case RequestError():
            return json_response(error.body(), error.status)
        case web.HTTPRequestEntityTooLarge():
            return _error_response(request, _body_too_large())
        case web.HTTPException():
            response = json_response(protocol.detail_answer(error.reason), error.status)
            response.headers.update({name: value for name, value in error.headers.items() if name == "Allow"})
            return response
        case _:
            _log.error("request failed", exc_info=error, extra={"path": request.path})
            return json_response(protocol.internal_error(error).body(), 500)
