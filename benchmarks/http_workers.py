"""What HTTP processes take off the engine's process, with an engine that answers at once: no model, only the way to it.

    python benchmarks/http_workers.py -o benchmarks/results/http-workers.json

For one process, and for the engine's process with 1, 2 and 4 front ends, at 1, 16, 64 and 256 requests at a time:

short    texts with a number in them, one second of audio each, answered whole
stream   the same texts, ten chunks of half a second each, as fast as the reader takes them

Per request: CPU milliseconds of the engine's process and of the front ends; requests per second; and how late a thread
of the engine's process wakes that sleeps 1 ms, which is what the threads of the models would feel. Then CPU
microseconds of one streamed chunk by format. The load generator runs on the same machine: where cores are few, compare
CPU times and their ratios, not requests per second.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from light_tts.audio_stream import AudioStream  # noqa: E402
from light_tts.bench.machine import describe_machine  # noqa: E402
from light_tts.types import SAMPLE_RATE_HZ, AudioChunk, FinishReason, RequestStats, SynthesisRequest  # noqa: E402

TEXTS = ("Your order 12345 arrives at 10:30.", "您的订单12345将在15分钟内送达。")
FRONT_ENDS = (0, 1, 2, 4)  # 0: HTTP in the engine's process
CONCURRENCY = (1, 16, 64, 256)
STREAM_CHUNKS = 10
CHUNK_S = 0.5


class InstantEngine:
    """A SpeechEngine whose audio is there at once. It prepares texts that nobody else did, as the real one does."""

    model_name, model_names, is_ready = "instant", ["default"], True

    def __init__(self, settings: Any) -> None:
        from light_tts.assets import builtin_model_dir
        from light_tts.frontend.text import TextFrontend
        from light_tts.models.model_dir import ModelDirectory
        from tests.server.fake_engine import FakeVoices, voice

        self.voices = FakeVoices(voice("en_female"))
        self._text = TextFrontend.from_model_directory(ModelDirectory.open(builtin_model_dir()), settings.frontend)
        self._pool = ThreadPoolExecutor(settings.frontend.threads)
        noise = np.random.default_rng(0).standard_normal(round(CHUNK_S * SAMPLE_RATE_HZ))
        self._samples = np.clip(0.1 * noise, -1.0, 1.0).astype(np.float32)
        self._late_ms: list[float] = []
        threading.Thread(target=self._probe, daemon=True).start()

    def submit(self, request: SynthesisRequest) -> AudioStream:
        stream = AudioStream(request.request_id, timeout_s=60.0, max_pending_chunks=64)
        self._pool.submit(self._speak, stream, request)
        return stream

    def _speak(self, stream: AudioStream, request: SynthesisRequest) -> None:
        if request.prepared_text is None:
            self._text.prepare(request)
        for _ in range(STREAM_CHUNKS if request.stream else 2):
            stream.put(AudioChunk(self._samples))
        stream.end(FinishReason.STOP)

    def _probe(self) -> None:
        while True:
            began_s = time.monotonic()
            time.sleep(0.001)
            self._late_ms.append((time.monotonic() - began_s) * 1000.0 - 1.0)

    def health(self) -> dict[str, Any]:
        late_ms, self._late_ms = sorted(self._late_ms) or [0.0], []
        late = {"p50": statistics.median(late_ms), "p99": late_ms[int(0.99 * len(late_ms))]}
        return {"ready": True, "error": None, "running": 0, "queued": 0, "model": "", "device": "", "dtypes": {}} | {
            "late_ms": late
        }

    def gpu_memory(self) -> None:
        return None

    def warm_up(self) -> None:
        pass

    preload_phrases = close = warm_up


# the processes


def settings_for(port: int, num_front_ends: int) -> Any:
    from light_tts.settings import EngineSettings, ServerSettings, Settings

    server = ServerSettings(port=port, http_workers=num_front_ends or 1, log_level="warning", disable_log_stats=True)
    return Settings(engine=EngineSettings(max_concurrent_requests=0), server=server)


def serve(port: int, num_front_ends: int) -> int:
    """The server, in this process and those it starts."""
    settings = settings_for(port, num_front_ends)
    if num_front_ends:
        from light_tts.frontdoor.server_processes import run_processes

        return run_processes(settings, engine_command=(sys.executable, __file__, "--engine"))
    from light_tts.logs import configure_logging
    from light_tts.server.app import create_app
    from light_tts.server.listening import listen, server_of

    configure_logging("warning")
    engine: Any = InstantEngine(settings)
    server_of(create_app(engine, settings), settings).run(sockets=[listen("127.0.0.1", port)])
    return 0


class Server:
    """A server on a free port for as long as the block lasts."""

    def __init__(self, num_front_ends: int) -> None:
        self._num_front_ends = num_front_ends

    def __enter__(self) -> Server:
        import socket

        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        command = [sys.executable, __file__, "--serve", str(self.port), "--front-ends", str(self._num_front_ends)]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while True:
            try:
                self.health()
                break
            except OSError:
                time.sleep(0.1)
        family = [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children()]
        engines = [each for each in family if "--engine" in each.cmdline()]
        self.engine = engines[0] if engines else family[0]
        self.fronts = [each for each in family[1:] if each != self.engine]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def health(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=10) as answer:
            return json.loads(answer.read())

    def cpu_s(self) -> tuple[float, float]:
        """Of the engine's process, and of all front ends."""
        return cpu_s_of(self.engine), sum(map(cpu_s_of, self.fronts))


