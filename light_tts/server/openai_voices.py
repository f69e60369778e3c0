"""`/v1/audio/voices`: the registered voices, and registering and removing them."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from light_tts.audio_input import AudioLimits, decode
from light_tts.errors import BadAudio, InvalidRequest, UnknownModel, Unsupported
from light_tts.server.errors import NotFound
from light_tts.server.fields import Fields
from light_tts.server.openai_models import served_model
from light_tts.server.request_body import read_values
from light_tts.server.speech_fields import check_recording_size, check_text_length, language_code
from light_tts.server.state import ServerState, request_record, server_state
from light_tts.server.voice_aliases import VoiceAliases
from light_tts.settings import FrontendSettings

MIN_RECORDING_S = 3.0  # a kept voice deserves more speech than one that is used once

router = APIRouter(prefix="/v1/audio")


@router.get("/voices")
async def voices(request: Request) -> JSONResponse:
    """All registered voices; `?legacy=true` gives their names alone, `?model=` those a model can use."""
    state = server_state(request)
    fields = Fields(request.query_params)
    is_legacy = fields.boolean("legacy", default=False)
    model = fields.word("model")
    fields.check()
    listed = await asyncio.to_thread(_listed, state, model)
    if is_legacy:
        return JSONResponse({"voices": [voice["id"] for voice in listed]})
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
    consent = fields.text("consent")
    for field, value in (("name", name), ("audio_sample", recording)):
        if value is None:
            fields.missing(field)
    fields.check()
    assert name is not None
    assert recording is not None
    check_recording_size(recording, "audio_sample", state.settings)
    check_text_length(transcript or "", "ref_text", state.settings)
    check_text_length(consent or "", "consent", state.settings)
    if name in engine.voices.names():
        raise InvalidRequest(f"There is a voice named {name!r}; remove it first or take another name.", "name")
    hint = None if language == "auto" else language
    try:
        await asyncio.to_thread(_check_recording, recording, state.settings.frontend)
        await asyncio.to_thread(engine.voices.add, name, recording, transcript or None, hint, consent or None)
    except BadAudio as error:
        raise BadAudio(str(error), "audio_sample") from error
    except InvalidRequest as error:
        raise InvalidRequest(str(error), "name" if error.field == "voice" else error.field) from error
    record.voice = name
    return JSONResponse(_described(name, state))


@router.delete("/voices/{voice_id}")
async def remove_voice(request: Request, voice_id: str) -> JSONResponse:
    """Remove a registered voice."""
    engine = server_state(request).ready_engine()
    if voice_id not in engine.voices.names():
        raise NotFound(f"There is no voice {voice_id[:80]!r}.", "voice_id")
    await asyncio.to_thread(engine.voices.remove, voice_id)
    return JSONResponse({"id": voice_id, "object": "audio.voice.deleted", "deleted": True})


def _check_recording(recording: bytes, limits: FrontendSettings) -> None:
    """Raises BadAudio for what cannot be decoded, and for less than MIN_RECORDING_S or more than the limit."""
    samples, rate_hz = decode(recording, AudioLimits(limits.max_upload_mb * 2**20, limits.max_prompt_s))
    seconds = samples.shape[1] / rate_hz
    if seconds < MIN_RECORDING_S:
        raise BadAudio(
            f"The recording lasts {seconds:.1f} s; {MIN_RECORDING_S:g} to {limits.max_prompt_s:g} s are needed."
        )


def _listed(state: ServerState, model: str | None) -> list[dict[str, Any]]:
    """Every style of the model speaks with every voice; of other models there are none."""
    engine = state.ready_engine()
    try:
        served_model(model, engine, accept_any=state.settings.server.accept_any_model)
    except UnknownModel:
        return []
    listed = [_described(name, state) for name in engine.voices.names()]
    if state.settings.server.list_voice_aliases:
        aliases = VoiceAliases(engine, state.settings)
        listed += [_described(aliases.resolve(name, "", "auto"), state) | _named(name) for name in aliases.names()]
    return listed


def _described(name: str, state: ServerState) -> dict[str, Any]:
    registry = state.ready_engine().voices
    voice = registry.get(name)
    return {
        **_named(name),
        "object": "audio.voice",
        # The model's own voices carry no date; theirs is since when they are served here.
        "created_at": int(registry.added_at_s(name) or state.created_at),
        "language": voice.language,
        "type": "audio_sample" if voice.has_prompt else "preset",
    }


def _named(name: str) -> dict[str, Any]:
    return {"id": name, "name": name}
