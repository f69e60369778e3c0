"""What holds for every route: health, keys, limits, unknown paths, CORS, metrics, the log line."""

import asyncio
import logging
import sys
import threading
from dataclasses import replace

import pytest

from light_tts.errors import EngineFailure
from light_tts.server.app import create_app
from light_tts.settings import FrontendSettings, Settings

from .conftest import client_of, with_server

SPEECH = "/v1/audio/speech"
ZERO_SHOT = "/inference_zero_shot"


def sample(text, name):
    return next(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + " "))


async def test_health_of_a_ready_server(client, engine):
    for path in ("/health", "/healthz", "/health?deep=1"):
        answer = await client.get(path)
        body = answer.json()
        assert answer.status_code == 200
        assert (body["message"], body["status"], body["model_loaded"]) == ("Ok", "healthy", True)
        assert (body["current_concurrent_requests"], body["max_concurrent_requests"]) == (0, 64)
        assert body["model"] == "test-model"
        assert body["version"]
    assert len(engine.requests) == 1
    for path in ("/liveness", "/readiness"):
        assert (await client.get(path)).json() == {"status": "ok"}


async def test_health_has_the_same_keys_loading_on_cpu_and_on_a_gpu(client, engine, settings):
    on_cpu = (await client.get("/health")).json()
    names = ("used_bytes", "total_bytes", "reserved_bytes", "allocated_bytes", "process_bytes")
    assert on_cpu["gpu_memory"] == {"device": "cpu", **dict.fromkeys(names, 0)}
    memory = {"device": "GPU", **dict.fromkeys(names, 3)}
    engine.gpu_memory = lambda: {**memory, "index": 0}
    on_gpu = (await client.get("/health")).json()
    assert on_gpu["gpu_memory"] == memory
    async with client_of(None, settings) as starting:
        loading = (await starting.get("/health")).json()
    keys = {"message", "status", "model_loaded", "current_concurrent_requests", "max_concurrent_requests", "version"}
    assert all(keys | {"gpu_memory"} <= set(body) for body in (on_cpu, on_gpu, loading))
    assert set(loading["gpu_memory"]) == set(memory)
    assert {"model", "uptime_s"} <= set(on_cpu)


async def test_health_answers_head_without_a_body(client, engine):
    for path in ("/healthz", "/health", "/liveness", "/readiness"):
        answer = await client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
    engine.ready = False
    assert (await client.head("/healthz")).status_code == 503


async def test_health_does_not_wait_for_busy_threads(client):
    release = threading.Event()
    loop = asyncio.get_running_loop()
    work = [loop.run_in_executor(None, release.wait) for _ in range(64)]
    try:
        async with asyncio.timeout(10):
            for path in ("/health", "/readiness", "/metrics"):
                assert (await client.get(path)).status_code == 200
    finally:
        release.set()
        await asyncio.gather(*work)


async def test_health_can_be_told_to_fail(engine, settings):
    async with client_of(engine, with_server(settings, debug_health_fails=True)) as client:
        assert (await client.get("/health")).status_code == 503
        assert (await client.get("/readiness")).status_code == 200


async def test_a_strict_server_fails_its_health_check_as_lighttts_does(engine, settings):
    async with client_of(engine, with_server(settings, strict_lighttts=True)) as client:
        assert (await client.get("/healthz")).status_code == 200
        engine.ready = False
        failing = await client.get("/healthz")
        assert (failing.status_code, failing.json()["message"]) == (404, "Error")
        assert (await client.get("/readiness")).status_code == 503


async def test_every_path_has_its_spelling_with_a_slash(client):
    for method, path in (("GET", "/healthz/"), ("GET", "/v1/models/"), ("POST", "/query_tts_model/")):
        assert (await client.request(method, path)).status_code == 200, path
    for path in (ZERO_SHOT, "/inference_sft"):
        answer = await client.post(path + "/", data={"tts_text": "a", "spk_id": "en_male"})
        assert answer.status_code == 200
        assert answer.content


