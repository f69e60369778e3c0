"""`WS /inference_zero_shot_bistream` against a real server."""

import asyncio
import json

import pytest
import websockets

from light_tts.audio_output import to_int16
from light_tts.errors import BadAudio, EngineFailure, UndecodableAudio
from light_tts.server.app import create_app

from .conftest import serving, with_server
from .fake_engine import CHUNK_S, sine

WORD = to_int16(sine(CHUNK_S)).tobytes()
VOICE = {"spk_id": "en_male"}


@pytest.fixture
def url(base_url):
    return base_url.replace("http", "ws") + "/inference_zero_shot_bistream"


async def talk(url, *frames):
    """Send frames, then read to the end: audio, events, close code and reason."""
    async with websockets.connect(url) as socket:
        for frame in frames:
            await socket.send(frame if isinstance(frame, bytes) else json.dumps(frame))
        return await heard(socket)


async def heard(socket):
    audio, events = b"", []
    async with asyncio.timeout(10):
        try:
            while True:
                frame = await socket.recv()
                if isinstance(frame, bytes):
                    audio += frame
                else:
                    events.append(json.loads(frame))
        except websockets.ConnectionClosed:
            return audio, events, socket.close_code, socket.close_reason


async def test_the_published_protocol(url, engine):
    audio, events, code, _ = await talk(
        url,
        {"prompt_text": "so it says", "tts_model_name": "default"},
        b"a recording",
        {"tts_text": "one two "},
        {"tts_text": "three"},
        {"finish": True},
    )
    assert (audio, events, code) == (WORD * 3, [], 1000)
    [request] = engine.requests
    assert (request.text, request.voice.data, request.voice.prompt_text) == ("", b"a recording", "so it says")
    assert engine.streams[0].calls == [("feed", "one two "), ("feed", "three"), ("flush",), ("finish",)]


async def test_text_in_the_final_frame_is_spoken(url):
    audio, _, code, _ = await talk(url, VOICE, {"text": "one"}, {"tts_text": "two", "finish": True})
    assert (audio, code) == (WORD * 2, 1000)


async def test_one_frame_may_say_it_all(url):
    audio, _, code, _ = await talk(url + "/", {**VOICE, "tts_text": "one two", "finish": True})
    assert (audio, code) == (WORD * 2, 1000)


@pytest.mark.parametrize("frames", [[], [{"prompt_text": "x"}], [{"prompt_text": "x"}, b"rec"], [VOICE]])
async def test_finish_without_text_is_an_empty_answer(url, engine, frames):
    audio, events, code, _ = await talk(url, *frames, {"finish": True})
    assert (audio, events, code) == (b"", [], 1000)
    assert not engine.running


async def test_audio_leaves_while_text_still_comes(url):
    async with websockets.connect(url) as socket:
        await socket.send(json.dumps(VOICE))
        for _ in range(3):
            await socket.send(json.dumps({"tts_text": "word"}))
            assert await socket.recv() == WORD
        await socket.send(json.dumps({"finish": True}))
        assert (await heard(socket))[2] == 1000


async def test_flush_speaks_what_is_there(url, engine):
    engine.hold_text = True
    async with websockets.connect(url) as socket:
        await socket.send(json.dumps(VOICE))
        await socket.send(json.dumps({"tts_text": "word"}))
        await socket.send(json.dumps({"flush": True}))
        assert await socket.recv() == WORD
        await socket.send(json.dumps({"finish": True}))
        assert (await heard(socket))[0] == b""


async def test_cancel_drops_what_is_queued_and_stays_open(url, engine):
    engine.hold_text = True
    audio, _, code, _ = await talk(
        url, VOICE, {"tts_text": "dropped words"}, {"cancel": True}, {"tts_text": "kept"}, {"finish": True}
    )
    assert (audio, code) == (WORD, 1000)
    [stream] = engine.streams  # the session keeps its place
    assert stream.calls == [("feed", "dropped words"), ("discard",), ("feed", "kept"), ("flush",), ("finish",)]


async def test_cancel_takes_back_audio_that_was_not_sent(url, engine):
    async with websockets.connect(url) as socket:
        await socket.send(json.dumps({**VOICE, "tts_text": "one two three"}))
        assert await socket.recv() == WORD
        await socket.send(json.dumps({"cancel": True}))
        await socket.send(json.dumps({"tts_text": "four", "finish": True}))
        audio, _, code, _ = await heard(socket)
    assert code == 1000
    assert len(audio) in (len(WORD), 2 * len(WORD), 3 * len(WORD))
    assert engine.streams[0].stats.finish == "stop"


async def test_cancel_after_finish_ends_the_session(url, engine):
    engine.hold_text = True
    engine.streams_never_end = True
    _, _, code, _ = await talk(url, VOICE, {"tts_text": "one"}, {"finish": True}, {"cancel": True})
    assert code == 1000
    assert await asyncio.to_thread(engine.cancelled.wait, 5)


async def test_text_after_finish_is_not_spoken(url, engine):
    audio, _, code, _ = await talk(url, VOICE, {"tts_text": "one", "finish": True}, {"tts_text": "two"})
    assert (audio, code) == (WORD, 1000)


async def test_the_end_event_only_when_asked_for(url):
    _, events, _, _ = await talk(url, {**VOICE, "events": True}, {"tts_text": "one two", "finish": True})
    [event] = events
    assert (event["event"], event["audio_s"], event["chunks"]) == ("end", 0.4, 2)


