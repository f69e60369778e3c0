"""A server of several processes from outside: one engine, no orphans, nothing left behind."""

import os
import signal
import threading

import httpx2
import psutil
import pytest

from tests.frontdoor.processes import ENGINE_COMMAND, family_of, is_ready, server, speak, wait_for
from tests.server.test_api_server import free_port


def roles(process):
    """(engine's process, front ends' processes)."""
    family = family_of(process.pid)
    engines = [each for each in family if ENGINE_COMMAND[-1] in each.cmdline()]
    return engines, [each for each in family if each not in engines]


GRPC_PORT = free_port()


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("sockets")
    with server(free_port(), tmp=tmp, grpc_port=GRPC_PORT) as (process, url):
        wait_for(lambda: is_ready(url))
        yield process, url, tmp


def test_all_front_ends_serve_with_one_engine(running):
    process, url, _ = running
    engines, fronts = roles(process)
    assert (len(engines), len(fronts)) == (1, 2)
    assert len(speak(url).content) == 2 * 48_000
    healths = [httpx2.get(url + "/health").json() for _ in range(16)]
    assert {health["pid"] for health in healths} == {engines[0].pid}
    assert {health["http_workers"] for health in healths} == {2}


def test_each_front_end_answers_some(running):
    process, url, _ = running
    _, fronts = roles(process)
    before = {front.pid: sum(front.cpu_times()[:2]) for front in fronts}
    wait_for(lambda: [httpx2.get(url + "/health") for _ in range(50)] and all(
        sum(front.cpu_times()[:2]) > before[front.pid] + 0.02 for front in fronts
    ))  # fmt: skip


async def test_each_front_end_takes_grpc_calls_too(running):
    grpc = pytest.importorskip("grpc")
    from light_tts.server.grpc_messages import message_classes

    messages = message_classes()
    request = messages["Request"]()
    request.sft_request.spk_id, request.sft_request.tts_text = "en_male", "hello"
    for _ in range(4):
        # A connection of its own each time, so that several front ends get one.
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{GRPC_PORT}", options=options) as channel:
            method = channel.unary_stream(
                "/cosyvoice.CosyVoice/Inference",
                request_serializer=messages["Request"].SerializeToString,
                response_deserializer=messages["Response"].FromString,
            )
            assert sum([len(answer.tts_audio) async for answer in method(request)]) == 2 * 48_000


def test_counts_are_the_same_at_every_front_end(running):
    _, url, _ = running
    before = value(url, "lightllm_request_success_total")
    for _ in range(6):
        assert speak(url).status_code == 200
    wait_for(lambda: value(url, "lightllm_request_success_total") == before + 6)
    assert {value(url, "lightllm_request_success_total") for _ in range(12)} == {before + 6}
    assert value(url, "tts_requests_in_flight") == 0


def value(url, name):
    [line] = [line for line in httpx2.get(url + "/metrics").text.splitlines() if line.startswith(name + " ")]
    return float(line.split()[1])


def test_a_voice_added_at_one_is_known_at_all(running):
    _, url, _ = running
    files = {"prompt_wav": ("a.wav", b"RIFFsomething")}
    assert httpx2.post(url + "/voices", data={"name": "mine"}, files=files).status_code == 201
    for _ in range(12):
        assert "mine" in [voice["name"] for voice in httpx2.get(url + "/voices").json()["voices"]]


def test_the_socket_is_private(running):
    _, _, tmp = running
    [directory] = tmp.iterdir()
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_front_end_that_dies_is_replaced_and_the_engine_stays(running):
    process, url, _ = running
    [engine], [victim, _] = roles(process)
    victim.kill()
    wait_for(lambda: len(roles(process)[1]) == 2 and victim not in roles(process)[1])
    assert roles(process)[0] == [engine]
    wait_for(lambda: httpx2.get(url + "/health").json().get("http_workers") == 2)
    for _ in range(8):
        assert speak(url).status_code == 200


