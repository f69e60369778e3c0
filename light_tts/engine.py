"""TTSEngine: the story of one request. Prepare the text and the voice, stream speech tokens, turn them into audio.

Knows nothing of HTTP. Threads: a small pool prepares, each language model has its own thread, the acoustic decoder has
one; they hand over by queues that wake the reader. Two more sleep until a deadline passes or a stage dies.
"""

from __future__ import annotations

import logging
import secrets
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from light_tts.acoustic.decoder import AcousticDecoder
from light_tts.acoustic.flow import FlowDecoder
from light_tts.acoustic.run import AcousticJob
from light_tts.acoustic.stage_costs import Measured
from light_tts.acoustic.vocoder import Vocoder
from light_tts.acoustic.warm_up import measure_costs
from light_tts.admission import Admission
from light_tts.assets import builtin_model_dir
from light_tts.audio_stream import AudioStream
from light_tts.deadlines import DeadlineClock
from light_tts.engine_health import acoustic_health, gpu_memory, llm_health
from light_tts.errors import ConfigError, EngineFailure, LightTTSError, UnknownModel
from light_tts.events import NO_EVENTS, EngineEvents
from light_tts.frontend.frontend import Frontend
from light_tts.llm.engine import SpeechTokenEngine
from light_tts.models.model_dir import ModelDirectory
from light_tts.narration import Narration
from light_tts.placement import Placement, place, prepare_cpu
from light_tts.request_ranges import check_ranges
from light_tts.settings import Settings
from light_tts.speech_source import SpeechSource, start_codes
from light_tts.supervisor import Stage, Supervisor
from light_tts.text_stream import TextAudioStream
from light_tts.trace import RequestTrace
from light_tts.types import FlowPrompt, LLMPrompt, SynthesisRequest, TokenSink

logger = logging.getLogger(__name__)

StreamKind = TypeVar("StreamKind", bound=AudioStream)

# A digit in each language loads the number readers.
WARM_UP_TEXTS = ("Hello 1.", "你好 1。")