async def test_gzip_takes_json_and_text_from_1000_bytes_and_never_audio(engine, settings, client):
    accepts = {"accept-encoding": "gzip"}
    assert "content-encoding" not in (await client.get("/metrics", headers=accepts)).headers
    async with client_of(engine, with_server(settings, gzip=True)) as zipping:
        metrics = await zipping.get("/metrics", headers=accepts)
        assert metrics.headers["content-encoding"] == "gzip"
        assert "tts_engine_up" in metrics.text
        for path in ("/healthz", "/liveness"):
            assert "content-encoding" not in (await zipping.get(path, headers=accepts)).headers
        assert "content-encoding" not in (await zipping.get("/metrics", headers={"accept-encoding": "br"})).headers
        for fields in ({}, {"stream": True}, {"response_format": "mp3"}, {"response_format": "wav", "stream": True}):
            audio = await zipping.post(ZERO_SHOT, json={"tts_text": "a", **fields}, headers=accepts)
            assert audio.status_code == 200
            assert "content-encoding" not in audio.headers
        body = {"input": "a", "stream_format": "sse"}
        events = await zipping.post(SPEECH, json=body, headers=accepts)
        assert "content-encoding" not in events.headers


async def test_health_of_a_broken_engine(client, engine):
    engine.ready, engine.failure = False, "decoder thread is gone"
    answer = await client.get("/healthz")
    assert (answer.status_code, answer.json()["message"], answer.json()["error"]) == (503, "Error", engine.failure)
    assert (await client.get("/readiness")).status_code == 503
    assert (await client.get("/liveness")).status_code == 200
    refused = await client.post(ZERO_SHOT, data={"tts_text": "a"})
    assert (refused.status_code, refused.json()["error_code"]) == (503, "NOT_READY")


async def test_a_deep_check_hears_that_nothing_is_spoken(client, engine):
    engine.error = EngineFailure("no voice")
    assert (await client.get("/health")).status_code == 200
    assert (await client.get("/health?deep=1")).status_code == 503


async def test_while_loading_everything_but_liveness_says_not_ready(settings):
    async with client_of(create_app(None, settings)) as client:
        for path in (ZERO_SHOT, SPEECH, "/query_tts_model"):
            answer = await client.post(path, json={"tts_text": "a", "input": "a"})
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
        assert (await client.get("/healthz")).json()["status"] == "loading"
        assert (await client.get("/readiness")).status_code == 503
        assert (await client.get("/liveness")).status_code == 200
        assert sample((await client.get("/metrics")).text, "tts_engine_up") == 0


