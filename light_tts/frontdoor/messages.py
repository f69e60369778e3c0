"""The records that front ends and the engine's process send each other, as MessagePack.

`request` numbers the requests of one connection, `call` its questions; both are chosen by the front end. Samples are
raw little-endian float32 at 24 kHz.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_type_hints

import msgspec

from light_tts.frontdoor.wire_errors import WireError
from light_tts.server.request_observer import RequestSummary
from light_tts.types import ReferenceAudio, RegisteredVoice, RequestStats, SynthesisRequest, Voice

_HINTS = get_type_hints(SynthesisRequest)
# Every field of a request but its voice, which is not one type. A new field travels without a word here.
RequestFields: Any = msgspec.defstruct(
    "RequestFields",
    [(item.name, _HINTS[item.name]) for item in fields(SynthesisRequest) if item.name != "voice"],
    array_like=True,
)


class Record(msgspec.Struct, tag=True, array_like=True):
    """Anything that is sent."""


class VoiceInfo(msgspec.Struct, array_like=True, frozen=True):
    """A registered voice without its tensors: the `VoiceFacts` of a front end."""

    id: str
    language: str | None
    prompt_text: str | None
    has_prompt: bool
    has_transcript: bool
    added_at_s: float | None


class VoiceList(msgspec.Struct, array_like=True, frozen=True):
    """All registered voices at one moment.

    directory:    of those added; None where nothing is added behind the engine's back.
    modified_ns:  when that directory had been changed last, just before it was read.
    """

    voices: tuple[VoiceInfo, ...] = ()
    directory: str | None = None
    modified_ns: int = 0


class SentVoice(msgspec.Struct, array_like=True, frozen=True):
    """The voice of a request: registered under a name, or a recording; with the words of the recording if given."""

    name: str | None = None
    recording: bytes | None = None
    prompt_text: str | None = None


# front end -> engine


class Hello(Record):
    """First record of a connection. version: of the package; both sides must be the same."""

    version: str
    pid: int


class Submit(Record):
    """Begin a request."""

    request: int
    voice: SentVoice | None
    fields: RequestFields


class OpenText(Record):
    """Begin a request whose text follows as `FeedIds`."""

    request: int
    voice: SentVoice | None
    fields: RequestFields


class Convert(Record):
    """Begin a voice conversion."""

    request: int
    source: bytes
    voice: SentVoice | None
    fields: RequestFields


class FeedIds(Record):
    """More text, already encoded."""

    request: int
    ids: tuple[int, ...]


class Flush(Record):
    """Speak what is there."""

    request: int


class Discard(Record):
    """Drop what has been fed and not been heard. epoch: counts these; audio of an earlier one is not wanted."""

    request: int
    epoch: int


class FinishText(Record):
    """No more text."""

    request: int


class Taken(Record):
    """The reader has taken so many more chunks of this epoch."""

    request: int
    epoch: int
    chunks: int


class Leave(Record):
    """The reader has passed on all there was, or reads no more: what still runs is cancelled."""

    request: int


class Began(Record):
    """A synthesis request has been accepted."""

    route: str


class Ended(Record):
    """A request is over."""

    summary: RequestSummary


class AddVoice(Record):
    """Answered with a VoiceInfo."""

    call: int
    name: str
    recording: bytes
    prompt_text: str | None
    language: str | None
    consent: str | None


class RemoveVoice(Record):
    """Answered with None."""

    call: int
    name: str


class RereadVoices(Record):
    """Answered with None, once the new `Voices` have been sent."""

    call: int


class AskHealth(Record):
    """Answered with the engine's health and its memory."""

    call: int


class AskMetrics(Record):
    """Answered with the metrics page."""

    call: int


# engine -> front end


class Welcome(Record):
    """The engine has been loaded."""

    model_name: str
    model_names: list[str]
    voices: VoiceList


class Refused(Record):
    """There will be no engine."""

    error: WireError


class Voices(Record):
    """The registered voices have changed."""

    voices: VoiceList


class Places(Record):
    """Whether there is a place for another request. refusal: what it would be told where there is none."""

    refusal: WireError | None


class Audio(Record):
    """One chunk. stats: of the request so far."""

    request: int
    epoch: int
    stats: RequestStats
    samples: bytes


class End(Record):
    """All audio has been sent."""

    request: int
    stats: RequestStats


class Failed(Record):
    """The request has ended with an error."""

    request: int
    stats: RequestStats
    error: WireError


class Answer(Record):
    """To a call: a value, or an error."""

    call: int
    value: Any = None
    error: WireError | None = None


ToEngine = (
    Hello
    | Submit
    | OpenText
    | Convert
    | FeedIds
    | Flush
    | Discard
    | FinishText
    | Taken
    | Leave
    | Began
    | Ended
    | AddVoice
    | RemoveVoice
    | RereadVoices
    | AskHealth
    | AskMetrics
)
ToFrontEnd = Welcome | Refused | Voices | Places | Audio | End | Failed | Answer


def sent_voice(request: SynthesisRequest) -> SentVoice | None:
    """The voice of a request as it travels. Raises TypeError for a `Voice`, whose tensors stay where they are."""
    voice = request.voice
    if isinstance(voice, Voice):
        raise TypeError("a voice with tensors cannot be sent; name it or send its recording")
    if isinstance(voice, ReferenceAudio):
        return SentVoice(recording=voice.data, prompt_text=voice.prompt_text)
    if isinstance(voice, RegisteredVoice):
        return SentVoice(voice.name, prompt_text=voice.prompt_text)
    return None if voice is None else SentVoice(voice)


def sent_fields(request: SynthesisRequest) -> Any:
    """All of a request but its voice, as it travels."""
    return RequestFields(*(getattr(request, name) for name in RequestFields.__struct_fields__))


def received_request(sent: SentVoice | None, values: Any) -> SynthesisRequest:
    """The request that was sent."""
    voice: str | RegisteredVoice | ReferenceAudio | None = None
    if sent is not None and sent.recording is not None:
        voice = ReferenceAudio(sent.recording, sent.prompt_text)
    elif sent is not None and sent.name is not None:
        voice = sent.name if sent.prompt_text is None else RegisteredVoice(sent.name, sent.prompt_text)
    return SynthesisRequest(voice=voice, **{name: getattr(values, name) for name in RequestFields.__struct_fields__})
