"""`/inference_zero_shot` in both spellings, in-process."""

import base64
import io
import wave

import numpy as np
import pytest

from light_tts.audio_output import to_int16
from light_tts.errors import BadAudio, DeadlineExceeded, EngineFailure
from light_tts.types import RegisteredVoice

from .fake_engine import sine

PATH = "/inference_zero_shot"
WHOLE = to_int16(sine(1.0)).tobytes()
RECORDING = b"RIFF....not really a recording"


def form(**fields):
    """A multipart form, as `requests.post(url, data=..., files=...)` sends it."""
    files = {name: ("prompt.wav", value) for name, value in fields.items() if isinstance(value, bytes)}
    return {"data": {name: value for name, value in fields.items() if name not in files}, "files": files}


@pytest.mark.parametrize("stream", ["True", "False"])
@pytest.mark.parametrize("path", [PATH, PATH + "/"])
async def test_first_spelling_answers_headerless_pcm(client, engine, path, stream):
    answer = await client.post(
        path, **form(tts_text="hello", prompt_text="so it says", prompt_wav=RECORDING, stream=stream)
    )
    assert answer.status_code == 200
    assert answer.content == WHOLE
    assert answer.headers["content-type"] == "audio/pcm"
    assert answer.headers["x-sample-rate"] == "24000"
    assert answer.headers["x-audio-format"] == "s16le"
    assert answer.headers["x-channels"] == "1"
    assert answer.headers["x-request-id"]
    assert answer.headers["x-accel-buffering"] == "no"
    assert ("content-length" in answer.headers) == (stream == "False")
    [request] = engine.requests
    assert request.stream == (stream == "True")
    assert request.voice.data == RECORDING
    assert request.voice.prompt_text == "so it says"
    assert (request.text, request.speed, request.language) == ("hello", 1.0, "auto")


async def test_second_spelling_answers_wav_with_true_sizes(client, engine):
    answer = await client.post(PATH, **form(text="hello", prompt_audio=RECORDING, streaming="false", language="zh"))
    assert answer.headers["content-type"] == "audio/wav"
    with wave.open(io.BytesIO(answer.content)) as file:
        assert file.readframes(10**6) == WHOLE
    [request] = engine.requests
    assert request.language == "zh"
    assert request.voice.prompt_text is None  # cross-lingual


async def test_second_spelling_streams_wav_of_unknown_length(client):
    answer = await client.post(PATH, **form(text="hello", prompt_audio=RECORDING, streaming="1"))
    assert answer.content[40:44] == b"\xff\xff\xff\xff"
    assert answer.content[44:] == WHOLE


async def test_mixed_spelling_with_tts_text_stays_pcm(client):
    answer = await client.post(PATH, data={"tts_text": "hello", "language": "en"})
    assert answer.content == WHOLE


async def test_get_with_a_form_body_is_served(client):
    answer = await client.request("GET", PATH, **form(tts_text="hello", prompt_text="a", prompt_wav=RECORDING))
    assert answer.content == WHOLE


async def test_all_optional_fields_reach_the_engine(client, engine):
    answer = await client.post(
        PATH,
        data={
            "tts_text": "hello",
            "zero_shot_spk_id": "en_male",
            "stream": "yes",
            "language": "中文",
            "tts_model_name": "cosyvoice",
            "speed": "1.5",
            "seed": "42",
            "flow_steps": "5",
            "text_frontend": "off",
            "temperature": "0.7",
            "top_p": "0.9",
            "top_k": "30",
        },
    )
    assert answer.status_code == 200
    [request] = engine.requests
    assert (request.voice, request.language, request.model) == ("en_male", "zh", "cosyvoice")
    assert (request.speed, request.seed, request.flow_steps, request.text_frontend) == (1.5, 42, 5, False)
    assert (request.sampling.temperature, request.sampling.top_p, request.sampling.top_k) == (0.7, 0.9, 30)
    assert answer.headers["x-voice"] == "en_male"


async def test_json_with_a_base64_recording_or_a_voice_name(client, engine):
    packed = base64.b64encode(RECORDING).decode()
    for said in (packed, "data:audio/wav;base64," + packed):
        await client.post(PATH, json={"tts_text": "hello", "prompt_text": "x", "prompt_wav": said, "stream": True})
    await client.post(PATH, json={"tts_text": "hello", "prompt_wav": "zh_female"})
    first, second, third = engine.requests
    assert first.voice.data == second.voice.data == RECORDING
    assert third.voice == "zh_female"