def cpu_s_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


# the load


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> None:
    """One request on a connection that stays open; reads the answer to its end."""
    head = "POST /inference_zero_shot HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    headers = (await reader.readuntil(b"\r\n\r\n")).lower()
    assert headers.startswith(b"http/1.1 200"), headers
    if b"content-length" in headers:
        await reader.readexactly(int(headers.partition(b"content-length:")[2].split(b"\r\n")[0]))
        return
    while size := int(await reader.readline(), 16):
        await reader.readexactly(size + 2)
    await reader.readline()


async def load(port: int, concurrency: int, seconds: float, **fields: object) -> list[float]:
    """Milliseconds of every request that ended, asked by so many readers one after the other."""
    numbers = itertools.count()
    ends_s = time.monotonic() + seconds
    took_ms: list[float] = []

    async def read() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
        while time.monotonic() < ends_s:
            text = TEXTS[next(numbers) % len(TEXTS)]
            began_s = time.monotonic()
            await ask(reader, writer, json.dumps({"tts_text": text, "spk_id": "en_female", **fields}).encode())
            took_ms.append((time.monotonic() - began_s) * 1000.0)
        writer.close()

    await asyncio.gather(*[read() for _ in range(concurrency)])
    return took_ms


def measure(server: Server, concurrency: int, seconds: float, **fields: object) -> dict[str, Any]:
    """One run, after a short one to warm up."""
    asyncio.run(load(server.port, min(concurrency, 8), 0.5, **fields))
    server.health()
    before, own, began_s = server.cpu_s(), time.process_time(), time.monotonic()
    took_ms = sorted(asyncio.run(load(server.port, concurrency, seconds, **fields)))
    wall_s, after = time.monotonic() - began_s, server.cpu_s()
    count = len(took_ms)
    return {
        "requests": count,
        "requests_per_s": count / wall_s,
        "engine_cpu_ms_per_request": 1000.0 * (after[0] - before[0]) / count,
        "front_ends_cpu_ms_per_request": 1000.0 * (after[1] - before[1]) / count,
        "generator_cpu_ms_per_request": 1000.0 * (time.process_time() - own) / count,
        "engine_cpu_share_of_a_core": (after[0] - before[0]) / wall_s,
        "p50_ms": statistics.median(took_ms),
        "p99_ms": took_ms[int(0.99 * count)],
        "engine_thread_late_ms": server.health()["late_ms"],
    }


def chunk_cost(server: Server, seconds: float) -> dict[str, float]:
    """CPU microseconds of the serving process for one chunk more of a stream: ten chunks against two, by format."""
    costs = {}
    for name in ("pcm", "mp3"):
        whole = measure(server, 16, seconds, stream=True, response_format=name)
        two = measure(server, 16, seconds, stream=False, response_format=name)
        spent = [run["engine_cpu_ms_per_request"] + run["front_ends_cpu_ms_per_request"] for run in (whole, two)]
        costs[name] = 1000.0 * (spent[0] - spent[1]) / (STREAM_CHUNKS - 2)
    return costs


def record_size() -> dict[str, float]:
    """Microseconds of encoding and decoding one Audio record with half a second in it, on one core."""
    import msgspec

    from light_tts.frontdoor.messages import Audio, ToFrontEnd

    samples = np.zeros(round(CHUNK_S * SAMPLE_RATE_HZ), np.float32).data.cast("B")
    decoder, stats = msgspec.msgpack.Decoder(ToFrontEnd), RequestStats()
    began_s = time.perf_counter()
    for number in range(2000):
        encoded = msgspec.msgpack.encode(Audio(number, 0, stats, samples))  # type: ignore[arg-type]
    encoded_s = time.perf_counter()
    for _ in range(2000):
        decoder.decode(encoded)
    return {
        "bytes": len(encoded),
        "encode_us": (encoded_s - began_s) / 2000 * 1e6,
        "decode_us": (time.perf_counter() - encoded_s) / 2000 * 1e6,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one run")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--front-ends", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--engine", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.engine:
        from light_tts.frontdoor.engine_process import main as engine_main

        return engine_main(lambda settings, _: InstantEngine(settings))  # type: ignore[arg-type,return-value]
    if arguments.serve:
        return serve(arguments.serve, arguments.front_ends)
    result: dict[str, Any] = {"machine": describe_machine(), "command": " ".join(sys.argv), "runs": []}
    for num_front_ends in FRONT_ENDS:
        with Server(num_front_ends) as server:
            for (name, stream), concurrency in itertools.product((("short", False), ("stream", True)), CONCURRENCY):
                run = measure(server, concurrency, arguments.seconds, stream=stream)
                result["runs"].append({"front_ends": num_front_ends, "load": name, "at_once": concurrency, **run})
                print({key: value for key, value in result["runs"][-1].items() if key != "engine_thread_late_ms"})
            if num_front_ends == 0:
                result["chunk_cpu_us"] = chunk_cost(server, arguments.seconds)
            result.setdefault("front_end_memory_mb", {})[num_front_ends] = [
                {"rss": front.memory_info().rss >> 20, "pss": front.memory_full_info().pss >> 20}
                for front in server.fronts
            ]
    result["audio_record"] = record_size()
    text = json.dumps(result, indent=2)
    print(text) if arguments.output is None else arguments.output.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
