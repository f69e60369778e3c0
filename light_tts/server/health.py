"""Health, readiness and metrics. None of it waits for the engine, except `?deep=1`, which asks it to speak."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from light_tts import __version__
from light_tts.errors import LightTTSError
from light_tts.metrics import CONTENT_TYPE
from light_tts.server.fields import Fields
from light_tts.server.state import ServerState, server_state
from light_tts.types import SynthesisRequest

T = TypeVar("T")

DEEP_CHECK_TEXT = "你好。"
DEEP_CHECK_TIMEOUT_S = 30.0
NO_GPU_MEMORY = {  # on CPU, and while the engine loads
    "used_bytes": 0,
    "total_bytes": 0,
    "reserved_bytes": 0,
    "allocated_bytes": 0,
    "process_bytes": 0,
}

# Their own threads: voices that are added and audio that is encoded may keep all the others busy.
_threads = ThreadPoolExecutor(2, thread_name_prefix="health")

router = APIRouter()


@router.head("/healthz", include_in_schema=False)
@router.head("/health", include_in_schema=False)
@router.get("/healthz")
@router.get("/health")
async def health(request: Request) -> JSONResponse:
    """200 when the engine can serve, else 503 (404 with `strict_lighttts`); `?deep=1` synthesises a word first."""
    state = server_state(request)
    is_deep = Fields(request.query_params).boolean("deep", default=False)
    engine_health, gpu_memory = await _aside(lambda: (state.health(), state.gpu_memory()))
    error = engine_health["error"]
    if state.settings.server.debug_health_fails:
        error = "debug_health_fails is set"
    elif engine_health["ready"] and is_deep:
        error = await _deep_check_error(state)
    is_healthy = engine_health["ready"] and error is None
    body = _health_body(state, engine_health, error, gpu_memory, is_healthy=is_healthy)
    return JSONResponse(body, 200 if is_healthy else 404 if state.settings.server.strict_lighttts else 503)


@router.head("/liveness", include_in_schema=False)
@router.get("/liveness")
async def liveness() -> JSONResponse:
    """200 while this process answers at all."""
    return JSONResponse({"status": "ok"})


@router.head("/readiness", include_in_schema=False)
@router.get("/readiness")
async def readiness(request: Request) -> JSONResponse:
    """200 once requests can be served, else 503."""
    is_ready = bool((await _aside(server_state(request).health))["ready"])
    return JSONResponse({"status": "ok" if is_ready else "not ready"}, 200 if is_ready else 503)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus text format."""
    page = await _aside(server_state(request).observer.page)
    return Response(page, headers={"Content-Type": CONTENT_TYPE})


async def _aside(ask: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(_threads, ask)


def _health_body(
    state: ServerState,
    engine_health: dict[str, Any],
    error: str | None,
    gpu_memory: dict[str, Any] | None,
    *,
    is_healthy: bool,
) -> dict[str, Any]:
    limit = state.settings.engine.max_concurrent_requests  # 0: no limit
    return {
        **{key: value for key, value in engine_health.items() if key not in ("ready", "error", "running", "queued")},
        "message": "Ok" if is_healthy else "Error",
        "status": "healthy" if is_healthy else "loading" if state.engine is None else "unhealthy",
        "error": error,
        "model_loaded": state.engine is not None,
        "current_concurrent_requests": engine_health["running"],
        "queued_requests": engine_health["queued"],
        "max_concurrent_requests": limit,
        "gpu_memory": _shown(gpu_memory) or {**NO_GPU_MEMORY, "device": engine_health.get("device")},
        "version": __version__,
    }


def _shown(gpu_memory: dict[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (gpu_memory or {}).items() if key != "index"}


async def _deep_check_error(state: ServerState) -> str | None:
    request = SynthesisRequest(DEEP_CHECK_TEXT, voice=state.settings.server.default_voice, is_probe=True)
    try:
        async with asyncio.timeout(DEEP_CHECK_TIMEOUT_S), state.ready_engine().submit(request) as stream:
            async for chunk in stream:
                if chunk.samples.size:
                    return None
        return "the engine made no audio"
    except TimeoutError:
        return f"no audio within {DEEP_CHECK_TIMEOUT_S:g} s"
    except LightTTSError as error:
        return str(error)