async def test_json_is_read_whatever_content_type_curl_gives_it(client):
    answer = await client.post(
        PATH, content=b'{"tts_text": "hello"}', headers={"content-type": "application/x-www-form-urlencoded"}
    )
    assert answer.content == WHOLE


async def test_a_transcript_beside_a_registered_voice_replaces_its_own(client, engine):
    await client.post(PATH, data={"tts_text": "hello", "spk_id": "en_female", "prompt_text": "other words"})
    [request] = engine.requests
    assert request.voice == RegisteredVoice("en_female", "other words")


async def test_without_any_voice_the_language_of_the_text_decides(client, engine):
    for text in ("hello", "你好"):
        await client.post(PATH, data={"tts_text": text})
    assert [request.voice for request in engine.requests] == ["en_female", "zh_female"]


@pytest.mark.parametrize("name", ["wav", "mp3", "opus", "flac", "aac"])
@pytest.mark.parametrize("stream", [True, False])
async def test_other_formats_on_request(client, name, stream):
    import av

    answer = await client.post(PATH, json={"tts_text": "hello", "response_format": name, "stream": stream})
    with av.open(io.BytesIO(answer.content)) as container:
        seconds = sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))
    assert seconds == pytest.approx(1.0, abs=0.13)


async def test_accept_header_chooses_wav(client):
    answer = await client.post(PATH, data={"tts_text": "hello"}, headers={"accept": "audio/wav"})
    assert answer.content[:4] == b"RIFF"


async def test_sample_rate_is_resampled(client):
    answer = await client.post(PATH, data={"tts_text": "hello", "sample_rate": "8000"})
    assert answer.headers["x-sample-rate"] == "8000"
    assert len(answer.content) == pytest.approx(16_000, abs=100)


async def test_audio_over_full_scale_is_clipped(client, engine):
    engine.amplitude = 1.5
    answer = await client.post(PATH, data={"tts_text": "hello"})
    samples = np.frombuffer(answer.content, "<i2").astype(int)
    assert samples.max() == 32767
    assert np.abs(np.diff(samples)).max() < 8000  # a wrapped sample jumps by 65535


async def test_a_callers_id_is_echoed_when_plain(client, engine):
    plain = await client.post(PATH, data={"tts_text": "a"}, headers={"x-request-id": "call-1:2"})
    assert plain.headers["x-request-id"] == "call-1:2"
    assert engine.requests[0].request_id == "call-1:2"
    for strange in ("x" * 200, "a b", "é".encode("latin-1")):
        answer = await client.post(PATH, data={"tts_text": "a"}, headers={"x-request-id": strange})
        assert len(answer.headers["x-request-id"]) == 32


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({}, 422, "INVALID_FIELDS"),
        ({"prompt_text": "a"}, 422, "INVALID_FIELDS"),
        ({"tts_text": "a", "prompt_text": "transcript of nothing"}, 422, "INVALID_FIELDS"),
        ({"tts_text": "a", "speed": "fast"}, 422, "INVALID_FIELDS"),
        ({"tts_text": "a", "stream": "perhaps"}, 422, "INVALID_FIELDS"),
        ({"tts_text": "a", "speed": "nan"}, 422, "INVALID_FIELDS"),
        ({"tts_text": "a", "speed": "2.5"}, 400, "INVALID_VALUE"),
        ({"tts_text": "a", "seed": "-1"}, 400, "INVALID_VALUE"),
        ({"tts_text": "a", "flow_steps": "51"}, 400, "INVALID_VALUE"),
        ({"tts_text": "a", "sample_rate": "11025"}, 400, "INVALID_VALUE"),
        ({"tts_text": "a", "language": "klingon"}, 400, "INVALID_VALUE"),
        ({"tts_text": "a", "response_format": "au"}, 400, "UNSUPPORTED"),
        ({"tts_text": "a", "text": "b"}, 400, "CONFLICTING_FIELDS"),
        ({"tts_text": "a", "stream": "1", "streaming": "no"}, 400, "CONFLICTING_FIELDS"),
        ({"tts_text": "", "spk_id": "en_male"}, 400, "EMPTY_TEXT"),
        ({"tts_text": "  。！ "}, 400, "EMPTY_TEXT"),
        ({"tts_text": "a" * 5001}, 400, "TEXT_TOO_LONG"),
        ({"tts_text": "a", "spk_id": "bob"}, 404, "UNKNOWN_VOICE"),
        ({"tts_text": "a", "tts_model_name": "gpt"}, 404, "UNKNOWN_MODEL"),
        ({"tts_text": "a", "spk_id": "en_male", "prompt_wav": "AAAA"}, 400, "CONFLICTING_FIELDS"),
        ({"tts_text": "a", "prompt_wav": "no base64!"}, 422, "INVALID_FIELDS"),
    ],
)
async def test_bad_requests_get_a_status_and_a_body_that_says_why(client, engine, fields, status, code):
    for answer in (await client.post(PATH, data=fields), await client.post(PATH, json=fields)):
        body = answer.json()
        assert (answer.status_code, body["error_code"]) == (status, code)
        assert body["message"]
        assert (body["detail"] is None) != (status == 422)
        assert answer.headers["x-request-id"]
    assert all(not request.text.strip(" 。！") for request in engine.requests)


