"""One request to an `/inference_...` endpoint, from its fields to its answer. The endpoints differ in a few words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import Request

from light_tts.errors import InvalidRequest
from light_tts.server.audio_response import AudioResponse, header_text
from light_tts.server.fields import Fields
from light_tts.server.inference_fields import (
    STREAM,
    TEXT,
    check_model,
    read_options,
    read_output,
    read_voice,
    says_nothing_of_its_voice,
    server_voice,
)
from light_tts.server.request_body import read_values
from light_tts.server.request_record import RequestRecord
from light_tts.server.speech_fields import AudioOutput, check_text_length, language_code, voice_label
from light_tts.server.state import request_record, server_state
from light_tts.types import Mode, ReferenceAudio, RegisteredVoice, SynthesisRequest

if TYPE_CHECKING:
    from light_tts.settings import Settings
    from light_tts.speech_engine import SpeechEngine


@dataclass(frozen=True)
class Dialect:
    """What sets one endpoint apart.

    mode:               what the language model is given; None chooses by what is there.
    missing:            the field to ask for when the request says nothing of its voice.
    may_use_default:    such a request is spoken with the server's default voice.
    needs_instruction:  `instruct_text` is required.
    by_sentence:        without a word about streaming, the answer leaves sentence by sentence, each made as a whole.
    """

    mode: Mode | None = None
    missing: str = "prompt_wav"
    may_use_default: bool = False
    needs_instruction: bool = False
    by_sentence: bool = False


async def speak(request: Request, dialect: Dialect) -> AudioResponse:
    """Read, check, submit. Raises what the error table of `server/errors.py` knows, before anything is sent."""
    state, record = server_state(request), request_record(request)
    engine = state.ready_engine()
    fields = Fields(await read_values(request))
    record.mark_received()
    output = read_output(fields, request.headers.get("accept", ""), stream_by_default=dialect.by_sentence)
    synthesis = _synthesis(fields, state.settings, output, dialect, engine, record)
    voice = voice_label(synthesis)
    record.voice, record.model, record.text_chars = voice, synthesis.model, len(synthesis.text)
    record.text = synthesis.text if state.settings.server.log_text else None
    return AudioResponse(
        engine.submit(synthesis),
        output,
        record,
        send_timeout_s=state.settings.engine.request_timeout_s,
        headers={"X-Voice": header_text(voice)} if voice else None,
    )


def _synthesis(
    fields: Fields,
    settings: Settings,
    output: AudioOutput,
    dialect: Dialect,
    engine: SpeechEngine,
    record: RequestRecord,
) -> SynthesisRequest:
    text = fields.text(*TEXT, required=True)
    options = read_options(fields)
    model = fields.word("tts_model_name") or "default"
    language = language_code(fields.word("language"))
    instruction = fields.text("instruct_text", required=True) if dialect.needs_instruction else None
    # Whole sentences for those who did not ask for streaming: they gain in quality and only wait a little longer.
    stream = output.stream and (fields.has(*STREAM) or not dialect.by_sentence)
    voice: str | RegisteredVoice | ReferenceAudio | None
    if dialect.may_use_default and says_nothing_of_its_voice(fields):
        voice = server_voice(fields, engine, settings, text, language)
    else:
        voice = read_voice(fields, engine, settings, missing=dialect.missing)
    fields.check()
    assert text is not None
    check_text_length(text, TEXT[0] if fields.has(TEXT[0]) else TEXT[1], settings)
    check_text_length(instruction or "", "instruct_text", settings)
    if settings.server.strict_lighttts and stream and options["speed"] != 1.0:
        raise InvalidRequest("speed change only support non-stream inference mode", "speed")
    return SynthesisRequest(
        text=text,
        voice=voice,
        mode=dialect.mode,
        instruction=instruction,
        stream=stream,
        language=language,
        model=check_model(model, engine),
        caller=record.caller,
        request_id=record.request_id,
        **options,
    )
