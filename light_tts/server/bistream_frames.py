"""The JSON frames of a bi-stream session, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from light_tts.errors import InvalidRequest
from light_tts.server.fields import Fields
from light_tts.server.inference_fields import VOICE, check_model, read_options
from light_tts.server.request_record import RequestRecord
from light_tts.server.speech_fields import AudioOutput, audio_output, language_code, named_voice
from light_tts.server.state import ServerState
from light_tts.types import ReferenceAudio, SynthesisRequest

_TEXT = ("tts_text", "text")
_KEYS = (*_TEXT, "flush", "cancel", "finish")


@dataclass(frozen=True)
class TextFrame:
    """What one frame after the opening asks for, in the order it is done: cancel, speak, flush, finish."""

    text: str = ""
    flush: bool = False
    cancel: bool = False
    finish: bool = False

    @property
    def is_bare_finish(self) -> bool:
        """True when it only says that nothing comes."""
        return self == TextFrame(finish=True)

    @staticmethod
    def is_in(values: Mapping[str, Any]) -> bool:
        """True when an opening frame also carries text or an order."""
        return any(key in values for key in _KEYS)


@dataclass(frozen=True, eq=False)
class SessionOptions:
    """The opening frame.

    request:       what every text of the session is spoken with; its text is empty.
    wants_events:  the client asked for an `end` event.
    """

    request: SynthesisRequest
    output: AudioOutput
    prompt_text: str | None
    voice_name: str | None
    wants_events: bool

    @property
    def needs_recording(self) -> bool:
        """True when the recording comes as the next frame."""
        return self.request.voice is None

    def with_voice(self, voice: ReferenceAudio) -> SessionOptions:
        """Complete with the recording."""
        return replace(self, request=replace(self.request, voice=voice))


def read_options_frame(values: Mapping[str, Any], state: ServerState, record: RequestRecord) -> SessionOptions:
    """The opening frame. Raises InvalidFields, InvalidRequest, UnknownVoice, UnknownModel, Unsupported, NotReady."""
    engine = state.ready_engine()
    fields = Fields(values)
    prompt_text = fields.text("prompt_text") or None
    name = fields.word(*VOICE)
    model = fields.word("tts_model_name") or "default"
    language = fields.word("language")
    format_name = (fields.word("response_format") or "pcm").lower()
    rate_hz = fields.integer("sample_rate", low=8000, high=48000)
    wants_events = fields.boolean("events", default=False)
    options = read_options(fields)
    fields.check()
    voice = None if name is None else named_voice(name, prompt_text, engine, "spk_id")
    request = SynthesisRequest(
        text="",
        voice=voice,
        stream=True,
        language=language_code(language),
        model=check_model(model, engine),
        caller=record.caller,
        request_id=record.request_id,
        **options,
    )
    return SessionOptions(request, audio_output(format_name, rate_hz, stream=True), prompt_text, name, wants_events)


def read_text_frame(values: Mapping[str, Any]) -> TextFrame:
    """A frame after the opening. Raises InvalidRequest when it holds nothing known."""
    fields = Fields(values)
    if not TextFrame.is_in(values):
        raise InvalidRequest(f"The frame has none of {', '.join(_KEYS)}.", _TEXT[0])
    frame = TextFrame(
        text=fields.text(*_TEXT) or "",
        flush=fields.boolean("flush", default=False),
        cancel=fields.boolean("cancel", default=False),
        finish=fields.boolean("finish", default=False),
    )
    fields.check()
    return frame