async def test_same_meaning_twice_with_the_same_value_is_fine(client):
    answer = await client.post(PATH, json={"tts_text": "a", "text": "a", "stream": True, "streaming": "yes"})
    assert answer.status_code == 200


async def test_a_missing_field_is_named_as_fastapi_does(client):
    detail = (await client.post(PATH, data={})).json()["detail"]
    assert [(entry["type"], entry["loc"]) for entry in detail] == [("missing", ["body", "tts_text"])]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b'{"tts_text": "a"', "application/json", 400),
        (b'{"tts_text": "\xff\xfe"}', "application/json", 400),
        (b'["tts_text"]', "application/json", 400),
        (b'{"tts_text": "a", "speed": NaN}', "application/json", 400),
        (b'{"tts_text": "a", "speed": 1e999}', "application/json", 422),
        (b'{"tts_text": "a", "seed": ' + b"9" * 5000 + b"}", "application/json", 400),
        (b'{"tts_text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "application/json", 400),
        (b'{"tts_text": {"a": 1}}', "application/json", 422),
        (b'{"tts_text": 5}', "application/json", 422),
        (b'{"tts_text": "\\ud800"}', "application/json", 422),
        (b'{"spk_id": "\\ud800", "tts_text": "a"}', "application/json", 422),
        (b'{"tts_text": "a", "tts_model_name": "\\u0000"}', "application/json", 404),
        (b"tts_text=%ff%fe", "application/x-www-form-urlencoded", 400),
        (b"tts_text=\xff", "application/x-www-form-urlencoded", 400),
        (b"a=1&" * 70, "application/x-www-form-urlencoded", 400),
        (b"hello", "text/plain", 415),
        (b"hello", "", 415),
        (b"", "", 422),
        (b"x", "multipart/form-data", 400),
        (b"x", "multipart/form-data; boundary=b", 400),
        (
            b'--b\r\nContent-Disposition: form-data; name="tts_text"\r\n\r\nhello',
            "multipart/form-data; boundary=b",
            400,
        ),
        (
            b'--b\r\nContent-Disposition: form-data; name="tts_text"\r\n\r\n\xff\xff\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
            400,
        ),
    ],
)
async def test_broken_bodies_are_refused_clearly(client, engine, body, content_type, status):
    answer = await client.post(PATH, content=body, headers={"content-type": content_type})
    assert answer.status_code == status, answer.text
    assert answer.json()["message"]
    assert not engine.requests


async def test_compressed_bodies_are_not_read(client):
    answer = await client.post(PATH, content=b"x", headers={"content-encoding": "gzip"})
    assert answer.status_code == 415


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (BadAudio("The recording cannot be decoded.", "audio"), 400, "BAD_AUDIO"),
        (EngineFailure("tensor at /secret/path exploded"), 500, "INFERENCE_FAILED"),
        (DeadlineExceeded("It took too long."), 504, "TIMEOUT"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_failure_before_the_first_byte_is_an_ordinary_error(client, engine, error, status, code, stream):
    engine.error = error
    answer = await client.post(PATH, json={"tts_text": "hello", "stream": stream})
    assert (answer.status_code, answer.json()["error_code"]) == (status, code)
    assert "secret" not in answer.text


async def test_failure_of_a_complete_answer_is_an_ordinary_error_at_any_time(client, engine):
    engine.error, engine.error_after = EngineFailure("late"), 3
    answer = await client.post(PATH, json={"tts_text": "hello", "stream": False})
    assert answer.status_code == 500


async def test_a_full_server_says_when_to_come_back(client, engine):
    engine.overloaded = True
    answer = await client.post(PATH, data={"tts_text": "hello"})
    assert (answer.status_code, answer.json()["error_code"]) == (503, "OVERLOADED")
    assert answer.headers["retry-after"] == "3"


async def test_list_of_models(client):
    for method in ("GET", "POST"):
        answer = await client.request(method, "/query_tts_model")
        assert answer.json() == {"tts_models": ["cosyvoice"]}
