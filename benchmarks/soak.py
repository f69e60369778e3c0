"""Ten thousand mixed requests through one engine: what is left behind, and whether memory stays flat.

    python benchmarks/soak.py --requests 10000 -o benchmarks/results/soak.json

Finished, cancelled at random points, failing; streamed, buffered, with text piece by piece; by 16 clients at once,
with very short texts and few flow steps. After every block of requests all clients pause and the engine is looked at:
memory, file descriptors, threads, KV pages, bytes of the flow, runs. Exit status 1 when something is left or memory
grows.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from light_tts.assets import builtin_model_dir  # noqa: E402
from light_tts.audio_stream import AudioStream  # noqa: E402
from light_tts.bench.machine import describe_machine  # noqa: E402
from light_tts.engine import TTSEngine  # noqa: E402
from light_tts.errors import LightTTSError  # noqa: E402
from light_tts.settings import Settings  # noqa: E402
from light_tts.types import ReferenceAudio, SynthesisRequest  # noqa: E402

TEXTS = ("Hi.", "好。", "Yes.", "No.", "是。", "对。", "Go.", "OK.", "Hi. Go.", "好。对。")
FAULTS: tuple[dict[str, Any], ...] = (
    {"text": "..."},
    {"text": "Hi.", "voice": "nobody"},
    {"text": "Hi.", "speed": 99.0},
    {"text": "Hi.", "voice": ReferenceAudio(b"RIFF\x00\x00\x00\x00WAVE", "words")},
    {"text": "Hi.", "model": "nothing"},
)
SETTLE_S = 30.0
MAX_GROWTH_MB_PER_1000 = 1.0  # allocated, over the second half: below it, memory is called flat


@dataclass
class Soak:
    """What all clients share."""

    engine: TTSEngine
    recording: bytes
    outcomes: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def block(self, numbers: range, clients: int) -> None:
        """Serve these requests with so many clients, and wait for the last one."""
        queue = iter(numbers)

        def client() -> None:
            while True:
                with self.lock:
                    number = next(queue, None)
                if number is None:
                    return
                outcome = self._one(random.Random(number), number)
                with self.lock:
                    self.outcomes[outcome] += 1

        threads = [threading.Thread(target=client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _one(self, chance: random.Random, number: int) -> str:
        draw = chance.random()
        try:
            if draw < 0.10:
                return self._hear(chance, self.engine.submit(SynthesisRequest(**chance.choice(FAULTS))))
            common = {"seed": number, "flow_steps": chance.choice((1, 2))}
            if draw < 0.25:
                return self._by_pieces(chance, common)
            voice: Any = chance.choice((None, None, "en_male", "zh_female"))
            if draw < 0.27:
                voice = ReferenceAudio(self.recording, "Thank you for calling, your request has been received.")
            common |= {"stream": chance.random() < 0.7, "speed": chance.choice((1.0, 1.0, 1.5))}
            return self._hear(chance, self.engine.submit(SynthesisRequest(chance.choice(TEXTS), voice=voice, **common)))
        except LightTTSError as error:
            return f"failed: {error.code}"

    def _by_pieces(self, chance: random.Random, common: dict[str, Any]) -> str:
        stream = self.engine.open_text_stream(SynthesisRequest("", voice="zh_female", **common))
        for _ in range(chance.randint(1, 2)):
            stream.feed(chance.choice(("你好", "再见。", "好的")))
            if chance.random() < 0.3:
                stream.flush()
        if chance.random() < 0.8:
            stream.finish_text()
        else:  # the text never ends: only cancelling frees it
            threading.Timer(chance.random() * 0.2, stream.cancel).start()
        return self._hear(chance, stream)

    def _hear(self, chance: random.Random, stream: AudioStream) -> str:
        way = chance.random()
        if way < 0.3:  # gone before anything was heard, from another thread
            threading.Timer(chance.random() ** 2 * 0.5, stream.cancel).start()
        with stream:
            for chunk in stream:
                if 0.3 <= way < 0.4 and chunk.samples.size:
                    break  # gone after the first chunk
        return {"stop": "finished", "length": "finished"}.get(stream.stats.finish, "cancelled")


def look(engine: TTSEngine) -> dict[str, float]:
    """Everything that could leak, after all has been given back or patience has ended."""
    deadline_s = time.monotonic() + SETTLE_S
    while any((held := _held(engine)).values()) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    gc.collect()
    return {
        "rss_mb": round(_status_kb("VmRSS") / 1024, 1),
        "allocated_mb": round(_allocated_bytes() / 2**20, 1),
        "peak_mb": round(_status_kb("VmHWM") / 1024, 1),
        "open_files": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "objects": len(gc.get_objects()),
        "prompt_cache_mb": round(engine._decoder.flow.prompts.used_bytes / 2**20, 1),
        **held,
    }


def _held(engine: TTSEngine) -> dict[str, int]:
    stats = [llm.stats() for llm in engine._llms.values()]
    return {
        "requests": engine.health()["running"],
        "acoustic_runs": engine._decoder.num_runs,
        "flow_stream_bytes": engine._decoder.flow.stream_budget.used_bytes,
        "prompts_in_use": sum(entry.users for entry in engine._decoder.flow.prompts._entries.values()),
        "llm_runs": sum(s.running + s.waiting + s.parked for s in stats),
        "kv_pages": sum(s.kv_blocks_used for s in stats),
    }


def _status_kb(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise KeyError(name)


class _Heap(ctypes.Structure):
    """mallinfo2 of glibc."""

    _fields_ = [
        (name, ctypes.c_size_t) for name in ("arena", "o", "s", "hblks", "hblkhd", "u", "f", "used", "free", "k")
    ]


def _allocated_bytes() -> int:
    """Bytes that the program holds, without what the allocator keeps for later (which RSS counts too)."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Heap
    heap = mallinfo()
    return int(heap.used + heap.hblkhd)


