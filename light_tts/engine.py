"""TTSEngine: the story of one request. Prepare the text and the voice, stream speech tokens, turn them into audio.

Knows nothing of HTTP. Threads: a small pool prepares, each language model has its own thread, the acoustic decoder has
one; they hand over by queues that wake the reader. Two more sleep until a deadline passes or a stage dies.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from light_tts import collector
from light_tts.acoustic.run import AcousticJob
from light_tts.acoustic.stage_costs import Measured
from light_tts.acoustic.warm_up import measure_costs
from light_tts.audio_stream import AudioStream
from light_tts.backends import choose_backends
from light_tts.engine_health import acoustic_health, gpu_memory, llm_health, quantization_health, resident_bytes
from light_tts.engine_parts import EngineParts, load_parts
from light_tts.errors import Overloaded, UnknownModel
from light_tts.events import NO_EVENTS, NO_PROGRESS, EngineEvents, StartProgress
from light_tts.intake import Intake
from light_tts.llm.backend import SpeechTokenBackend
from light_tts.narration import Narration
from light_tts.phrase_book import PhraseBook, read_templates
from light_tts.phrase_cache import phrase_key
from light_tts.settings import Settings
from light_tts.shared_speech import SharedSpeech
from light_tts.speech_source import SpeechSource, start_codes
from light_tts.supervisor import Stage, Supervisor
from light_tts.text_stream import TextAudioStream
from light_tts.trace import RequestTrace
from light_tts.types import FlowPrompt, LLMPrompt, PreparedRequest, SynthesisRequest, TokenSink

logger = logging.getLogger(__name__)

# A digit in each language loads the number readers.
WARM_UP_TEXTS = ("Hello 1.", "你好 1。")


class TTSEngine:
    """One loaded model and everything that runs on it. Make it with `load`; `close` it when done."""

    def __init__(
        self, parts: EngineParts, events: EngineEvents = NO_EVENTS, progress: StartProgress = NO_PROGRESS
    ) -> None:
        settings, frontend, llms, decoder = parts.settings, parts.frontend, parts.llms, parts.decoder
        self.settings = settings
        self.model_name = parts.model_name
        self.voices = frontend.voices
        self._placement = parts.placement
        self._memory = parts.memory
        self._progress = progress
        self._frontend = frontend
        self._llms = llms
        self._decoder = decoder
        self._intake = Intake(
            settings.engine, decoder, num_threads=settings.frontend.threads, when_revived=self._when_revived
        )
        stages: dict[str, Stage] = {
            "acoustic": decoder,
            **{f"{style} language model": llm for style, llm in llms.items()},
        }
        self._supervisor = Supervisor(stages, events, max_restarts=settings.engine.max_restarts)
        self._events = events
        self._phrases = PhraseBook(
            settings.short_text,
            prepare=self._prepare_phrase,
            open_stream=partial(self._intake.open_stream, SharedSpeech, of_caller=False),
            begin=self._begin_phrase,
        )
        self._backends = choose_backends(settings)
        for stage_name, backend in self._backends.items():
            logger.info("%s backend: %s", stage_name, backend)
        self._started_s = time.monotonic()
        self._is_closed = False
        for stage in stages.values():
            stage.on_death = self._supervisor.stage_died
        self._supervisor.start()

    @classmethod
    def load(
        cls, settings: Settings, events: EngineEvents = NO_EVENTS, progress: StartProgress = NO_PROGRESS
    ) -> TTSEngine:
        """Load the model directory of the settings (default: the built-in model) and start the threads.

        events is told what happens inside, progress how far recording CUDA graphs has come, also by `warm_up`. Raises
        CheckpointError for a wrong or incomplete directory, ConfigError for a device that is not there, for a GPU
        without room for the model, and for a file of quantisation that cannot be followed.
        """
        read_templates(settings.short_text.short_templates)  # a wrong file is refused before anything is loaded
        try:
            return cls(load_parts(settings, events, progress), events, progress)
        except BaseException:
            progress.close()
            raise

    def drain(self, timeout_s: float) -> bool:
        """Take no new requests and wait for those inside; False when some are still there after the time."""
        return self._intake.drain(timeout_s)

    def close(self) -> None:
        """Cancel what runs and stop the threads."""
        if self._is_closed:
            return
        self._is_closed = True
        self._intake.cancel_all()
        self._phrases.close()
        self._supervisor.close()
        self._intake.close()
        for llm in self._llms.values():
            llm.close()
        self._decoder.close()
        collector.unsettle()

    def __enter__(self) -> TTSEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def model_names(self) -> list[str]:
        """Language-model styles; the first is the default."""
        return list(self._llms)

    @property
    def is_ready(self) -> bool:
        """True while requests can be served: every stage lives and makes its steps, and the engine does not drain."""
        return self._complaint() is None and not self._intake.admission.is_stopped

    def health(self) -> dict[str, Any]:
        """A snapshot for health pages; cheap, takes no lock of the models."""
        admission = self._intake.admission
        return {
            "ready": self.is_ready,
            "error": self._complaint(),
            "draining": admission.is_stopped,
            "running": admission.num_running,
            "queued": admission.num_waiting,
            "restarts": self._supervisor.num_restarts,
            "model": self.model_name,
            "device": str(self._placement.device),
            "dtypes": self._placement.describe(),
            "backends": {stage: str(backend) for stage, backend in self._backends.items()},
            "llm": llm_health(self._llms.values()),
            "quantization": quantization_health(llm.memory for llm in self._llms.values()),
            "acoustic": acoustic_health(self._decoder),
            "voice_cache": asdict(self._frontend.voice_cache_stats()),
            "phrase_cache": asdict(self._phrases.stats()),
            "memory_plan": None if self._memory is None else self._memory.describe(),
            "resident_bytes": resident_bytes(),
            "uptime_s": round(time.monotonic() - self._started_s, 1),
        }

    def gpu_memory(self) -> dict[str, Any] | None:
        """Bytes used on the device; None on CPU. Asks the driver."""
        return gpu_memory(self._placement.device)

    def refusal(self) -> Overloaded | None:
        """What a new request would be refused with now; None when it would find a place."""
        return self._intake.admission.refusal()

    def watch_places(self, on_change: Callable[[], None]) -> None:
        """Have somebody told whenever there is a `refusal` or none any more. Any thread may tell."""
        self._intake.admission.on_change = on_change

    @property
    def stage_costs(self) -> list[Measured]:
        """(rows, frames of the longest row, seconds) of acoustic calls, as measured so far."""
        return self._decoder.costs.measured()

    def warm_up(self) -> None:
        """Run every stage once, so that the first listener does not pay for lazy set-up. Before the first request."""
        started_s = time.monotonic()
        decoder = self._decoder
        try:
            for lane in decoder.lanes:
                measure_costs(
                    lane.flow,
                    lane.vocoder,
                    lane.share.costs,
                    max_batch=lane.share.max_batch,
                    most_frames=lane.share.most_frames,
                    progress=self._progress,
                )
        finally:
            self._progress.close()
        for stream, text in zip((True, False), WARM_UP_TEXTS, strict=True):
            with self.submit(SynthesisRequest(text, stream=stream, seed=0)) as audio:
                for _ in audio:
                    pass
        if self._placement.device.type == "cuda":
            torch.cuda.empty_cache()  # what loading and warming up left behind; never while requests run
        collector.settle()
        logger.info("warmed up in %.1f s", time.monotonic() - started_s)

    def preload_phrases(self) -> None:
        """Begin to speak the configured short texts in the default voice, for the cache; returns at once."""
        names = self.voices.names()
        voice = self.settings.server.default_voice or (names[0] if len(names) == 1 else None)
        self._phrases.preload(read_templates(self.settings.short_text.short_templates), voice)

    # requests

    def submit(self, request: SynthesisRequest, *, trace: RequestTrace | None = None) -> AudioStream:
        """Start a request; returns at once. Raises Overloaded or InvalidRequest; later errors come by iteration.

        trace:  is filled while the request runs.
        """
        llm = self._llm_for(request.model)
        stream = self._intake.open_stream(AudioStream, request)
        if trace is None and self._phrases.takes(request):
            self._phrases.speak(request, stream)
            return stream

        def prepare(narration: Narration) -> None:
            self._speak(narration, llm, request, self._frontend.prepare(request))

        self._intake.begin(stream, prepare, trace, takes_place=not request.is_probe)
        return stream

    def open_text_stream(self, request: SynthesisRequest, *, trace: RequestTrace | None = None) -> TextAudioStream:
        """Start a request whose text arrives piece by piece (`feed`), while its audio already leaves."""
        llm = self._llm_for(request.model)

        def prepare(narration: Narration) -> None:
            stream = narration.stream
            assert isinstance(stream, TextAudioStream)
            prepared = self._frontend.prepare_text_stream(request)
            prompt = prepared.segments[0]
            narration.when_over(self._frontend.hold_voice(prepared.voice_id))
            self._bind(narration, request, prepared.flow_prompt)
            stream.connect(
                narration,
                text=self._frontend.text.open_text(request),
                open_run=lambda sink, index: llm.open_text_run(
                    prompt, sink, seed=narration.job.seed, run_index=index, sampling=request.sampling
                ),
            )

        stream = self._intake.open_stream(TextAudioStream, request)
        stream.max_text_chars = self.settings.frontend.max_text_chars
        self._intake.begin(stream, prepare, trace)
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

        stream = self._intake.open_stream(AudioStream, request)
        self._intake.begin(stream, prepare)
        return stream

    # inside

    def _complaint(self) -> str | None:
        return self._supervisor.complaint(self.settings.engine.stall_timeout_s)

    def _llm_for(self, model: str) -> SpeechTokenBackend:
        if model in ("", "default"):
            return next(iter(self._llms.values()))
        if model not in self._llms:
            raise UnknownModel(f"Unknown model '{model}'. Models: {', '.join(self._llms)}.", "tts_model_name")
        return self._llms[model]

    def _prepare_phrase(self, request: SynthesisRequest) -> tuple[PreparedRequest, bytes]:
        """A short text as the models read it, and the key of its speech. On the phrase book's thread."""
        with torch.inference_mode():
            prepared = self._frontend.prepare(request)
        style = next(iter(self._llms)) if request.model in ("", "default") else request.model
        steps = request.flow_steps or self.settings.acoustic.flow_steps
        engine = f"{self.model_name} {style} {self._placement.describe()}"
        return prepared, phrase_key(prepared, request, flow_steps=steps, engine=engine)

    def _begin_phrase(
        self, stream: SharedSpeech, request: SynthesisRequest, prepared: PreparedRequest, takes_place: bool
    ) -> None:
        llm = self._llm_for(request.model)
        self._intake.begin(
            stream, lambda narration: self._speak(narration, llm, request, prepared), takes_place=takes_place
        )

    def _speak(
        self, narration: Narration, llm: SpeechTokenBackend, request: SynthesisRequest, prepared: PreparedRequest
    ) -> None:
        narration.stream.stats.text_tokens = sum(len(segment.text_ids) for segment in prepared.segments)
        narration.when_over(self._frontend.hold_voice(prepared.voice_id))
        self._bind(narration, request, prepared.flow_prompt)
        for segment in prepared.segments:
            narration.add(partial(_start_run, llm, segment, request, narration.job.seed))
        narration.complete()

    def _when_revived(self, begin_again: Callable[[], None]) -> None:
        self._events.request_retried()
        self._supervisor.when_revived(begin_again)

    def _bind(self, narration: Narration, request: SynthesisRequest, prompt: FlowPrompt) -> None:
        seed = request.seed
        if seed is None:
            # Who decodes without dice wants the same audio every time, and the vocoder's noise has its dice too.
            seed = 0 if self.settings.llm.greedy else secrets.randbits(62)
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
    llm: SpeechTokenBackend, prompt: LLMPrompt, request: SynthesisRequest, seed: int, sink: TokenSink, index: int
) -> SpeechSource:
    return llm.submit(prompt, sink, seed=seed, run_index=index, sampling=request.sampling, is_live=request.stream)
