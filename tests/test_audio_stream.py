"""One request's audio on its way out, read from threads and from asyncio."""

import asyncio
import threading

import numpy as np
import pytest

from light_tts.audio_stream import AudioStream
from light_tts.errors import DeadlineExceeded, EngineFailure
from light_tts.types import SAMPLE_RATE_HZ, AudioChunk


def make_stream(timeout_s: float = 5.0, max_pending_chunks: int = 4) -> AudioStream:
    return AudioStream("r1", timeout_s=timeout_s, max_pending_chunks=max_pending_chunks)


def second() -> AudioChunk:
    return AudioChunk(np.zeros(SAMPLE_RATE_HZ, np.float32))


END = AudioChunk(np.zeros(0, np.float32), is_last=True)


def test_a_thread_reads_what_another_writes() -> None:
    stream = make_stream()

    def write() -> None:
        for _ in range(3):
            stream.put(second())
        stream.put(END)

    threading.Thread(target=write).start()
    assert [chunk.samples.size for chunk in stream] == [SAMPLE_RATE_HZ] * 3 + [0]
    assert stream.stats.chunks == 3
    assert stream.stats.audio_s == 3.0
    assert stream.stats.first_chunk_ms is not None
    assert stream.stats.rtf is not None


async def test_a_coroutine_reads_what_a_thread_writes() -> None:
    stream = make_stream()

    def write() -> None:
        for _ in range(50):
            stream.put(second())
        stream.put(END)

    threading.Thread(target=write).start()
    assert len([chunk async for chunk in stream]) == 51


def test_an_error_is_raised_where_the_audio_is_read() -> None:
    stream = make_stream()
    stream.put(second())
    stream.fail(EngineFailure("broken"))
    received = []
    with pytest.raises(EngineFailure, match="broken"):
        for chunk in stream:
            received.append(chunk)
    assert len(received) == 1
    assert stream.stats.finish == "error"


def test_nothing_is_written_after_the_end() -> None:
    stream = make_stream()
    stream.put(END)
    stream.put(second())
    stream.fail(EngineFailure("late"))
    assert [chunk.is_last for chunk in stream] == [True]


def test_leaving_the_block_cancels_the_work_once() -> None:
    stream = make_stream()
    cancelled = []
    stream.on_cancel = lambda: cancelled.append(1)
    with stream:
        stream.put(second())
    stream.cancel()
    assert cancelled == [1]
    assert stream.stats.finish == "abort"


def test_leaving_the_block_after_the_end_cancels_nothing() -> None:
    stream = make_stream()
    cancelled = []
    stream.on_cancel = lambda: cancelled.append(1)
    with stream:
        stream.put(END)
        list(stream)
    assert cancelled == []


def test_a_request_over_its_time_is_cancelled_with_a_clear_error() -> None:
    stream = make_stream(timeout_s=0.02)
    cancelled = []
    stream.on_cancel = lambda: cancelled.append(1)
    with pytest.raises(DeadlineExceeded, match=r"0\.02 s"):
        list(stream)
    assert cancelled == [1]


async def test_the_time_limit_holds_in_asyncio_too() -> None:
    stream = make_stream(timeout_s=0.02)
    with pytest.raises(DeadlineExceeded):
        async for _ in stream:
            pass


def test_a_slow_reader_is_noticed_and_its_reading_reported() -> None:
    stream = make_stream(max_pending_chunks=2)
    reads = []
    stream.on_read = lambda: reads.append(1)
    stream.put(second())
    assert stream.has_room
    stream.put(second())
    assert not stream.has_room
    next(iter(stream))
    assert stream.has_room
    assert reads == [1]


async def test_a_reader_cancelled_while_waiting_leaves_the_stream_usable() -> None:
    stream = make_stream()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            async for _ in stream:
                pass
    stream.put(END)
    assert [chunk.is_last async for chunk in stream] == [True]