class TTSEngine:
    """One loaded model and everything that runs on it. Make it with `load`; `close` it when done."""

    def __init__(
        self,
        settings: Settings,
        directory: ModelDirectory,
        placement: Placement,
        frontend: Frontend,
        llms: dict[str, SpeechTokenEngine],
        decoder: AcousticDecoder,
        events: EngineEvents = NO_EVENTS,
    ) -> None:
        self.settings = settings
        self.model_name = directory.name
        self.voices = frontend.voices
        self._placement = placement
        self._frontend = frontend
        self._llms = llms
        self._decoder = decoder
        self._pool = ThreadPoolExecutor(settings.frontend.threads, thread_name_prefix="frontend")
        limits = settings.engine
        self._admission = Admission(max_running=limits.max_concurrent_requests, max_queue=limits.max_queue)
        self._deadlines = DeadlineClock()
        stages: dict[str, Stage] = {
            "acoustic": decoder,
            **{f"{style} language model": llm for style, llm in llms.items()},
        }
        self._supervisor = Supervisor(stages, events, max_restarts=limits.max_restarts)
        self._events = events
        self._started_s = time.monotonic()
        self._is_closed = False
        for stage in stages.values():
            stage.on_death = self._supervisor.stage_died
        self._supervisor.start()
        self._deadlines.start()

    @classmethod
    def load(cls, settings: Settings, events: EngineEvents = NO_EVENTS) -> TTSEngine:
        """Load the model directory of the settings (default: the built-in model) and start the threads.

        events is told what happens inside. Raises CheckpointError for a wrong or incomplete directory, ConfigError for
        a device that is not there.
        """
        placement = place(settings.model)
        if placement.device.type == "cpu":
            prepare_cpu(settings.model.cpu_threads)
        directory = ModelDirectory.open(Path(settings.model.model_dir or builtin_model_dir()))
        with ThreadPoolExecutor(3, thread_name_prefix="load") as pool:
            flow_net = pool.submit(directory.load_flow, dtype=placement.flow_dtype, device=placement.device)
            vocoder_net = pool.submit(directory.load_vocoder, dtype=placement.vocoder_dtype, device=placement.device)
            lms = {
                style: pool.submit(directory.load_llm, style, dtype=placement.llm_dtype, device=placement.device)
                for style in directory.styles
            }
            frontend = Frontend.from_model_directory(
                directory,
                settings.frontend,
                prompt_alignment=settings.acoustic.prompt_alignment,
                first_hop_tokens=settings.acoustic.first_hop_tokens,
            )
            llms = {
                style: SpeechTokenEngine(
                    loaded.result(),
                    sampling=directory.sampling,
                    settings=settings.llm,
                    mix_ratio=directory.mix_ratio,
                    events=events,
                )
                for style, loaded in lms.items()
            }
            flow = FlowDecoder(
                flow_net.result(),
                prompt_cache_bytes=settings.acoustic.prompt_cache_mb * 2**20,
                stream_cache_bytes=settings.acoustic.stream_cache_mb * 2**20,
            )
            vocoder = Vocoder(vocoder_net.result(), crossfade=settings.acoustic.crossfade)
        decoder = AcousticDecoder(
            flow,
            vocoder,
            settings.acoustic,
            chunk_tokens=directory.chunk_tokens,
            lookahead_tokens=directory.lookahead_tokens,
            events=events,
        )
        return cls(settings, directory, placement, frontend, llms, decoder, events)

    def drain(self, timeout_s: float) -> bool:
        """Take no new requests and wait for those inside; False when some are still there after the time."""
        self._admission.stop()
        return self._admission.wait_until_empty(timeout_s)

    def close(self) -> None:
        """Cancel what runs and stop the threads."""
        if self._is_closed:
            return
        self._is_closed = True
        self._admission.stop()
        for stream in self._admission.members():
            assert isinstance(stream, AudioStream)
            stream.cancel()
        self._supervisor.close()
        self._deadlines.close()
        self._pool.shutdown(wait=True)
        for llm in self._llms.values():
            llm.close()
        self._decoder.close()

    def __enter__(self) -> TTSEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def model_names(self) -> list[str]:
        """Language-model styles; the first is the default."""
        return list(self._llms)

    def health(self) -> dict[str, Any]:
        """A snapshot for health pages; cheap, takes no lock of the models."""
        down = self._supervisor.down()
        error = f"{' and '.join(down)}: the thread has died" if down else None
        return {
            "ready": error is None and not self._admission.is_stopped,
            "error": error,
            "draining": self._admission.is_stopped,
            "running": self._admission.num_running,
            "queued": self._admission.num_waiting,
            "restarts": self._supervisor.num_restarts,
            "model": self.model_name,
            "device": str(self._placement.device),
            "dtypes": self._placement.describe(),
            "llm": llm_health(self._llms.values()),
            "acoustic": acoustic_health(self._decoder),
            "voice_cache": asdict(self._frontend.voice_cache_stats()),
            "uptime_s": round(time.monotonic() - self._started_s, 1),
        }

    def gpu_memory(self) -> dict[str, Any] | None:
        """Bytes used on the device; None on CPU. Asks the driver."""
        return gpu_memory(self._placement.device)

    @property
    def stage_costs(self) -> list[Measured]:
        """(rows, frames of the longest row, seconds) of acoustic calls, as measured so far."""
        return self._decoder.costs.measured()

    def warm_up(self) -> None:
        """Run every stage once, so that the first listener does not pay for lazy set-up. Before the first request."""
        decoder = self._decoder
        measure_costs(decoder.flow, decoder.vocoder, decoder.costs, max_batch=self.settings.acoustic.max_batch)
        for stream, text in zip((True, False), WARM_UP_TEXTS, strict=True):
            with self.submit(SynthesisRequest(text, stream=stream, seed=0)) as audio:
                for _ in audio:
                    pass

    # requests

    def submit(self, request: SynthesisRequest, *, trace: RequestTrace | None = None) -> AudioStream:
        """Start a request; returns at once. Raises Overloaded or InvalidRequest; later errors come by iteration.

        trace:  is filled while the request runs.
        """
        llm = self._llm_for(request.model)

        def prepare(narration: Narration) -> None:
            prepared = self._frontend.prepare(request)
            narration.stream.stats.text_tokens = sum(len(segment.text_ids) for segment in prepared.segments)
            self._bind(narration, request, prepared.flow_prompt)
            for segment in prepared.segments:
                narration.add(partial(_start_run, llm, segment, request, narration.job.seed))
            narration.complete()

        return self._begin(AudioStream, request, prepare, trace)

    def open_text_stream(self, request: SynthesisRequest, *, trace: RequestTrace | None = None) -> TextAudioStream:
        """Start a request whose text arrives piece by piece (`feed`), while its audio already leaves."""
        llm = self._llm_for(request.model)

        def prepare(narration: Narration) -> None:
            stream = narration.stream
            assert isinstance(stream, TextAudioStream)
            prepared = self._frontend.prepare_text_stream(request)
            prompt = prepared.segments[0]
            self._bind(narration, request, prepared.flow_prompt)
            stream.connect(
                narration,
                encode=self._frontend.encode_stream_text,
                open_run=lambda sink, index: llm.open_text_run(
                    prompt, sink, seed=narration.job.seed, run_index=index, sampling=request.sampling
                ),
            )

        stream = self._begin(TextAudioStream, request, prepare, trace)
        stream.max_text_chars = self.settings.frontend.max_text_chars
        if request.text:
            stream.feed(request.text)
        return stream

    def convert(self, source: bytes, request: SynthesisRequest) -> AudioStream:
        """Voice conversion: speak the words of a recording with the request's voice."""

        def prepare(narration: Narration) -> None:
            codes = self._frontend.source_tokens(source)
            self._bind(narration, request, self._frontend.prepare_voice(request))
            narration.add(partial(start_codes, codes))
            narration.complete()

        return self._begin(AudioStream, request, prepare, None)

    # inside

    def _llm_for(self, model: str) -> SpeechTokenEngine:
        if model in ("", "default"):
            return next(iter(self._llms.values()))
        if model not in self._llms:
            raise UnknownModel(f"Unknown model '{model}'. Models: {', '.join(self._llms)}.", "tts_model_name")
        return self._llms[model]

    def _begin(
        self,
        kind: type[StreamKind],
        request: SynthesisRequest,
        prepare: Callable[[Narration], None],
        trace: RequestTrace | None,
    ) -> StreamKind:
        """Let the request in: its preparation runs on the pool as soon as it has a place."""
        check_ranges(request)
        if self._is_closed:
            raise EngineFailure("The engine has been closed.")
        limit_s = self.settings.engine.request_timeout_s
        stream = kind(
            request.request_id or uuid.uuid4().hex,
            timeout_s=min(limit_s, request.timeout_s or limit_s),
            max_pending_chunks=self.settings.engine.max_pending_chunks,
        )
        stream.trace = trace
        if trace is None and self.settings.engine.trace_dir is not None:
            stream.trace = RequestTrace(stream.request_id)
            stream.on_drained = partial(self._write_trace, stream.trace, self.settings.engine.trace_dir)
        narration = Narration(stream, self._decoder, partial(self._leave, stream), self._retry)
        stream.on_cancel = narration.cancel
        stream.on_read = narration.wake
        self._deadlines.add(stream, stream.deadline_s, lambda: narration.fail(stream.deadline_error()))
        try:
            self._admission.enter(stream, partial(self._prepare, narration, prepare))
        except LightTTSError:
            self._deadlines.remove(stream)
            raise
        return stream

    def _leave(self, stream: AudioStream) -> None:
        self._deadlines.remove(stream)
        self._admission.leave(stream)

    def _retry(self, begin_again: Callable[[], None]) -> None:
        self._events.request_retried()
        self._supervisor.when_revived(begin_again)

    def _prepare(self, narration: Narration, prepare: Callable[[Narration], None]) -> None:
        """Run the preparation on the pool; whatever goes wrong there ends this request alone."""
        stream = narration.stream

        def run() -> None:
            if stream.is_finished:
                return
            started_s = time.monotonic()
            stream.stats.queue_ms = (started_s - stream.created_s) * 1000.0
            try:
                with torch.inference_mode():
                    prepare(narration)
            except LightTTSError as error:
                narration.fail(error)
            except Exception:
                logger.exception("request %s could not be prepared", stream.request_id)
                narration.fail(EngineFailure("The request could not be prepared."))
            ended_s = time.monotonic()
            stream.stats.prepare_ms = (ended_s - started_s) * 1000.0
            if stream.trace is not None:
                stream.trace.span("request", "queue", stream.created_s, started_s)
                stream.trace.span("request", "prepare", started_s, ended_s)

        try:
            self._pool.submit(run)
        except RuntimeError:
            narration.fail(EngineFailure("The engine has been closed."))

    def _write_trace(self, trace: RequestTrace, directory: Path) -> None:
        # On the pool: the reader may be an event loop, which does not wait for disks.
        try:
            self._pool.submit(_write_trace, trace, directory)
        except RuntimeError:
            _write_trace(trace, directory)

    def _bind(self, narration: Narration, request: SynthesisRequest, prompt: FlowPrompt) -> None:
        seed = secrets.randbits(62) if request.seed is None else request.seed
        narration.bind(
            AcousticJob(
                prompt=prompt,
                seed=seed,
                flow_steps=request.flow_steps or self.settings.acoustic.flow_steps,
                speed=request.speed,
                stream=request.stream,
                trace=narration.stream.trace,
            )
        )


def _start_run(
    llm: SpeechTokenEngine, prompt: LLMPrompt, request: SynthesisRequest, seed: int, sink: TokenSink, index: int
) -> SpeechSource:
    return llm.submit(prompt, sink, seed=seed, run_index=index, sampling=request.sampling)


def _write_trace(trace: RequestTrace, directory: Path) -> None:
    try:
        trace.write_into(directory)
    except ConfigError as error:
        logger.warning("%s", error)