async def test_keys(engine, settings):
    app = create_app(engine, with_server(settings, api_key=("first", "sécond")))
    async with client_of(app) as client:
        for headers in ({}, {"authorization": "Bearer "}, {"authorization": "Bearer wrong"}, {"xi-api-key": "wrong"}):
            answer = await client.post(SPEECH, json={"input": "a"}, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"
            other = await client.post(ZERO_SHOT, data={"tts_text": "a"}, headers=headers)
            assert (other.status_code, other.json()["error_code"]) == (401, "INVALID_API_KEY")
        for headers in ({"authorization": "Bearer first"}, {"authorization": "bearer first"}, {"xi-api-key": "first"}):
            assert (await client.post(SPEECH, json={"input": "a"}, headers=headers)).status_code == 200
        for path in ("/v1/models", "/v1/audio/models", "/v1/audio/voices", "/v1/", "/healthz", "/metrics"):
            assert (await client.get(path)).status_code == 200
        assert (await client.post("/v1/audio/voices", data={"name": "x"})).status_code == 401
        assert (await client.delete("/v1/audio/voices/en_male")).status_code == 401


async def test_lists_can_be_closed(engine, settings):
    async with client_of(create_app(engine, with_server(settings, api_key=("k",), open_lists=False))) as client:
        assert (await client.get("/v1/models")).status_code == 401
        assert (await client.get("/v1/models", headers={"authorization": "Bearer k"})).status_code == 200


@pytest.mark.parametrize("header", ["Bearer ", "Bearer whatever", "nonsense", ""])
async def test_without_keys_every_header_is_accepted(client, header):
    answer = await client.post(SPEECH, json={"input": "a"}, headers={"authorization": header})
    assert answer.status_code == 200


async def test_bodies_over_the_limit(engine):
    app = create_app(engine, Settings(frontend=FrontendSettings(max_upload_mb=1)))

    async def chunks():
        for _ in range(8):
            yield b"x" * 2**20

    async with client_of(app) as client:
        declared = await client.post(ZERO_SHOT, content=b"x" * (5 * 2**20))
        assert (declared.status_code, declared.json()["error_code"]) == (413, "REQUEST_TOO_LARGE")
        undeclared = await client.post(SPEECH, content=chunks())
        assert (undeclared.status_code, undeclared.json()["error"]["code"]) == (413, "request_too_large")
        recording = await client.post(
            ZERO_SHOT, data={"tts_text": "a"}, files={"prompt_wav": ("a.wav", b"x" * (2**20 + 1))}
        )
        assert recording.status_code == 413
    assert not engine.requests


async def test_large_bodies_within_the_limit_are_read(client, engine):
    data = bytes(range(256)) * 40_000
    await client.post(ZERO_SHOT, data={"tts_text": "a"}, files={"prompt_wav": ("a.wav", data)})
    assert engine.requests[0].voice.data == data


async def test_unknown_paths_and_methods(client):
    missing = await client.get("/nowhere")
    assert (missing.status_code, missing.json()["error_code"]) == (404, "NOT_FOUND")
    cloud = await client.get("/v1/nowhere")
    assert (cloud.status_code, cloud.json()["error"]["code"]) == (404, "not_found")
    wrong = await client.get(SPEECH)
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"
    assert wrong.headers["x-request-id"]


async def test_an_unforeseen_error_is_a_500_with_an_id_and_without_details(engine, settings):
    def explode(request):
        raise RuntimeError("secret")

    engine.submit = explode
    async with client_of(create_app(engine, settings)) as client:
        answer = await client.post(SPEECH, json={"input": "a"}, headers={"x-request-id": "id-1"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "id-1")
    assert answer.json()["error"]["code"] == "synthesis_failed"
    assert "secret" not in answer.text


async def test_cross_origin_is_off_unless_set(engine, settings, client):
    preflight = {
        "origin": "https://app.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,x-stainless-lang",
    }
    assert "access-control-allow-origin" not in (await client.options(SPEECH, headers=preflight)).headers
    app = create_app(engine, with_server(settings, cors_origins=("https://app.example",), api_key=("k",)))
    async with client_of(app) as open_client:
        answer = await open_client.options(SPEECH, headers=preflight)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "x-stainless-lang" in answer.headers["access-control-allow-headers"]
        refused = await open_client.post(SPEECH, json={}, headers={"origin": "https://app.example"})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://app.example"
        assert "x-request-id" in refused.headers["access-control-expose-headers"]


async def test_every_metric_moves_when_requests_pass(client, engine):
    await client.post(SPEECH, json={"input": "hello"})
    await client.post(SPEECH, json={})
    engine.overloaded = True
    await client.post(ZERO_SHOT, data={"tts_text": "hi"})
    answer = await client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    text = answer.text
    for name, value in {
        "lightllm_request_count_total": 3,
        "lightllm_request_success_total": 1,
        "lightllm_request_failure_total": 2,
        "tts_requests_aborted_total": 0,
        'tts_requests_rejected_total{reason="overloaded"}': 1,
        'tts_requests_rejected_total{reason="invalid"}': 1,
        "tts_requests_in_flight": 0,
        'lightllm_request_latency_seconds_count{route="/v1/audio/speech"}': 2,
        "first_token_latency_seconds_count": 1,
        'request_length_chars_sum{route="/v1/audio/speech"}': 5,
        "tts_audio_seconds_total": 1,
        "tts_rtf_count": 1,
        "tts_stream_underrun_seconds_count": 4,
        'tts_llm_tokens_total{kind="text"}': 5,
        'tts_llm_tokens_total{kind="speech"}': 25,
        'tts_http_responses_total{route="/v1/audio/speech",status="2xx"}': 1,
        'tts_http_responses_total{route="/v1/audio/speech",status="4xx"}': 1,
        'tts_http_responses_total{route="/inference_zero_shot",status="5xx"}': 1,
        "tts_engine_up": 1,
    }.items():
        assert sample(text, name) == pytest.approx(value), name


async def test_short_texts_are_counted_apart(client, engine):
    await client.post("/inference_short", json={"text": "hello"})
    await client.post("/inference_short", json={})
    text = (await client.get("/metrics")).text
    assert sample(text, "short_text_latency_seconds_count") == 1
    assert sample(text, "short_text_concurrent_requests") == 0


def test_requests_of_a_process_that_died_are_aborted(app):
    observer = app.state.server.observer
    for route in (ZERO_SHOT, "/inference_short", "/inference_short"):
        observer.began(route)
    observer.lost([ZERO_SHOT, "/inference_short"])
    text = observer.page().decode()
    assert sample(text, "tts_requests_in_flight") == sample(text, "short_text_concurrent_requests") == 1
    assert sample(text, "tts_requests_aborted_total") == 2


async def test_paths_made_up_by_callers_make_no_new_series(client):
    for index in range(20):
        await client.get(f"/made/up/{index}")
        await client.get(f"/v1/models/made-up-{index}")
    text = (await client.get("/metrics")).text
    assert "made/up" not in text
    assert "made-up" not in text
    assert sample(text, 'tts_http_responses_total{route="other",status="4xx"}') == 20
    assert sample(text, 'tts_http_responses_total{route="/v1/models/{model_id:path}",status="4xx"}') == 20


@pytest.mark.parametrize("log_text", [False, True])
async def test_each_request_leaves_one_line_without_its_text(engine, settings, caplog, log_text):
    async with client_of(create_app(engine, with_server(settings, log_text=log_text))) as client:
        with caplog.at_level(logging.INFO, "light_tts.requests"):
            await client.post(SPEECH, json={"input": "my words"}, headers={"x-request-id": "id-1", "x-session-id": "s"})
    [entry] = [entry.msg for entry in caplog.records if entry.name == "light_tts.requests"]
    assert entry["event"] == "request done"
    expected = {
        "id": "id-1",
        "x_session_id": "s",
        "route": SPEECH,
        "status": 200,
        "voice": "en_female",
        "text_chars": 8,
        "chunks": 5,
        "audio_s": 1.0,
        "tokens": 25,
        "finish": "stop",
    }
    assert entry.get("text") == ("my words" if log_text else None)
    assert {key: entry[key] for key in expected} == expected
    assert entry["first_chunk_ms"] <= entry["total_ms"]
    assert entry["rtf"] > 0


def test_the_door_loads_no_torch():
    import subprocess

    code = "import sys, light_tts.server.app, light_tts.server.api_server; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_schema_is_complete(app):
    paths = app.openapi()["paths"]
    assert {SPEECH, ZERO_SHOT, "/v1/audio/voices", "/v1/models", "/healthz", "/metrics"} <= set(paths)
    assert "requestBody" in paths[SPEECH]["post"]


def test_upload_limit_leaves_room_for_base64(settings):
    from light_tts.server.app import _max_body_bytes

    changed = replace(settings, frontend=FrontendSettings(max_upload_mb=3))
    assert _max_body_bytes(changed) > 3 * 2**20 * 4 / 3
