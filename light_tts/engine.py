"""TTSEngine: the story of one request. Prepare the text and the voice, stream speech tokens, turn them into audio.

Knows nothing of HTTP. Threads: a small pool prepares, each language model has its own thread, the acoustic decoder has
one; they hand over by queues that wake the reader.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from light_tts.acoustic.decoder import AcousticDecoder
from light_tts.acoustic.flow import FlowDecoder
from light_tts.acoustic.run import AcousticJob
from light_tts.acoustic.vocoder import Vocoder
from light_tts.assets import builtin_model_dir
from light_tts.audio_stream import AudioStream
from light_tts.errors import EngineFailure, InvalidRequest, LightTTSError, Overloaded, UnknownModel
from light_tts.frontend.frontend import Frontend
from light_tts.llm.engine import SpeechTokenEngine
from light_tts.models.model_dir import ModelDirectory
from light_tts.narration import Narration, SpeechSource
from light_tts.placement import Placement, automatic_cpu_threads, place
from light_tts.settings import Settings
from light_tts.text_stream import TextAudioStream
from light_tts.types import FinishReason, FlowPrompt, LLMPrompt, SynthesisRequest, TokenSink

logger = logging.getLogger(__name__)

MIN_SPEED, MAX_SPEED = 0.25, 4.0
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
    ) -> None:
        self.settings = settings
        self.model_name = directory.name
        self.voices = frontend.voices
        self._placement = placement
        self._frontend = frontend
        self._llms = llms
        self._decoder = decoder
        self._pool = ThreadPoolExecutor(settings.frontend.threads, thread_name_prefix="frontend")
        self._running: set[AudioStream] = set()
        self._lock = threading.Lock()
        self._started_s = time.monotonic()
        self._is_closed = False
        decoder.start()
        for llm in llms.values():
            llm.start()

    @classmethod
    def load(cls, settings: Settings) -> TTSEngine:
        """Load the model directory of the settings (default: the built-in model) and start the threads.

        Raises CheckpointError for a wrong or incomplete directory, ConfigError for a device that is not there.
        """
        placement = place(settings.model)
        if placement.device.type == "cpu":
            torch.set_num_threads(settings.model.cpu_threads or automatic_cpu_threads())
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
                    loaded.result(), sampling=directory.sampling, settings=settings.llm, mix_ratio=directory.mix_ratio
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
        )
        return cls(settings, directory, placement, frontend, llms, decoder)

    def close(self) -> None:
        """Cancel what runs and stop the threads."""
        if self._is_closed:
            return
        self._is_closed = True
        with self._lock:
            running = list(self._running)
        for stream in running:
            stream.cancel()
        self._pool.shutdown(wait=True, cancel_futures=True)
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
        broken = [name for name, llm in self._llms.items() if not llm.is_alive]
        error = f"language model thread of {', '.join(broken)} is gone" if broken else None
        if not self._decoder.is_alive:
            error = "acoustic decoder thread is gone"
        return {
            "ready": error is None and not self._is_closed,
            "error": error,
            "running": len(self._running),
            "queued": sum(llm.stats().waiting for llm in self._llms.values()),
            "model": self.model_name,
            "device": str(self._placement.device),
            "dtypes": self._placement.describe(),
            "uptime_s": round(time.monotonic() - self._started_s, 1),
        }

    def warm_up(self) -> None:
        """Run every stage once, so that the first listener does not pay for lazy set-up."""
        for stream, text in zip((True, False), WARM_UP_TEXTS, strict=True):
            with self.submit(SynthesisRequest(text, stream=stream, seed=0)) as audio:
                for _ in audio:
                    pass

    # requests

    def submit(self, request: SynthesisRequest) -> AudioStream:
        """Start a request; returns at once. Raises Overloaded or InvalidRequest; later errors come by iteration."""
        llm = self._llm_for(request.model)
        narration = self._admit(AudioStream, request)

        def prepare() -> None:
            prepared = self._frontend.prepare(request)
            narration.stream.stats.text_tokens = sum(len(segment.text_ids) for segment in prepared.segments)
            self._bind(narration, request, prepared.flow_prompt)
            for segment in prepared.segments:
                narration.add(partial(_start_run, llm, segment, request, self._seed_of(narration)))
            narration.complete()

        self._prepare(narration, prepare)
        return narration.stream

    def open_text_stream(self, request: SynthesisRequest) -> TextAudioStream:
        """Start a request whose text arrives piece by piece (`feed`), while its audio already leaves."""
        llm = self._llm_for(request.model)
        narration = self._admit(TextAudioStream, request)
        stream = narration.stream
        assert isinstance(stream, TextAudioStream)

        def prepare() -> None:
            prepared = self._frontend.prepare_text_stream(request)
            prompt = prepared.segments[0]
            self._bind(narration, request, prepared.flow_prompt)
            stream.connect(
                narration,
                encode=self._frontend.encode_stream_text,
                open_run=lambda sink, index: llm.open_text_run(
                    prompt, sink, seed=self._seed_of(narration), run_index=index, sampling=request.sampling
                ),
            )
            if request.text:
                stream.feed(request.text)

        self._prepare(narration, prepare)
        return stream

    def convert(self, source: bytes, request: SynthesisRequest) -> AudioStream:
        """Voice conversion: speak the words of a recording with the request's voice."""
        narration = self._admit(AudioStream, request)

        def prepare() -> None:
            codes = self._frontend.source_tokens(source)
            self._bind(narration, request, self._frontend.prepare_voice(request))
            narration.add(partial(_start_codes, codes))
            narration.complete()

        self._prepare(narration, prepare)
        return narration.stream

    # inside

    def _llm_for(self, model: str) -> SpeechTokenEngine:
        if model in ("", "default"):
            return next(iter(self._llms.values()))
        if model not in self._llms:
            raise UnknownModel(f"Unknown model '{model}'. Models: {', '.join(self._llms)}.", "tts_model_name")
        return self._llms[model]

    def _admit(self, kind: type[AudioStream], request: SynthesisRequest) -> Narration:
        _check_ranges(request)
        limit = self.settings.engine.max_concurrent_requests
        stream = kind(
            request.request_id or uuid.uuid4().hex,
            timeout_s=self.settings.engine.request_timeout_s,
            max_pending_chunks=self.settings.engine.max_pending_chunks,
        )
        with self._lock:
            if self._is_closed:
                raise EngineFailure("The engine has been closed.")
            if limit and len(self._running) >= limit:
                raise Overloaded(f"The server is busy: {limit} requests are running, its limit. Try again shortly.")
            self._running.add(stream)
        narration = Narration(stream, self._decoder, partial(self._release, stream))
        stream.on_cancel = narration.cancel
        stream.on_read = narration.wake
        return narration

    def _release(self, stream: AudioStream) -> None:
        with self._lock:
            self._running.discard(stream)

    def _prepare(self, narration: Narration, prepare: Callable[[], None]) -> None:
        """Run the preparation on the pool; whatever goes wrong there ends this request alone."""
        submitted_s = time.monotonic()

        def run() -> None:
            if narration.stream.is_finished:
                return
            started_s = time.monotonic()
            narration.stream.stats.queue_ms = (started_s - submitted_s) * 1000.0
            try:
                with torch.inference_mode():
                    prepare()
            except LightTTSError as error:
                narration.fail(error)
            except Exception:
                logger.exception("request %s could not be prepared", narration.stream.request_id)
                narration.fail(EngineFailure("The request could not be prepared."))
            narration.stream.stats.prepare_ms = (time.monotonic() - started_s) * 1000.0

        try:
            self._pool.submit(run)
        except RuntimeError:
            self._release(narration.stream)
            raise EngineFailure("The engine has been closed.") from None

    def _bind(self, narration: Narration, request: SynthesisRequest, prompt: FlowPrompt) -> None:
        seed = secrets.randbits(62) if request.seed is None else request.seed
        narration.bind(
            AcousticJob(
                prompt=prompt,
                seed=seed,
                flow_steps=request.flow_steps or self.settings.acoustic.flow_steps,
                speed=request.speed,
                stream=request.stream,
            )
        )

    @staticmethod
    def _seed_of(narration: Narration) -> int:
        return narration.job.seed


def _check_ranges(request: SynthesisRequest) -> None:
    if not MIN_SPEED <= request.speed <= MAX_SPEED:
        raise InvalidRequest(f"speed must be from {MIN_SPEED} to {MAX_SPEED}, not {request.speed}.", "speed")
    if request.flow_steps is not None and not 1 <= request.flow_steps <= 50:
        raise InvalidRequest(f"flow_steps must be from 1 to 50, not {request.flow_steps}.", "flow_steps")
    if request.seed is not None and not 0 <= request.seed < 2**63:
        raise InvalidRequest(f"seed must be from 0 to 2^63 - 1, not {request.seed}.", "seed")


def _start_run(
    llm: SpeechTokenEngine, prompt: LLMPrompt, request: SynthesisRequest, seed: int, sink: TokenSink, index: int
) -> SpeechSource:
    return llm.submit(prompt, sink, seed=seed, run_index=index, sampling=request.sampling)


class _CodesAtHand:
    """A speech source whose codes are all there from the start."""

    def abort(self) -> None:
        """Nothing runs."""


def _start_codes(codes: tuple[int, ...], sink: TokenSink, index: int) -> SpeechSource:
    sink.put(codes)
    sink.end(FinishReason.STOP)
    return _CodesAtHand()