def test_an_engine_that_dies_is_replaced_and_meanwhile_the_answer_is_503(running):
    process, url, _ = running
    [engine], _ = roles(process)
    assert speak(url, "crash").status_code == 503
    seen = set()
    wait_for(lambda: seen.add(speak(url).status_code) or (200 in seen and is_ready(url)))
    assert seen == {200, 503}
    assert roles(process)[0] != [engine]


def test_a_running_request_is_finished_before_the_exit_and_nothing_is_left(tmp_path):
    with server(free_port(), tmp=tmp_path) as (process, url):
        wait_for(lambda: is_ready(url))
        threading.Timer(0.2, process.send_signal, [signal.SIGTERM]).start()
        family = family_of(process.pid)
        assert len(speak(url).content) == 2 * 48_000
        _, log = process.communicate(timeout=30)
    assert process.returncode == 0, log
    assert log.count("request done") == 1
    assert "finish=stop" in log
    assert list(tmp_path.iterdir()) == []
    assert not any(each.is_running() for each in family)


def test_all_run_where_they_are_told_to_and_without_their_parent_none_stays(tmp_path):
    [cpu, *_] = os.sched_getaffinity(0)
    with server(free_port(), tmp=tmp_path, cpus=frozenset({cpu})) as (process, url):
        wait_for(lambda: is_ready(url))
        family = family_of(process.pid)
        assert [each.cpu_affinity() for each in family] == [[cpu]] * 3
        process.kill()
        _, alive = psutil.wait_procs(family, timeout=20)
        assert alive == []


def speak_until_cut(url):
    with pytest.raises(httpx2.TransportError):
        speak(url)


def test_a_second_signal_ends_everything_at_once():
    with server(free_port(), drain_timeout_s=60.0) as (process, url):
        wait_for(lambda: is_ready(url))
        speaking = threading.Thread(target=speak_until_cut, args=(url,))
        speaking.start()
        wait_for(lambda: value(url, "tts_requests_in_flight") == 1)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)  # another number: two of one that come together count as one
        process.communicate(timeout=10)
        speaking.join()
    assert process.returncode == 0


def test_a_model_that_cannot_be_loaded_ends_the_server_with_its_sentence():
    with server(free_port(), variables={"FAKE_BROKEN": "1"}) as (process, _):
        _, log = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "light-tts: llm.pt is missing." in log
    assert "Traceback" not in log


def test_an_engine_that_dies_again_and_again_ends_the_server():
    with server(free_port(), engine={"max_restarts": 1}) as (process, url):
        wait_for(lambda: is_ready(url))
        speak(url, "crash")
        wait_for(lambda: is_ready(url))
        speak(url, "crash")
        _, log = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "the engine has ended (signal SIGKILL); it is not started again" in log


def test_a_taken_port_is_one_sentence():
    port = free_port()
    with server(port) as (_, url):
        wait_for(lambda: httpx2.get(url + "/liveness").status_code == 200)
        with server(port) as (other, _):
            _, log = other.communicate(timeout=30)
    assert other.returncode == 2
    assert f"Cannot listen on 127.0.0.1:{port}: Address already in use" in log


def test_a_wish_for_a_profile_ends_no_process(running):
    process, url, _ = running
    before = family_of(process.pid)
    process.send_signal(signal.SIGUSR1)
    assert speak(url).status_code == 200
    assert family_of(process.pid) == before


def test_a_wish_for_a_profile_reaches_the_engines_process(tmp_path):
    profiles = tmp_path / "profiles"
    with server(free_port(), tmp=tmp_path, profile_dir=str(profiles)) as (process, url):
        wait_for(lambda: is_ready(url))
        process.send_signal(signal.SIGUSR1)
        wait_for(lambda: speak(url).status_code == 200 and list(profiles.glob("*.pt.trace.json.gz")))
