"""A server on one GPU, seen from outside: memory under load, utilisation, neighbours, steps of the flow, hand-over.

    light-tts verify --make-random /tmp/random --family cosyvoice2
    python benchmarks/gpu_server.py --model-dir /tmp/random -o benchmarks/results/gpu-server.json

Starts `light-tts serve` with half of the GPU's memory, asks it over HTTP, and reads nvidia-smi four times a second.

start       seconds until it is ready, and what its allocator holds beyond what is in use
load        64 requests at a time: most memory the card has in use, beside the share; utilisation; failures
gauge       lightllm_gpu_memory_usage_bytes beside nvidia-smi
steps       real-time factor of fifty texts with 10 and with 5 steps of the flow
neighbour   four streams alone, and beside a second process that keeps the GPU busy with matrix products
hand_over   from the token that lets a hop run to the start of its flow call, in the traces of single requests
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from hand_over import hand_over_ms  # noqa: E402

from light_tts.bench.dialects import DIALECTS  # noqa: E402
from light_tts.bench.http_target import HttpTarget  # noqa: E402
from light_tts.bench.load import LoadPlan, run_load  # noqa: E402
from light_tts.bench.machine import describe_machine  # noqa: E402
from light_tts.bench.summary import Summary, summarise  # noqa: E402
from light_tts.bench.target import SpeechOptions  # noqa: E402
from light_tts.models.random_weights import VOICE_NAME  # noqa: E402

TEXTS = ("The train to the city leaves.", "Your order is on its way.", "Please hold the line.", "See you at nine.")
SHARE = 0.5
READY_WITHIN_S = 180.0
BUSY = """
import torch
a = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
print("busy", flush=True)
while True:
    for _ in range(20):
        a = (a @ a).clamp_(-1, 1)
    torch.cuda.synchronize()
