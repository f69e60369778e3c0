"""How servers want to be asked: one function for each kind of server, from a request to an HTTP body. Pure.

A new kind of server is one function and one line in `DIALECTS`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from light_tts.bench.target import SpeechOptions, SpeechRequest
from light_tts.errors import ConfigError


@dataclass(frozen=True)
class HttpBody:
    """A POST body: JSON, or a form with files."""

    json: dict[str, Any] | None = None
    form: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Dialect:
    """path: where requests go, after the server's base URL."""

    name: str
    path: str
    body: Callable[[SpeechRequest, SpeechOptions], HttpBody]


def _zero_shot_form(request: SpeechRequest, options: SpeechOptions) -> HttpBody:
    """The form of LightTTS and CosyVoice; `spk_id` and `seed` are extensions that other servers skip."""
    form = {"tts_text": request.text, "stream": str(options.stream).lower(), "seed": str(request.seed)}
    form["tts_model_name"] = options.model or "default"
    if options.voice is not None:
        form["spk_id"] = options.voice
    if options.prompt_text is not None:
        form["prompt_text"] = options.prompt_text
    files = {} if options.prompt_audio is None else {"prompt_wav": options.prompt_audio}
    return HttpBody(form=form | dict(options.fields), files=files)


def _speech_json(request: SpeechRequest, options: SpeechOptions) -> HttpBody:
    """OpenAI's speech endpoint; `stream`, `seed`, `ref_audio` and `ref_text` are common extensions."""
    body: dict[str, Any] = {
        "model": options.model or "tts-1",
        "input": request.text,
        "response_format": "pcm",
        "stream": options.stream,
        "seed": request.seed,
    }
    if options.voice is not None:
        body["voice"] = options.voice
    if options.prompt_audio is not None:
        body["ref_audio"] = "data:audio/wav;base64," + base64.b64encode(options.prompt_audio).decode()
    if options.prompt_text is not None:
        body["ref_text"] = options.prompt_text
    return HttpBody(json=body | {name: _json_value(word) for name, word in options.fields})


def _short_json(request: SpeechRequest, options: SpeechOptions) -> HttpBody:
    """Short texts in registered voices. No seed: with one, every answer would be spoken anew.

    Raises ConfigError for a recording, which that endpoint does not take.
    """
    if options.prompt_audio is not None:
        raise ConfigError("The dialect 'short' speaks with registered voices; give --voice instead of --prompt-wav.")
    body: dict[str, Any] = {"text": request.text, "stream": options.stream}
    if options.voice is not None:
        body["voice_template"] = options.voice
    return HttpBody(json=body | {name: _json_value(word) for name, word in options.fields})


def _json_value(word: str) -> Any:
    """`5` and `true` as what they look like, anything else as a string."""
    try:
        return json.loads(word)
    except ValueError:
        return word


DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Dialect("lighttts", "/inference_zero_shot", _zero_shot_form),
        Dialect("openai", "/v1/audio/speech", _speech_json),
        Dialect("short", "/inference_short", _short_json),
    )
}
