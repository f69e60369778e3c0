"""The same request, said to different servers."""

import base64

import pytest

from light_tts.bench.dialects import DIALECTS
from light_tts.bench.target import SpeechOptions, SpeechRequest
from light_tts.errors import ConfigError

REQUEST = SpeechRequest("你好", seed=7)


def test_zero_shot_form_with_a_recording() -> None:
    options = SpeechOptions(stream=False, prompt_audio=b"RIFF", prompt_text="hi", fields=(("flow_steps", "5"),))
    body = DIALECTS["lighttts"].body(REQUEST, options)
    assert body.json is None
    assert body.files == {"prompt_wav": b"RIFF"}
    assert body.form == {
        "tts_text": "你好",
        "stream": "false",
        "seed": "7",
        "tts_model_name": "default",
        "prompt_text": "hi",
        "flow_steps": "5",
    }


def test_zero_shot_form_with_a_named_voice() -> None:
    body = DIALECTS["lighttts"].body(REQUEST, SpeechOptions(voice="anna", model="calm"))
    assert not body.files
    assert (body.form["spk_id"], body.form["stream"], body.form["tts_model_name"]) == ("anna", "true", "calm")


def test_speech_json() -> None:
    options = SpeechOptions(prompt_audio=b"RIFF", prompt_text="hi", fields=(("speed", "1.5"), ("user", "me")))
    json = DIALECTS["openai"].body(REQUEST, options).json
    assert json is not None
    prefix, _, encoded = json["ref_audio"].partition(",")
    assert prefix == "data:audio/wav;base64"
    assert base64.b64decode(encoded) == b"RIFF"
    assert {name: json[name] for name in ("input", "seed", "stream", "response_format", "ref_text")} == {
        "input": "你好",
        "seed": 7,
        "stream": True,
        "response_format": "pcm",
        "ref_text": "hi",
    }
    assert (json["speed"], json["user"]) == (1.5, "me")
    assert "voice" not in json


def test_short_json_names_a_voice_and_no_seed() -> None:
    options = SpeechOptions(stream=False, voice="anna", fields=(("cache", "false"),))
    assert DIALECTS["short"].body(REQUEST, options).json == {
        "text": "你好",
        "stream": False,
        "voice_template": "anna",
        "cache": False,
    }
    with pytest.raises(ConfigError, match="--voice"):
        DIALECTS["short"].body(REQUEST, SpeechOptions(prompt_audio=b"RIFF"))
