"""Text in pieces while audio comes out, once or for a long time.

    python test/test_bistream.py --port 8080                       one session; writes bistream.wav
    python test/test_bistream.py --port 8080 --duration 1440       sessions for 24 hours; reports

--duration is in minutes. The report: sessions and errors by kind; the growth of the server's memory (its process and,
on a GPU, the device) by least squares over the second half, from /health; and how the time to the first audio drifted
from the first tenth of the sessions to the last. Exit status 1 for errors, for more than --max_growth_mb per 1,000
sessions, and for a drift over --max_drift.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import wave
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common

from light_tts.client import ClientError, SpeechClient

RATE_HZ = 24_000
PIECE_CHARS = 6
HEALTH_EVERY_S = 5.0
PAUSE_AFTER_FAILURE_S = 0.5  # a server that refuses at once is not asked a thousand times a second
MIN_SESSIONS_FOR_A_TREND = 20
MIN_DRIFT_S = 0.05  # below it, drift is noise of the clock and the scheduler


@dataclass
class Record:
    """What has been seen so far. memory: (sessions done, bytes) by what was measured."""

    first_audio_s: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    audio_s: float = 0.0
    memory: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    @property
    def num_sessions(self) -> int:
        """Those that went well, and the others."""
        return len(self.first_audio_s) + self.errors.total()

    def look(self, health: dict[str, Any]) -> None:
        """Take the server's memory down."""
        sizes = {"process": health.get("resident_bytes"), "gpu": (health.get("gpu_memory") or {}).get("used_bytes")}
        for name, size in sizes.items():
            if size:  # a CPU server reports a device of 0 bytes
                self.memory.setdefault(name, []).append((self.num_sessions, float(size)))

    def growth_mb_per_1000(self) -> dict[str, float]:
        """Slope of each memory over the second half of the run, in MB per 1,000 sessions."""
        halves = {name: points[len(points) // 2 :] for name, points in self.memory.items()}
        return {name: round(slope(points) * 1000 / 2**20, 2) for name, points in halves.items()}

    def drift(self) -> float | None:
        """Median first audio of the last tenth over that of the first, minus 1; None when there are too few."""
        if len(self.first_audio_s) < MIN_SESSIONS_FOR_A_TREND:
            return None
        tenth = len(self.first_audio_s) // 10
        early, late = (statistics.median(part) for part in (self.first_audio_s[:tenth], self.first_audio_s[-tenth:]))
        return 0.0 if abs(late - early) < MIN_DRIFT_S else late / early - 1.0


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least squares; 0 when there is nothing to draw a line through."""
    if len({x for x, _ in points}) < 2:
        return 0.0
    return statistics.linear_regression([x for x, _ in points], [y for _, y in points]).slope


def main(words: Sequence[str] | None = None) -> int:
    """The exit status."""
    made = common.parser(__doc__)
    made.add_argument("--cosyvoice_version", choices=tuple(common.PROMPT_HEADS), default="2")
    made.add_argument("--duration", type=float, help="minutes; without it one session")
    made.add_argument("--output", type=Path, default=Path("bistream.wav"), help="of the first session (%(default)s)")
    made.add_argument("--report", type=Path, help="the report as JSON")
    made.add_argument("--max_growth_mb", type=float, default=10.0, help="per 1,000 sessions (%(default)s)")
    made.add_argument("--max_drift", type=float, default=0.2, help="0.2 allows 20 %% (%(default)s)")
    arguments = made.parse_args(words)
    record = Record()
    with SpeechClient(common.url_of(arguments), api_key=arguments.api_key) as client:
        _converse_until(client, arguments, record)
    report = describe(record, arguments)
    print(json.dumps(report, indent=1))
    if arguments.report is not None:
        arguments.report.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if report["passed"] else 1


def describe(record: Record, arguments: Any) -> dict[str, Any]:
    """The report, with its verdict."""
    growth, drift = record.growth_mb_per_1000(), record.drift()
    times = sorted(record.first_audio_s)
    is_steady = all(value <= arguments.max_growth_mb for value in growth.values())
    is_even = drift is None or drift <= arguments.max_drift
    return {
        "sessions": record.num_sessions,
        "errors": dict(record.errors),
        "audio_s": round(record.audio_s, 1),
        "first_audio_s": {
            name: round(times[int(share * (len(times) - 1))], 4)
            for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
            if times
        },
        "memory_growth_mb_per_1000_sessions": growth,
        "first_audio_drift": None if drift is None else round(drift, 3),
        "passed": not record.errors and bool(times) and is_steady and is_even,
    }


def _converse_until(client: SpeechClient, arguments: Any, record: Record) -> None:
    texts = common.all_texts()
    start_s = time.monotonic()
    looked_s = -HEALTH_EVERY_S
    while True:
        if time.monotonic() - start_s - looked_s >= HEALTH_EVERY_S:
            looked_s = time.monotonic() - start_s
            _look(client, record)
        pcm = _session(client, texts[record.num_sessions % len(texts)], arguments, record)
        if not pcm:
            time.sleep(PAUSE_AFTER_FAILURE_S)
        elif arguments.output is not None:
            _write(arguments.output, pcm)
            arguments.output = None
        if arguments.duration is None or time.monotonic() - start_s >= arguments.duration * 60:
            break
    _look(client, record)


def _look(client: SpeechClient, record: Record) -> None:
    try:
        record.look(client.health())
    except ClientError as error:
        record.errors[f"health: {type(error).__name__}"] += 1


def _session(client: SpeechClient, text: str, arguments: Any, record: Record) -> bytes:
    """One text in small pieces; its audio, b"" after an error."""
    pieces = [text[start : start + PIECE_CHARS] for start in range(0, len(text), PIECE_CHARS)]
    prompt = common.PROMPT_WAV.read_bytes()
    try:
        with client.converse(prompt_wav=prompt, prompt_text=common.prompt_text(arguments)) as talk:
            sent_s = time.monotonic()
            talk.say_all(pieces)
            audio = bytearray()
            first_s = None
            for piece in talk:
                first_s = first_s or time.monotonic() - sent_s
                audio += piece.data
    except ClientError as error:
        record.errors[f"{type(error).__name__} {error.code}".strip()] += 1
        return b""
    if first_s is None:
        record.errors["no audio"] += 1
        return b""
    record.first_audio_s.append(first_s)
    record.audio_s += len(audio) / 2 / RATE_HZ
    return bytes(audio)


def _write(target: Path, pcm: bytes) -> None:
    with wave.open(str(target), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(pcm)
    print(f"{target}: {len(pcm) / 2 / RATE_HZ:.2f} s of audio")


if __name__ == "__main__":
    sys.exit(main())
