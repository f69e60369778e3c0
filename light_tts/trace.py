"""Where the time of one request went: spans on one track per stage, as Chrome trace JSON (Perfetto opens it).

Format: "Trace Event Format", complete ("X"), instant ("i") and metadata ("M") events. Costs nothing where no trace is
asked for: the stages hold None instead.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from pathlib import Path
from typing import Any, Literal

from light_tts.errors import ConfigError

Track = Literal["request", "llm", "flow", "vocoder", "audio"]
TRACKS: tuple[Track, ...] = ("request", "llm", "flow", "vocoder", "audio")

_NOT_IN_FILE_NAMES = re.compile(r"[^A-Za-z0-9._-]")
_MAX_NAME_CHARS = 80


class RequestTrace:
    """Times are seconds of `time.monotonic`. Any thread may add; a request adds a few events per second of speech."""

    def __init__(self, request_id: str = "") -> None:
        self.request_id = request_id
        self._started_s = time.monotonic()
        self._started_at = time.time()
        self._events: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def span(self, track: Track, name: str, start_s: float, end_s: float, **details: object) -> None:
        """Something that took from `start_s` to `end_s`."""
        duration_us = max(0, round((end_s - start_s) * 1e6))
        self._add({"ph": "X", "name": name, "ts": self._microseconds(start_s), "dur": duration_us}, track, details)

    def instant(self, track: Track, name: str, at_s: float, **details: object) -> None:
        """Something that happened at a moment."""
        self._add({"ph": "i", "s": "t", "name": name, "ts": self._microseconds(at_s)}, track, details)

    def to_json(self) -> dict[str, Any]:
        """The trace as the format's JSON object."""
        process: dict[str, Any] = {"pid": 1, "tid": 0, "ph": "M", "name": "process_name"}
        names = [process | {"args": {"name": f"request {self.request_id}"}}]
        for index, track in enumerate(TRACKS):
            names.append({"pid": 1, "tid": index, "ph": "M", "name": "thread_name", "args": {"name": track}})
        with self._lock:
            events = sorted(self._events, key=lambda event: int(event["ts"]))
        details = {"request_id": self.request_id, "started_at": self._started_at}
        return {"traceEvents": [*names, *events], "displayTimeUnit": "ms", "otherData": details}

    def write(self, path: Path) -> None:
        """Write the file; it appears only when it is complete. Raises ConfigError when it cannot be written."""
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            part.write_text(json.dumps(self.to_json()), encoding="utf-8")
            part.replace(path)
        except OSError as error:
            raise ConfigError(f"The trace cannot be written to {path}: {error.strerror or error}.") from None

    def write_into(self, directory: Path) -> Path:
        """Write `<time>-<request id>.json` into a directory, which is made; returns the path. Raises ConfigError."""
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(self._started_at))
        name = _NOT_IN_FILE_NAMES.sub("_", self.request_id)[:_MAX_NAME_CHARS]
        path = directory / f"{stamp}.{int(self._started_at % 1 * 1000):03d}-{name}.json"
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"trace_dir {directory} cannot be made: {error.strerror or error}.") from None
        self.write(path)
        return path

    def _add(self, event: dict[str, Any], track: Track, details: dict[str, object]) -> None:
        event.update(pid=1, tid=TRACKS.index(track), cat=track, args=details)
        with self._lock:
            self._events.append(event)

    def _microseconds(self, at_s: float) -> int:
        return max(0, round((at_s - self._started_s) * 1e6))
