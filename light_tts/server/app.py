"""The ASGI application: routes of all surfaces, middleware (pure ASGI only), and errors as answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from light_tts import __version__
from light_tts.errors import EngineFailure, InvalidRequest, LightTTSError
from light_tts.metrics import Metrics
from light_tts.server import (
    bistream_api,
    cosyvoice_api,
    health,
    lighttts_api,
    openai_api,
    openai_models,
    openai_voices,
    short_api,
    voices_api,
    web_page,
)
from light_tts.server.auth import ApiKeys
from light_tts.server.errors import MethodNotAllowed, NotFound, error_response
from light_tts.server.grpc_api import grpc_beside
from light_tts.server.limits import BodyLimit
from light_tts.server.recording_fetch import check_can_fetch
from light_tts.server.request_context import RequestContext
from light_tts.server.request_observer import RequestObserver, ServerMetrics
from light_tts.server.state import ServerState, request_record
from light_tts.server.trailing_slash import TrailingSlash

if TYPE_CHECKING:
    from light_tts.settings import Settings
    from light_tts.speech_engine import SpeechEngine


SURFACES = (
    health,
    lighttts_api,
    bistream_api,
    short_api,
    cosyvoice_api,
    voices_api,
    openai_api,
    openai_models,
    openai_voices,
    web_page,
)
SYNTHESIS_ROUTES = (
    "/inference_zero_shot",
    "/inference_zero_shot_bistream",
    short_api.PATH,
    "/inference_sft",
    "/inference_cross_lingual",
    "/inference_instruct",
    "/inference_instruct2",
    "/v1/audio/speech",
)
FORM_OVERHEAD_BYTES = 2 * 2**20
GZIP_FROM_BYTES = 1000
GZIP_LEVEL = 5


def create_app(engine: SpeechEngine | None, settings: Settings, *, observer: RequestObserver | None = None) -> FastAPI:
    """The server around one engine. With None it answers NOT_READY until `app.state.server.engine` is set.

    observer:  counts the requests; None counts them here.
    """
    # No documentation pages: theirs load scripts from elsewhere. The schema itself is at /openapi.json.
    check_can_fetch(settings)
    app = FastAPI(
        title="Light TTS",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lambda app: grpc_beside(app, settings, app.state.server),
    )
    for surface in SURFACES:
        app.include_router(surface.router)
    state = app.state.server = ServerState(settings, engine)
    state.observer = observer or ServerMetrics(new_metrics(), state.health, state.gpu_memory)

    # The last one added is the outermost.
    app.add_middleware(BodyLimit, max_bytes=_max_body_bytes(settings))
    keys = {"keys": settings.server.api_key, "admin_keys": settings.server.admin_key}
    app.add_middleware(ApiKeys, **keys, open_lists=settings.server.open_lists)
    if settings.server.gzip:  # leaves audio and event streams as they are
        app.add_middleware(GZipMiddleware, minimum_size=GZIP_FROM_BYTES, compresslevel=GZIP_LEVEL)
    app.add_middleware(
        RequestContext, observer=state.observer, routes=known_routes(), synthesis_routes=SYNTHESIS_ROUTES
    )
    if settings.server.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.server.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "content-type", "content-disposition", "x-sample-rate", "x-cache"],
        )
    app.add_middleware(TrailingSlash)
    app.add_exception_handler(LightTTSError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_exception_handler(ClientDisconnect, _answer_left)
    app.add_exception_handler(Exception, _answer_unforeseen)
    return app


def known_routes() -> frozenset[str]:
    """Patterns of all routes without a trailing slash, and "other" for what is not among them."""
    patterns = (pattern for surface in SURFACES for pattern in _patterns(surface.router.routes))
    return frozenset(pattern.rstrip("/") or "/" for pattern in patterns) | {"other"}


def new_metrics() -> Metrics:
    """Metrics with the series of all routes."""
    return Metrics(SYNTHESIS_ROUTES, sorted(known_routes()))


def _patterns(routes: object) -> list[str]:
    return [route.path for route in routes]  # type: ignore[attr-defined]


def _max_body_bytes(settings: Settings) -> int:
    """Room for the largest recording as base64, and for the fields around it."""
    return settings.frontend.max_upload_mb * 2**20 * 4 // 3 + FORM_OVERHEAD_BYTES


async def _answer_error(request: Request, error: Exception) -> Response:
    request_record(request).error = error
    return error_response(error, request.url.path)


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kinds: dict[int, type[InvalidRequest]] = {404: NotFound, 405: MethodNotAllowed}
    kind = kinds.get(error.status_code, InvalidRequest)
    response = error_response(kind(f"{error.detail}: {request.method} {request.url.path[:200]}."), request.url.path)
    response.headers.update(error.headers or {})
    return response


async def _answer_left(request: Request, error: Exception) -> Response:
    request_record(request).has_left = True
    return Response(status_code=499)  # nobody reads it


async def _answer_unforeseen(request: Request, error: Exception) -> Response:
    record = request_record(request)
    record.status = 500
    response = error_response(EngineFailure("unforeseen"), request.url.path)
    response.headers["X-Request-Id"] = record.request_id
    return response