"""


class Server:
    """`light-tts serve` on a free port for as long as the block lasts."""

    def __init__(self, words: list[str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self._words = [*words, "--host", "127.0.0.1", "--port", str(self.port)]

    def __enter__(self) -> Server:
        started_s = time.monotonic()
        command = [sys.executable, "-m", "light_tts", "serve", *self._words]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=sys.stderr)
        while not self._is_ready():
            if self.process.poll() is not None:
                raise SystemExit(f"the server ended with {self.process.returncode} before it was ready")
            if time.monotonic() - started_s > READY_WITHIN_S:
                self.process.kill()
                raise SystemExit(f"the server was not ready within {READY_WITHIN_S:g} s")
            time.sleep(0.2)
        self.ready_s = round(time.monotonic() - started_s, 1)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def _is_ready(self) -> bool:
        try:
            return bool(json.loads(self.get("/health"))["gpu_memory"]["total_bytes"])
        except (OSError, KeyError, TypeError):
            return False

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return bytes(answer.read())

    def ask(self, plan: LoadPlan, *, stream: bool, **fields: object) -> Summary:
        """A load of requests to the server."""
        words = tuple((name, str(value)) for name, value in fields.items())
        options = SpeechOptions(voice=VOICE_NAME, stream=stream, fields=words)

        async def run() -> Summary:
            async with HttpTarget(f"http://127.0.0.1:{self.port}", DIALECTS["lighttts"], options) as target:
                result = await run_load(target, TEXTS, plan, stream=stream)
            return summarise(result.rows, result.client_lag_s)

        return asyncio.run(run())


@contextmanager
def watching_gpu() -> Iterator[list[tuple[int, int]]]:
    """(MiB in use, per cent busy) of the first GPU as nvidia-smi sees it, four times a second."""
    seen: list[tuple[int, int]] = []
    command = ["nvidia-smi", "-i", "0", "--query-gpu=memory.used,utilization.gpu", "--format=csv,noheader,nounits"]
    with subprocess.Popen([*command, "-lms", "250"], stdout=subprocess.PIPE, text=True) as smi:

        def read() -> None:
            assert smi.stdout is not None
            for row in smi.stdout:
                used_mib, busy = row.split(",")
                seen.append((int(used_mib), int(busy)))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            yield seen
        finally:
            smi.terminate()
            reader.join()


def under_load(server: Server) -> tuple[dict[str, Any], dict[str, Any]]:
    """Memory, utilisation and failures; and the gauge beside what nvidia-smi says meanwhile."""
    page = b""

    def look() -> None:
        nonlocal page
        time.sleep(4.0)
        page = server.get("/metrics")

    with watching_gpu() as seen:
        watcher = threading.Thread(target=look)
        watcher.start()
        summary = server.ask(LoadPlan(workers=64, duration_s=8.0), stream=True)
        watcher.join()
        total_mib = json.loads(server.get("/health"))["gpu_memory"]["total_bytes"] / 2**20
    gauge = next(
        float(row.rsplit(b" ", 1)[1]) for row in page.splitlines() if row.startswith(b"lightllm_gpu_memory_usage_bytes")
    )
    most_mib = max(used for used, _ in seen)
    load = {
        "share_allowed": SHARE,
        "share_used_at_most": round(most_mib / total_mib, 3),
        "most_mib": most_mib,
        "busy_percent_p50": statistics.median(busy for _, busy in seen[4:-4] or seen),
        "failed_percent": round(100.0 * (1.0 - summary.requests_ok / summary.requests), 2),
        "summary": asdict(summary),
    }
    gauge_mib = gauge / 2**20
    return load, {"gauge_mib": round(gauge_mib), "nvidia_smi_mib": most_mib, "ratio": round(gauge_mib / most_mib, 3)}


def fewer_steps(server: Server) -> dict[str, Any]:
    """Mean real-time factor of fifty texts, four at a time, by steps of the flow."""
    found: dict[str, Any] = {}
    for steps in (10, 5):
        plan = LoadPlan(workers=4, num_requests=50, warmup_requests=12)
        summary = server.ask(plan, stream=False, flow_steps=steps)
        assert summary.rtf is not None, "no request went well"
        found[f"rtf_{steps}_steps"] = round(summary.rtf.mean, 4)
    found["saved_percent"] = round(100.0 * (1.0 - found["rtf_5_steps"] / found["rtf_10_steps"]), 1)
    return found


def beside_a_neighbour(server: Server) -> dict[str, Any]:
    """Four streams alone, and beside a process that keeps the GPU busy."""
    plan = LoadPlan(workers=4, num_requests=24, warmup_requests=2)
    found = {"alone": asdict(server.ask(plan, stream=True))}
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True) as neighbour:
        assert neighbour.stdout is not None
        neighbour.stdout.readline()
        try:
            found["beside_another"] = asdict(server.ask(plan, stream=True))
        finally:
            neighbour.kill()
    return found


def hand_over(traces: Iterable[Path]) -> dict[str, Any]:
    """Milliseconds that first hops wait."""
    waits_ms = [hand_over_ms(json.loads(path.read_text())) for path in traces]
    return {
        "requests": len(waits_ms),
        "p50_ms": round(statistics.median(waits_ms), 3),
        "most_ms": round(max(waits_ms), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    report: dict[str, Any] = {"command": " ".join(sys.argv), "machine": describe_machine()}
    with tempfile.TemporaryDirectory() as traces:
        words = ["--model-dir", str(arguments.model_dir), "--device", "cuda", "--trace-dir", traces]
        words += ["--gpu-memory-utilization", str(SHARE), "--max-concurrent-requests", "512"]
        with Server(words) as server:
            memory = json.loads(server.get("/health"))["gpu_memory"]
            spare_mib = (memory["reserved_bytes"] - memory["allocated_bytes"]) / 2**20
            report["start"] = {"ready_s": server.ready_s, "reserved_beyond_allocated_mib": round(spare_mib), **memory}
            server.ask(LoadPlan(num_requests=5), stream=True)  # beside what the start still does
            earlier = set(Path(traces).iterdir())
            server.ask(LoadPlan(num_requests=30), stream=True)  # one at a time, for their traces
            report["hand_over"] = hand_over(set(Path(traces).iterdir()) - earlier)
            report["load"], report["gauge"] = under_load(server)
            report["steps"] = fewer_steps(server)
            report["neighbour"] = beside_a_neighbour(server)
            for name, part in report.items():
                print(name, json.dumps(part)[:600], flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
