"""The trace of a request: the file's format, and what a real request puts into it."""

import json
import time

import numpy as np
import pytest

from light_tts.engine import TTSEngine
from light_tts.errors import ConfigError
from light_tts.settings import EngineSettings, FrontendSettings, ModelSettings, Settings
from light_tts.trace import TRACKS, RequestTrace
from light_tts.types import SynthesisRequest


def spans(document):
    """(track, name, start, end) of all spans, in microseconds."""
    names = {e["tid"]: e["args"]["name"] for e in document["traceEvents"] if e["name"] == "thread_name"}
    return [
        (names[e["tid"]], e["name"], e["ts"], e["ts"] + e["dur"]) for e in document["traceEvents"] if e["ph"] == "X"
    ]


def test_spans_and_moments_keep_their_times_and_details(tmp_path):
    trace = RequestTrace("r1")
    now_s = time.monotonic()
    trace.instant("audio", "sent", now_s + 0.5, audio_s=0.2)
    trace.span("llm", "decode", now_s + 0.1, now_s + 0.3, tokens=5)
    trace.write(tmp_path / "t.json")
    document = json.loads((tmp_path / "t.json").read_text())
    events = [event for event in document["traceEvents"] if event["ph"] != "M"]
    assert [event["name"] for event in events] == ["decode", "sent"]
    assert events[0]["dur"] == pytest.approx(200_000, abs=2)
    assert events[1]["ts"] - events[0]["ts"] == pytest.approx(400_000, abs=2)
    assert events[0]["args"] == {"tokens": 5}
    tracks = [event["args"]["name"] for event in document["traceEvents"] if event["name"] == "thread_name"]
    assert tuple(tracks) == TRACKS
    assert list(tmp_path.iterdir()) == [tmp_path / "t.json"]


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b c", "..", "x" * 300, ""])
def test_a_request_id_from_outside_stays_inside_the_directory(tmp_path, name):
    path = RequestTrace(name).write_into(tmp_path / "traces")
    assert path.parent == tmp_path / "traces"
    assert path.is_file()


def test_a_directory_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="trace_dir"):
        RequestTrace("r").write_into(tmp_path / "file")
    with pytest.raises(ConfigError, match="cannot be written"):
        RequestTrace("r").write(tmp_path / "missing" / "t.json")


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """The engine's stream of a finished request, and its trace read from the file."""
    directory = tmp_path_factory.mktemp("traces")
    settings = Settings(
        model=ModelSettings(cpu_threads=1),
        frontend=FrontendSettings(voices_dir=directory / "voices"),
        engine=EngineSettings(trace_dir=directory / "traces"),
    )
    with TTSEngine.load(settings) as engine:
        with engine.submit(SynthesisRequest("您好，欢迎使用。今天天气真不错。", seed=1, request_id="mine")) as stream:
            audio = np.concatenate([chunk.samples for chunk in stream])
        cancelled = engine.submit(SynthesisRequest("您好。", seed=1, request_id="left"))
        cancelled.cancel()
    (mine,) = (directory / "traces").glob("*-mine.json")
    (left,) = (directory / "traces").glob("*-left.json")
    assert audio.size
    return stream, json.loads(mine.read_text()), json.loads(left.read_text())


def test_a_request_passes_through_all_stages_in_order(traced):
    stream, document, _ = traced
    assert document["otherData"]["request_id"] == "mine"
    found = spans(document)
    assert {track for track, *_ in found} == {"request", "llm", "flow", "vocoder"}
    begins = {track: min(start for t, _, start, _ in found if t == track) for track in ("llm", "flow", "vocoder")}
    prepared = next(start for _, name, start, _ in found if name == "prepare")
    assert prepared <= begins["llm"] < begins["flow"] < begins["vocoder"]
    assert all(0 <= start <= end for *_, start, end in found)
    assert max(end for *_, end in found) / 1000 <= stream.stats.total_ms + 50


def test_every_chunk_is_in_the_trace_when_it_was_ready_and_when_it_was_sent(traced):
    stream, document, _ = traced
    for what in ("ready", "sent"):
        moments = [e for e in document["traceEvents"] if e["name"] == what]
        assert len(moments) == stream.stats.chunks
        assert sum(e["args"]["audio_s"] for e in moments) == pytest.approx(stream.stats.audio_s)


def test_a_cancelled_request_has_a_trace_too(traced):
    _, _, document = traced
    assert document["otherData"]["request_id"] == "left"
    assert not [e for e in document["traceEvents"] if e["name"] == "sent"]


def test_the_trace_shows_when_a_hop_had_its_tokens(traced):
    _, document, _ = traced
    ready = [e["ts"] for e in document["traceEvents"] if e["name"] == "hop can run"]
    flow = sorted(start for track, _, start, _ in spans(document) if track == "flow")
    token = next(end for _, name, _, end in spans(document) if name == "first token")
    assert token < ready[0] <= flow[0]
