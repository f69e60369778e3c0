"""What scheduling and host work allow with a GPU that only takes time: no GPU needed.

    python benchmarks/pretend_gpu.py --slow 3 -o benchmarks/results/pretend-gpu.json

The engine is the real one with the built-in model's texts, voices and states; in place of its networks stand waits, as
long as the calls take on one H200 with CosyVoice2's sizes. Decoding steps and calls of flow and vocoder hold each other
up (`pretended_device.py`), and states of streams take what they take. Ids are random, so each request speaks for as
long as its text allows. What this shows is how calls are put together; seconds of the host are those of this
machine, and count a third with `--slow 3` (`slowed_time.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gpu_goals
from pretended_device import PretendedDevice, Work, on_curve
from slowed_time import slow_down

from light_tts import collector
from light_tts.acoustic.decoder import AcousticDecoder
from light_tts.acoustic.flow_batch import FlowRow
from light_tts.acoustic.flow_sizes import BodySight, RowSize, SizeTable, catalogue
from light_tts.acoustic.pending_samples import Part, PendingSamples
from light_tts.acoustic.stage_timer import StageTimer
from light_tts.acoustic.vocoder import VocoderJob
from light_tts.acoustic.warm_up import measure_costs
from light_tts.bench.machine import describe_machine
from light_tts.engine import TTSEngine
from light_tts.events import NO_PROGRESS, StartProgress
from light_tts.gpu_turns import GpuTurns
from light_tts.llm.padded_steps import PaddedSteps
from light_tts.llm.pending import PendingDraws
from light_tts.llm.step_inputs import StepViews
from light_tts.settings import AcousticSettings, EngineSettings, LLMSettings, Settings
from light_tts.types import FRAMES_PER_TOKEN, MEL_BINS, SAMPLES_PER_FRAME

CHUNK_TOKENS, CHUNK_FRAMES = 25, 50
FIRST_HOP_TOKENS, LOOKAHEAD_TOKENS = 22, 3
MAX_BATCH, MAX_RUNNING = 64, 512
FIVE_S, ONE_S = "the train to the city.", "Yes."
VOICE = "en_female"


# Seconds on one H200 with nothing beside them: gpu-llm.json; steps with prompts and the flow, whose rows see some 200
# frames before their own, from calls under load that had the device to themselves (gpu-load.txt).
DECODING_S = ((1, 0.00044), (4, 0.00055), (16, 0.00059), (32, 0.00074), (64, 0.00089), (256, 0.00158))  # by sequences
PROMPT_S = ((64, 0.0009), (128, 0.0011), (256, 0.0019), (512, 0.0026), (2048, 0.009))  # by rows
FLOW_S = (  # by rows x frames
    (50, 0.0115),
    (100, 0.0145),
    (200, 0.021),
    (400, 0.025),
    (800, 0.03),
    (1200, 0.034),
    (1600, 0.039),
    (3200, 0.06),
    (9600, 0.16),
)
VOCODER_S = ((58, 0.0010), (464, 0.0025), (1856, 0.0065), (3712, 0.0105))
LLM_RATES = ((800, 0.55), (3200, 0.5))  # of steps beside a flow call of so many frames; beside longer ones not less
TOKEN_BYTES = 4_600_000  # of a stream's states


def step_s(rows: int, *, has_prompts: bool) -> float:
    """Of one step of the language model."""
    return on_curve(PROMPT_S if has_prompts else DECODING_S, rows)


def flow_s(frames: int, speed: float) -> float:
    """Of a flow call of so many rows x frames, padding included.

    speed: of what depends on their number.
    """
    least_s = FLOW_S[0][1]
    return least_s + (on_curve(FLOW_S, frames) - least_s) / speed


def llm_rate(frames: int) -> float:
    """Of steps beside such a call."""
    return max(LLM_RATES[-1][1], on_curve(LLM_RATES, frames))


class PretendedTimer(StageTimer):
    """Of calls on such a device."""

    def __init__(self, device: PretendedDevice) -> None:
        self._device = device
        self._marks: list[Work | float] = []
        super().__init__(torch.device("cpu"))

    @property
    def is_apart(self) -> bool:
        return True

    def mark(self) -> None:
        self._marks.append(self._device.last_call() or time.monotonic())

    def wait(self, mark: int) -> None:
        self._moment_s(mark)

    def seconds(self) -> list[float]:
        moments_s = [self._moment_s(mark) for mark in range(len(self._marks))]
        return [after - before for before, after in pairwise(moments_s)]

    def _moment_s(self, mark: int) -> float:
        """When the device came to a mark; waits for it."""
        work = self._marks[mark]
        if not isinstance(work, Work):
            return work
        work.synchronize()
        assert work.done_s is not None
        return work.done_s


class PretendedSteps:
    """Steps of the language model, one after the other on a stream of their own."""

    def __init__(self, engine: TTSEngine, device: PretendedDevice) -> None:
        [llm] = engine._llms.values()
        runner: Any = llm._runner
        self._device = device
        self._last: Work | None = None
        self.num_steps = 0
        padded = PaddedSteps(
            runner.cache,
            self._record,
            win_size=runner._sampler.win_size,
            most_rows=256,
            most_packed_rows=2048,
            most_running=MAX_RUNNING,
            most_tokens=2048,
        )
        padded._drawn.random_(0, runner.lm.ids.num_codes)
        launch = padded.launch

        def launch_and_wait(plan: Any) -> PendingDraws:
            return replace(launch(plan), ready=self._last)  # type: ignore[arg-type]

        padded.launch = launch_and_wait  # type: ignore[method-assign]
        runner._padded = padded

    def _record(self, views: StepViews) -> Callable[[], None]:
        seconds = step_s(len(views.rows.rows), has_prompts=type(views.pages).__name__ != "DecodePages")

        def replay() -> None:
            self._last = self._device.add_step(seconds)
            self.num_steps += 1

        return replay


class PretendedStates:
    """Of so many tokens."""

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens, self.num_bytes = num_tokens, TOKEN_BYTES * num_tokens


class PretendedFlow:
    """A FlowRunner whose calls are those that a GPU would record."""

    def __init__(self, device: PretendedDevice, speed: float) -> None:
        self._device, self._speed = device, speed
        sight = BodySight(attends=True, reach_chunks=81, most_chunks=300)
        self._table = SizeTable(sight, CHUNK_FRAMES)
        self._table.add(catalogue(sight, chunk_frames=CHUNK_FRAMES, max_rows=MAX_BATCH))
        self.rows_of_calls: list[int] = []

    def states_bytes(self, num_tokens: int, steps: int) -> int:
        return TOKEN_BYTES * num_tokens

    def allocate(self, num_tokens: int, steps: int) -> PretendedStates:
        return PretendedStates(num_tokens)

    def groups(self, rows: Sequence[FlowRow]) -> list[list[int]]:
        return self._table.groups([self._size(row) for row in rows])

    def warm_up(self, max_rows: int, progress: StartProgress = NO_PROGRESS) -> None:
        """Nothing to record; what calls cost is known."""
        self._table.price(partial(flow_s, speed=self._speed))

    def run(self, rows: Sequence[FlowRow], *, steps: int, is_chunked: bool) -> list[torch.Tensor]:
        sizes = [self._size(row) for row in rows]
        _, size = self._table.cheapest(len(rows), max(each.chunks for each in sizes), max(each.past for each in sizes))
        assert size is not None, "no text here is that long"
        self.rows_of_calls.append(len(rows))
        frames = size.rows * size.chunks * CHUNK_FRAMES
        self._device.add_call(flow_s(frames, self._speed), llm_rate(frames))
        return [torch.zeros(FRAMES_PER_TOKEN * row.num_tokens, MEL_BINS) for row in rows]

    @staticmethod
    def _size(row: FlowRow) -> RowSize:
        past = sum(states.num_tokens for states in row.past)
        return RowSize(-(-row.num_tokens // CHUNK_TOKENS), past // CHUNK_TOKENS)


class PretendedVoice:
    """A stream of the vocoder."""

    def close(self) -> None:
        """Nothing to free."""


class PretendedVocoder:
    """A WaveDecoder that makes silence."""

    def __init__(self, device: PretendedDevice) -> None:
        self._device = device

    def open(self, seed: int) -> PretendedVoice:
        return PretendedVoice()

    def decode(self, jobs: Sequence[VocoderJob[Any]]) -> list[torch.Tensor]:
        return [samples.fetch() for samples in self.launch(jobs)]

    def launch(self, jobs: Sequence[VocoderJob[Any]]) -> list[PendingSamples]:
        counts = [SAMPLES_PER_FRAME * sum(piece.shape[1] for piece in job.pieces) for job in jobs]
        frames = sum(counts) // SAMPLES_PER_FRAME
        work = self._device.add_call(on_curve(VOCODER_S, frames), llm_rate(frames))
        return [PendingSamples([Part(count, partial(_silence, count, work))]) for count in counts]


def _silence(num_samples: int, work: Work) -> torch.Tensor:
    work.synchronize()
    return torch.zeros(num_samples)


def share_the_device(engine: TTSEngine) -> None:
    """Let stages give way to each other as they do on a GPU."""
    [llm] = engine._llms.values()
    backend: Any = llm
    turns = GpuTurns(FIRST_HOP_TOKENS + LOOKAHEAD_TOKENS)
    turns.call_at_change(backend._wake_up)
    backend._turns = engine._decoder.main._turns = turns


def pretend(speed: float) -> tuple[TTSEngine, PretendedSteps, PretendedFlow]:
    """An engine whose networks only take time."""
    settings = Settings(
        llm=LLMSettings(max_running=MAX_RUNNING, max_total_tokens=262144, graph_max_batch_size=256),
        acoustic=AcousticSettings(
            first_hop_tokens=FIRST_HOP_TOKENS, max_batch=MAX_BATCH, prompt_cache_mb=4096, stream_cache_mb=57344
        ),
        engine=EngineSettings(max_concurrent_requests=4096),
    )
    device = PretendedDevice()
    engine, flow = TTSEngine.load(settings), PretendedFlow(device, speed)
    steps = PretendedSteps(engine, device)
    decoder: AcousticDecoder = engine._decoder
    decoder.flow.runner = flow  # type: ignore[assignment]
    decoder.main.vocoder = PretendedVocoder(device)  # type: ignore[assignment]
    decoder.main.new_timer = partial(PretendedTimer, device)
    share_the_device(engine)
    measure_costs(decoder.flow, decoder.vocoder, decoder.costs, max_batch=MAX_BATCH)
    collector.settle()  # as warming up does
    return engine, steps, flow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="*", default=[10.0, 20.0, 60.0, 100.0], help="streams per second")
    parser.add_argument("--listeners", type=int, nargs="*", default=[150, 300, 400])
    parser.add_argument("--offline", type=int, nargs="*", default=[128, 256], help="whole answers at once")
    parser.add_argument("--one-second", type=float, nargs="*", default=[120.0], help="short texts per second, whole")
    parser.add_argument("--speed", type=float, default=1.0, help="of the part of a flow call that grows with its size")
    parser.add_argument("--slow", type=float, default=1.0, help="factor by which clocks go slower than time")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    if arguments.slow != 1.0:
        slow_down(arguments.slow)
    torch.set_num_threads(1)
    gpu_goals.VOICE_NAME = VOICE
    engine, steps, flow = pretend(arguments.speed)
    report: dict[str, Any] = {"command": " ".join(sys.argv), "machine": describe_machine(), "runs": {}}
    runs: list[tuple[str, str, dict[str, Any]]] = [
        *(
            (f"open {rate:g}/s", FIVE_S, {"stream": True, "mode": "open", "rate_hz": rate, "duration_s": 5.0})
            for rate in arguments.rates
        ),
        *(
            (f"{count} listeners", FIVE_S, {"stream": True, "mode": "listeners", "workers": count, "duration_s": 6.0})
            for count in arguments.listeners
        ),
        *(
            (f"offline, {workers} at once", FIVE_S, {"stream": False, "workers": workers, "num_requests": 3 * workers})
            for workers in arguments.offline
        ),
        *(
            (f"one second {rate:g}/s", ONE_S, {"stream": False, "mode": "open", "rate_hz": rate, "duration_s": 4.0})
            for rate in arguments.one_second
        ),
    ]
    for name, text, plan in runs:
        flow.rows_of_calls.clear()
        before = steps.num_steps
        summary = gpu_goals.load(engine, text, **plan)
        calls = len(flow.rows_of_calls)
        rows = round(sum(flow.rows_of_calls) / max(1, calls), 1)
        report["runs"][name] = asdict(summary) | {"flow_calls": calls, "rows_per_flow_call": rows}
        print(
            f"{gpu_goals.line(name, summary)}  {steps.num_steps - before} steps, {calls} calls of {rows} rows",
            flush=True,
        )
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    sys.stdout.flush()
    os._exit(0)  # sleeping threads need not be waited for


if __name__ == "__main__":
    main()
