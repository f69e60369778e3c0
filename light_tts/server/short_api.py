"""`/inference_short`: a short text in a registered voice, answered whole, from the phrase cache where it is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from light_tts.errors import TextTooLong, UnknownVoice, Unsupported
from light_tts.metrics import SHORT_TEXT_ROUTE
from light_tts.server.audio_response import AudioResponse, header_text
from light_tts.server.errors import NoDefaultVoice
from light_tts.server.fields import Fields
from light_tts.server.inference_fields import (
    ANSWERS,
    RECORDING,
    TEXT,
    VOICE,
    check_model,
    documentation,
    read_options,
    read_output,
)
from light_tts.server.request_body import read_values
from light_tts.server.speech_fields import check_voice, default_voice, language_code
from light_tts.server.state import request_record, server_state
from light_tts.types import SynthesisRequest

if TYPE_CHECKING:
    from light_tts.settings import Settings
    from light_tts.speech_engine import SpeechEngine

PATH = SHORT_TEXT_ROUTE
SHORT_TEXT = TEXT[::-1]  # here `text` is the first name
SHORT_VOICE = ("voice_template", *VOICE)

router = APIRouter()


@router.post(PATH, openapi_extra=documentation("text", "voice_template"), responses=ANSWERS, response_class=Response)
async def inference_short(request: Request) -> AudioResponse:
    """Speak a short text. The header X-Cache says whether it was there already (HIT) or had to be spoken (MISS)."""
    state, record = server_state(request), request_record(request)
    engine = state.ready_engine()
    fields = Fields(await read_values(request))
    record.mark_received()
    output = read_output(fields, request.headers.get("accept", ""), format_by_default="wav")
    options = read_options(fields)
    text = fields.text(*SHORT_TEXT, required=True)
    model = fields.word("tts_model_name") or "default"
    language = language_code(fields.word("language"))
    name = fields.word(*SHORT_VOICE)
    if fields.given(*RECORDING):
        raise Unsupported(f"{PATH} speaks with registered voices; send recordings to /inference_zero_shot.", "voice")
    fields.check()
    assert text is not None
    _check_length(text, state.settings)
    voice = _voice(name, engine, state.settings, text, language)
    record.voice, record.model, record.text_chars = voice, model, len(text)
    record.text = text if state.settings.server.log_text else None
    synthesis = SynthesisRequest(
        text=text,
        voice=voice,
        stream=output.stream,
        language=language,
        model=check_model(model, engine),
        caller=record.caller,
        request_id=record.request_id,
        **_with_cache(options),
    )
    return AudioResponse(
        engine.submit(synthesis),
        output,
        record,
        send_timeout_s=state.settings.engine.request_timeout_s,
        headers={"X-Voice": header_text(voice), "X-Cache": "MISS"},
    )


def _voice(name: str | None, engine: SpeechEngine, settings: Settings, text: str, language: str) -> str:
    if name is not None:
        check_voice(name, engine, SHORT_VOICE[0])
        return name
    try:
        return default_voice(engine, settings, text, language)
    except UnknownVoice:
        raise NoDefaultVoice(
            "The request names no voice and the server has no default one; send voice_template, or start the server "
            "with --default-voice.",
            SHORT_VOICE[0],
        ) from None


def _check_length(text: str, settings: Settings) -> None:
    limit = settings.short_text.short_text_max_chars
    if len(text) > limit:
        raise TextTooLong(
            f"text has {len(text)} characters; {PATH} takes at most {limit}, /inference_zero_shot longer ones.", "text"
        )


def _with_cache(options: dict[str, Any]) -> dict[str, Any]:
    """Here the cache is used unless the request says otherwise."""
    return options | {"phrase_cache": options["phrase_cache"] is not False}
