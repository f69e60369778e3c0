"""`/voices`: register a recording under a name, list the names, remove one. What is registered survives restarts."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from light_tts.errors import InvalidRequest
from light_tts.server.fields import Fields
from light_tts.server.inference_fields import RECORDING, VOICE
from light_tts.server.request_body import read_values
from light_tts.server.speech_fields import check_recording_size, check_text_length, check_voice, language_code
from light_tts.server.state import request_record, server_state
from light_tts.speech_engine import VoiceFacts

NAME = ("name", *VOICE)

router = APIRouter()

_FIELDS = {
    "name": {"type": "string", "description": "Letters, digits, '_', '-' and '.'; at most 64."},
    "prompt_wav": {"type": "string", "format": "binary", "description": "The recording, 3 to 30 s."},
    "prompt_text": {"type": "string", "description": "What is said in it; without it the voice only colours speech."},
    "language": {"type": "string"},
}
_FORM = {"schema": {"type": "object", "required": ["name", "prompt_wav"], "properties": _FIELDS}}
_DOCUMENTATION = {"requestBody": {"content": {"multipart/form-data": _FORM, "application/json": _FORM}}}


@router.get("/voices")
async def voices(request: Request) -> JSONResponse:
    """All voices: those of the model first, then the registered ones."""
    engine = server_state(request).ready_engine()

    def described() -> list[dict[str, Any]]:
        return [_described(name, engine.voices.get(name)) for name in engine.voices.names()]

    return JSONResponse({"voices": await asyncio.to_thread(described)})


@router.post("/voices", openapi_extra=_DOCUMENTATION, status_code=201)
async def add_voice(request: Request) -> JSONResponse:
    """Register a voice."""
    state = server_state(request)
    engine = state.ready_engine()
    fields = Fields(await read_values(request))
    name = fields.word(*NAME)
    recording = fields.recording(*RECORDING)
    transcript = fields.text("prompt_text") or None
    language = language_code(fields.word("language"))
    for field, value in ((NAME[0], name), (RECORDING[0], recording)):
        if value is None:
            fields.missing(field)
    fields.check()
    assert name is not None
    assert recording is not None
    check_recording_size(recording, RECORDING[0], state.settings)
    check_text_length(transcript or "", "prompt_text", state.settings)
    if name in engine.voices.names():
        raise InvalidRequest(f"There is a voice named {name!r}; remove it first or take another name.", NAME[0])
    request_record(request).voice = name
    hint = None if language == "auto" else language
    voice = await asyncio.to_thread(engine.voices.add, name, recording, transcript, hint)
    return JSONResponse({"message": "Ok", "voice": _described(name, voice)}, 201)


@router.delete("/voices/{name}")
async def remove_voice(request: Request, name: str) -> JSONResponse:
    """Remove a registered voice."""
    return await _remove(request, name)


@router.delete("/voices")
async def remove_named_voice(request: Request) -> JSONResponse:
    """Remove a registered voice whose `name` comes in the query or in the body."""
    fields = Fields({**request.query_params, **await read_values(request)})
    name = fields.word(*NAME)
    if name is None:
        fields.missing(NAME[0])
    fields.check()
    assert name is not None
    return await _remove(request, name)


async def _remove(request: Request, name: str) -> JSONResponse:
    engine = server_state(request).ready_engine()
    check_voice(name, engine, NAME[0])
    request_record(request).voice = name
    await asyncio.to_thread(engine.voices.remove, name)
    return JSONResponse({"message": "Ok", "name": name})


def _described(name: str, voice: VoiceFacts) -> dict[str, Any]:
    return {
        "name": name,
        "language": voice.language,
        "prompt_text": voice.prompt_text,
        "has_transcript": voice.has_transcript,
        "kind": "recording" if voice.has_prompt else "preset",
    }
