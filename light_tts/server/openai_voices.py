"""`/v1/audio/voices`: the registered voices, and registering and removing them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from light_tts.errors import InvalidRequest, Unsupported
from light_tts.server.errors import NotFound
from light_tts.server.fields import Fields
from light_tts.server.request_body import read_values
from light_tts.server.speech_fields import check_recording_size, check_text_length, language_code
from light_tts.server.state import ServerState, request_record, server_state
from light_tts.types import Voice

router = APIRouter(prefix="/v1/audio")


@router.get("/voices")
async def voices(request: Request) -> JSONResponse:
    """All registered voices; `?legacy=true` gives their names alone."""
    state = server_state(request)
    engine = state.ready_engine()
    names = engine.voices.names()
    if Fields(request.query_params).boolean("legacy", default=False):
        return JSONResponse({"voices": names})
    listed = await asyncio.to_thread(lambda: [_described(engine.voices.get(name), name, state) for name in names])
    return JSONResponse({"object": "list", "voices": listed, "data": listed})


@router.post("/voices")
async def add_voice(request: Request) -> JSONResponse:
    """Register a voice from a recording: `name`, `audio_sample`, and `ref_text` (its transcript)."""
    state, record = server_state(request), request_record(request)
    engine = state.ready_engine()
    fields = Fields(await read_values(request))
    if fields.word("type") == "prompt":
        raise Unsupported("A voice cannot be made from a description; send a recording.", "type")
    name = fields.word("name")
    recording = fields.recording("audio_sample", "prompt_wav")
    transcript = fields.text("ref_text", "prompt_text")
    language = language_code(fields.word("language"))
    for field, value in (("name", name), ("audio_sample", recording)):
        if value is None:
            fields.missing(field)
    fields.check()
    assert name is not None
    assert recording is not None
    check_recording_size(recording, "audio_sample", state.settings)
    check_text_length(transcript or "", "ref_text", state.settings)
    if name in engine.voices.names():
        raise InvalidRequest(f"There is a voice named {name!r}; remove it first or take another name.", "name")
    hint = None if language == "auto" else language
    voice = await asyncio.to_thread(engine.voices.add, name, recording, transcript or None, hint)
    record.voice = name
    return JSONResponse({**_described(voice, name, state), "created_at": int(time.time())})


@router.delete("/voices/{voice_id}")
async def remove_voice(request: Request, voice_id: str) -> JSONResponse:
    """Remove a registered voice."""
    engine = server_state(request).ready_engine()
    if voice_id not in engine.voices.names():
        raise NotFound(f"There is no voice {voice_id[:80]!r}.", "voice_id")
    await asyncio.to_thread(engine.voices.remove, voice_id)
    return JSONResponse({"id": voice_id, "object": "audio.voice.deleted", "deleted": True})


def _described(voice: Voice, name: str, state: ServerState) -> dict[str, Any]:
    return {
        "id": name,
        "name": name,
        "object": "audio.voice",
        "created_at": state.created_at,  # voices carry no date; this is since when they are served here
        "language": voice.language,
        "type": "audio_sample" if voice.has_prompt else "preset",
    }