def judge(records: list[dict[str, float]], block: int) -> dict[str, Any]:
    """Whether anything was left, and the growth of memory over the second half (least squares)."""
    held = ("requests", "acoustic_runs", "flow_stream_bytes", "prompts_in_use", "llm_runs", "kv_pages")
    left = sorted({name for record in records for name in held if record[name]})
    half = records[len(records) // 2 :]
    growth = {
        name: round(_slope([r[name] for r in half]) * 1000 / block, 3) for name in ("rss_mb", "allocated_mb", "objects")
    }
    steady = all(len({r[name] for r in half}) == 1 for name in ("open_files", "threads"))
    is_flat = not left and steady and growth["allocated_mb"] <= MAX_GROWTH_MB_PER_1000
    return {
        "left_behind": left,
        "growth_per_1000_requests": growth,
        "files_and_threads_steady": steady,
        "flat": is_flat,
    }


def _slope(values: list[float]) -> float:
    middle, mean = (len(values) - 1) / 2, sum(values) / len(values)
    spread = sum((k - middle) ** 2 for k in range(len(values)))
    return sum((k - middle) * (v - mean) for k, v in enumerate(values)) / spread if spread else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--block", type=int, default=500, help="requests between two looks")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("-o", "--output")
    arguments = parser.parse_args()
    recording = (Path(builtin_model_dir()) / "prompts" / "en_male.wav").read_bytes()
    start_s = time.monotonic()
    records = []
    with TTSEngine.load(Settings()) as engine:
        engine.warm_up()
        soak = Soak(engine, recording)
        for first in range(0, arguments.requests, arguments.block):
            soak.block(range(first, min(first + arguments.block, arguments.requests)), arguments.clients)
            record = {"requests_done": sum(soak.outcomes.values()), "elapsed_s": round(time.monotonic() - start_s, 1)}
            records.append(record | look(engine))
            print(json.dumps(records[-1]), flush=True)
    report = {
        "command": " ".join(sys.argv),
        "machine": describe_machine(),
        "wall_s": round(time.monotonic() - start_s, 1),
        "outcomes": dict(soak.outcomes),
        "verdict": judge(records, arguments.block),
        "records": records,
    }
    print(json.dumps({key: report[key] for key in ("wall_s", "outcomes", "verdict")}))
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(0 if report["verdict"]["flat"] else 1)


if __name__ == "__main__":
    main()
