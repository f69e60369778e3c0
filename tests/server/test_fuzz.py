"""Whatever is sent: no answer is our fault, no session hangs, and what is refused is explained."""

import asyncio
import json
from urllib.parse import quote

import websockets
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from .conftest import wait_for
from .test_lighttts_api import form

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
field_names = st.sampled_from(
    [
        "tts_text",
        "text",
        "prompt_text",
        "prompt_wav",
        "prompt_audio",
        "stream",
        "streaming",
        "speed",
        "seed",
        "voice",
        "spk_id",
        "language",
        "flow_steps",
        "top_p",
        "top_k",
        "temperature",
        "response_format",
        "sample_rate",
        "tts_model_name",
        "text_frontend",
        "input",
        "model",
        "stream_format",
        "ref_audio",
        "instructions",
        "name",
        "audio_sample",
        "instruct_text",
        "voice_template",
        "timeout_s",
        "cache",
        "deep",
    ]
)
bodies = st.dictionaries(field_names, json_values | st.sampled_from(["1", "true", "wav", "sse", "0.5"]), max_size=6)
paths = st.sampled_from(
    [
        "/inference_zero_shot",
        "/inference_sft",
        "/inference_cross_lingual",
        "/inference_instruct",
        "/inference_instruct2",
        "/inference_short",
        "/voices",
        "/query_tts_model",
        "/v1/audio/speech",
        "/v1/audio/voices",
    ]
)
methods = st.sampled_from(["POST", "POST", "POST", "GET", "DELETE", "PUT"])


def check_never_our_fault(answer):
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.json().get("message") or answer.json()["error"]["message"]


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(method=methods, path=paths, body=bodies)
async def test_no_json_makes_the_server_fail(client, method, path, body):
    check_never_our_fault(await client.request(method, path, json=body))


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=paths,
    body=st.binary(max_size=200)
    | st.builds(lambda tail: b'--b\r\nContent-Disposition: form-data; name="text' + tail, st.binary()),
    content_type=st.sampled_from(
        [
            "application/json",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=b",
            "text/plain",
            ";",
            "",
        ]
    ),
)
async def test_no_bytes_make_the_server_fail(client, path, body, content_type):
    check_never_our_fault(await client.post(path, content=body, headers={"content-type": content_type}))


@hypothesis_settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=paths, fields=st.dictionaries(field_names, st.text(max_size=20) | st.binary(max_size=20), max_size=6))
async def test_no_form_makes_the_server_fail(client, path, fields):
    check_never_our_fault(await client.post(path, **form(**fields)))


@hypothesis_settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.text(max_size=30) | paths, query=st.text(max_size=30))
async def test_no_path_makes_the_server_fail(client, path, query):
    check_never_our_fault(await client.get("/" + quote(path, safe="/"), params={"name": query, "deep": query}))


frame_keys = st.sampled_from(
    ["tts_text", "text", "flush", "cancel", "finish", "spk_id", "prompt_text", "events", "speed", "response_format"]
)
frame_values = json_values | st.sampled_from([True, "en_male", "word", "wav", 1.5])
frames = st.one_of(
    st.dictionaries(frame_keys, frame_values, max_size=4).map(json.dumps),
    st.text(max_size=20),
    st.binary(max_size=20),
)


@hypothesis_settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=st.lists(frames, max_size=5), opens_well=st.booleans())
async def test_no_frames_make_a_session_fail_or_hang(base_url, engine, sent, opens_well):
    url = base_url.replace("http", "ws") + "/inference_zero_shot_bistream"
    async with asyncio.timeout(20), websockets.connect(url) as socket:
        try:
            for frame in ['{"spk_id": "en_male"}'] * opens_well + sent + ['{"finish": true}'] * 3:
                await socket.send(frame)
            async for _ in socket:
                pass
        except websockets.ConnectionClosed:
            pass
        await socket.wait_closed()
    assert socket.close_code in (1000, 1003, 1008)
    await asyncio.to_thread(wait_for, lambda: all(stream.is_finished for stream in engine.streams))
    engine.streams.clear()
