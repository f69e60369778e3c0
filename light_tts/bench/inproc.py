"""Asks an engine in this process, without a web stack: what the engine alone can do."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import numpy as np

from light_tts.bench.target import Piece, RequestFailed, SpeechOptions, SpeechRequest
from light_tts.errors import LightTTSError
from light_tts.types import SAMPLE_RATE_HZ, ReferenceAudio, SynthesisRequest

if TYPE_CHECKING:
    from light_tts.engine import TTSEngine


class EngineTarget:
    """A TTSEngine as a target. Its threads share this process with the load generator, as they would with a server."""

    def __init__(self, engine: TTSEngine, options: SpeechOptions) -> None:
        self._engine = engine
        self._options = options
        self._voice: str | ReferenceAudio | None = options.voice
        if options.prompt_audio is not None:
            self._voice = ReferenceAudio(options.prompt_audio, options.prompt_text)

    async def speak(self, request: SpeechRequest) -> AsyncGenerator[Piece, None]:
        """Submit the request and yield its audio; a buffered one in one piece, at its end. Raises RequestFailed."""
        try:
            stream = self._engine.submit(
                SynthesisRequest(
                    text=request.text,
                    voice=self._voice,
                    stream=self._options.stream,
                    seed=request.seed,
                    model=self._options.model or "default",
                )
            )
            kept: list[np.ndarray] = []
            async with stream:
                async for chunk in stream:
                    if not self._options.stream:
                        kept.append(chunk.samples)
                    elif chunk.samples.size:
                        yield Piece(chunk.samples, SAMPLE_RATE_HZ)
        except LightTTSError as error:
            raise RequestFailed(error.code, str(error)) from None
        if kept:
            yield Piece(np.concatenate(kept), SAMPLE_RATE_HZ)