async def test_other_formats_and_options(url, engine):
    audio, _, _, _ = await talk(
        url,
        {**VOICE, "response_format": "wav", "seed": 3, "speed": 1.5, "text_frontend": False},
        {"tts_text": "one two", "finish": True},
    )
    assert audio[:4] == b"RIFF"
    assert audio[44:] == WORD * 2
    [request] = engine.requests
    assert (request.seed, request.speed, request.text_frontend) == (3, 1.5, False)


@pytest.mark.parametrize(
    ("frames", "code", "error_code"),
    [
        ([{"spk_id": "bob"}], 1008, "UNKNOWN_VOICE"),
        ([{"tts_model_name": "x"}], 1008, "UNKNOWN_MODEL"),
        ([{"prompt_text": 5}], 1008, "INVALID_FIELDS"),
        ([{**VOICE, "speed": 9}], 1008, "INVALID_VALUE"),
        ([b"a recording first"], 1008, "INVALID_VALUE"),
        ([["no object"]], 1008, "INVALID_BODY"),
        ([{"prompt_text": "x"}, {"tts_text": "no recording"}], 1008, "INVALID_VALUE"),
        ([VOICE, b"audio where text belongs"], 1008, "INVALID_VALUE"),
        ([VOICE, {"nothing": "known"}], 1008, "INVALID_VALUE"),
        ([VOICE, {"tts_text": ["a"]}], 1008, "INVALID_FIELDS"),
        ([VOICE, {"tts_text": "a" * 5001}], 1008, "TEXT_TOO_LONG"),
    ],
)
async def test_bad_frames_are_explained_before_the_close(url, engine, frames, code, error_code):
    _, events, close_code, reason = await talk(url, *frames)
    assert (close_code, events[-1]["error_code"]) == (code, error_code)
    assert events[-1]["error"].startswith(reason)
    assert reason
    assert not engine.running


async def test_text_that_is_no_json(url):
    async with websockets.connect(url) as socket:
        await socket.send("{")
        _, events, code, _ = await heard(socket)
    assert (code, events[0]["error_code"]) == (1008, "INVALID_BODY")


@pytest.mark.parametrize(
    ("error", "code", "error_code"),
    [(BadAudio("cannot be decoded", "audio"), 1003, "BAD_AUDIO"), (EngineFailure("secret"), 1011, "INFERENCE_FAILED")],
)
async def test_failures_of_the_session(url, engine, error, code, error_code):
    engine.error = error
    _, events, close_code, _ = await talk(url, {"prompt_text": "x"}, b"no recording")
    assert (close_code, events[-1]["error_code"]) == (code, error_code)
    assert "secret" not in events[-1]["error"]


async def test_the_close_says_that_a_recording_is_none(url, engine):
    engine.error = UndecodableAudio("no such container", "audio")
    _, events, code, reason = await talk(url, {"prompt_text": "x"}, b"no recording")
    assert (code, events[-1]["error_code"]) == (1003, "BAD_AUDIO")
    assert reason.startswith("audio file format is incorrect")


async def test_a_full_server(url, engine):
    engine.overloaded = True
    _, events, code, _ = await talk(url, VOICE)
    assert (code, events[-1]["error_code"]) == (1013, "OVERLOADED")


async def test_a_client_that_leaves_frees_its_work(url, engine):
    async with websockets.connect(url) as socket:
        await socket.send(json.dumps(VOICE))
        await socket.send(json.dumps({"tts_text": "word"}))
        await socket.recv()
    assert await asyncio.to_thread(engine.cancelled.wait, 5)
    assert not engine.running


async def test_silence_of_the_client_ends_the_session(engine, settings):
    changed = with_server(settings, ws_idle_timeout_s=1.0)
    with serving(create_app(engine, changed), changed) as base_url:
        url = base_url.replace("http", "ws") + "/inference_zero_shot_bistream"
        for frames in ([], [VOICE], [VOICE, {"tts_text": "word"}]):
            _, events, code, _ = await talk(url, *frames)
            assert (code, events[-1]["error_code"]) == (1008, "IDLE_TIMEOUT")
    assert not engine.running


@pytest.mark.parametrize("ws_max_queue", [1, 2])
async def test_frames_that_wait_are_taken_in_order_and_a_client_that_leaves_is_noticed(engine, settings, ws_max_queue):
    changed = with_server(settings, ws_max_queue=ws_max_queue)
    with serving(create_app(engine, changed), changed) as base_url:
        url = base_url.replace("http", "ws") + "/inference_zero_shot_bistream"
        words = [{"tts_text": f"w{k}"} for k in range(20)]
        audio, _, code, _ = await talk(url, VOICE, *words, {"finish": True})
        assert (audio, code) == (WORD * 20, 1000)
        assert engine.streams[0].fed == [word["tts_text"] for word in words]
        async with websockets.connect(url) as socket:
            await socket.send(json.dumps(VOICE))
            await socket.send(json.dumps({"tts_text": "word"}))
            await socket.recv()
        assert await asyncio.to_thread(engine.cancelled.wait, 5)


async def test_keys_count_for_websockets_too(engine, settings):
    changed = with_server(settings, api_key=("k",))
    with serving(create_app(engine, changed), changed) as base_url:
        url = base_url.replace("http", "ws") + "/inference_zero_shot_bistream"
        with pytest.raises(websockets.InvalidStatus):
            await websockets.connect(url)
        async with websockets.connect(url, additional_headers={"authorization": "Bearer k"}) as socket:
            await socket.send('{"finish": true}')
            assert (await heard(socket))[2] == 1000
