"""`/v1/models` and `/v1/audio/models`: the models served, and the names that mean them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from light_tts.errors import UnknownModel
from light_tts.server.state import ServerState, server_state

if TYPE_CHECKING:
    from light_tts.speech_engine import SpeechEngine

# The speech models of the cloud; each means the default model.
CLOUD_MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts", "gpt-4o-mini-tts-2025-12-15")

router = APIRouter(prefix="/v1")


def served_model(name: str | None, engine: SpeechEngine, *, accept_any: bool) -> str:
    """The engine's name of a model. `accept_any`: an unknown one means the default. Raises UnknownModel."""
    if name is None or name in ("default", engine.model_name, *CLOUD_MODELS):
        return "default"
    if name in engine.model_names:
        return name
    if accept_any:
        return "default"
    raise UnknownModel(f"Unknown model {name[:80]!r}. Models: {', '.join(_listed_names(engine))}.", "model")


@router.get("/models")
async def models(request: Request) -> JSONResponse:
    """The models served."""
    return JSONResponse({"object": "list", "data": _listed(server_state(request))})


@router.get("/models/{model_id:path}")
async def model(request: Request, model_id: str) -> JSONResponse:
    """One model; aliases are found too. Ids may hold slashes."""
    state = server_state(request)
    served_model(model_id, state.ready_engine(), accept_any=state.settings.server.accept_any_model)
    return JSONResponse(_described(model_id, state.created_at))


@router.get("/audio/models")
async def audio_models(request: Request) -> JSONResponse:
    """The models served, under both keys that clients read."""
    listed = _listed(server_state(request))
    return JSONResponse({"object": "list", "models": listed, "data": listed})


def _listed(state: ServerState) -> list[dict[str, Any]]:
    return [_described(name, state.created_at) for name in _listed_names(state.ready_engine())]


def _listed_names(engine: SpeechEngine) -> list[str]:
    """What pickers show: the model, its styles when it has several, and the name that pickers filter by."""
    styles = engine.model_names if len(engine.model_names) > 1 else []
    return list(dict.fromkeys([engine.model_name, *styles, CLOUD_MODELS[0]]))


def _described(name: str, created_at: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created_at, "owned_by": "light-tts"}
