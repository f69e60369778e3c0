"""SpeechClient: the same without asyncio, from any thread."""

import threading

import pytest

from light_tts.audio_output import to_int16
from light_tts.client import BadRequest, SpeechClient
from tests.server.conftest import wait_for
from tests.server.fake_engine import recording, sine

WHOLE = to_int16(sine(1.0)).tobytes()


@pytest.fixture
def client(base_url):
    with SpeechClient(base_url) as client:
        yield client


def test_speak_and_stream(client, engine):
    assert client.speak("Hello.", response_format="pcm") == WHOLE
    with client.stream("Hello.", "en_male", response_format="pcm") as speech:
        pieces = list(speech)
        assert speech.details.first_audio_s == pieces[0].arrived_s
    assert b"".join(piece.data for piece in pieces) == WHOLE
    with client.inference("sft", {"tts_text": "Hi.", "spk_id": "en_male"}) as speech:
        assert speech.read() == WHOLE
    assert client.num_connections_opened == 1


def test_leaving_a_stream_stops_the_work(client, engine):
    engine.stall_after = 1
    with client.stream("Hello.", response_format="pcm") as speech:
        for piece in speech:
            assert piece.data
            break
    wait_for(engine.cancelled.is_set)


def test_the_callers_own_errors_pass_through_and_leave_the_stream(client, engine):
    engine.stall_after = 1
    with pytest.raises(ZeroDivisionError), client.stream("Hello."):
        raise ZeroDivisionError
    wait_for(engine.cancelled.is_set)


def test_voices_health_and_errors(client):
    client.add_voice("mine", recording(), "words")
    assert "mine" in [voice.name for voice in client.voices()]
    client.remove_voice("mine")
    assert client.health()["status"] == "healthy"
    with pytest.raises(BadRequest):
        client.speak("Hello.", "mine")


def test_many_threads_may_share_one(client):
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(client.speak("Hello.", response_format="pcm"))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [WHOLE] * 6


def test_closing_ends_its_thread(base_url):
    def num_threads():
        return sum(thread.name == "light-tts-client" for thread in threading.enumerate())

    with SpeechClient(base_url) as client:
        client.speak("Hello.")
        assert num_threads() == 1
    assert num_threads() == 0
