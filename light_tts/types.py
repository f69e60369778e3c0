"""The nouns of the pipeline, typed, frozen where nothing changes. Imports no torch at run time.

Shape letters, used in the whole package: B batch, T text ids, S speech tokens, P prompt speech tokens,
M mel frames, N samples, C channels, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

TOKEN_RATE_HZ = 25  # speech tokens per second
FRAMES_PER_TOKEN = 2  # mel frames per speech token
SAMPLES_PER_FRAME = 480  # 20 ms
SAMPLE_RATE_HZ = 24_000
SAMPLES_PER_TOKEN = FRAMES_PER_TOKEN * SAMPLES_PER_FRAME  # 960 samples = 40 ms
MEL_BINS = 80
SPEAKER_DIM = 192


class Mode(StrEnum):
    """What the language model is given besides the text (spec: pipeline, section 1)."""

    ZERO_SHOT = "zero_shot"  # transcript and speech tokens of the prompt
    CROSS_LINGUAL = "cross_lingual"  # the prompt only colours the voice
    INSTRUCT = "instruct"  # an instruction in place of the transcript
    PRESET = "preset"  # speaker vector only, no prompt at all


class FinishReason(StrEnum):
    """Why a run of speech tokens ended."""

    STOP = "stop"  # the model said so
    LENGTH = "length"  # the limit of tokens per text id
    ABORT = "abort"  # cancelled


@dataclass(frozen=True, eq=False)
class Voice:
    """Everything the models need to speak with one voice. Never changed by a request.

    id:               registered name, or "sha256:<hex>" of the reference audio.
    speaker:          [192] float32 speaker embedding, not normalised.
    tokens:           [P] int64 speech tokens of the reference; P = 0 for preset voices.
    mel:              [2P, 80] float32 log-mel of the reference at 24 kHz.
    prompt_text:      transcript of the reference as given; None when unknown.
    prompt_text_ids:  the transcript already tokenised (imported registries keep only this); wins over `prompt_text`.
    language:         "zh", "en", ... or None.
    """

    id: str
    speaker: torch.Tensor
    tokens: torch.Tensor
    mel: torch.Tensor
    prompt_text: str | None = None
    prompt_text_ids: tuple[int, ...] | None = None
    language: str | None = None

    @property
    def has_prompt(self) -> bool:
        """True when the voice has reference speech, False when it is a speaker vector only."""
        return int(self.tokens.shape[0]) > 0

    @property
    def has_transcript(self) -> bool:
        """True when the words of the reference are known."""
        return bool(self.prompt_text) or bool(self.prompt_text_ids)


@dataclass(frozen=True)
class RegisteredVoice:
    """A registered voice spoken with another transcript than the registered one."""

    name: str
    prompt_text: str


@dataclass(frozen=True, eq=False)
class ReferenceAudio:
    """A reference recording as it came: a whole file in any common container."""

    data: bytes
    prompt_text: str | None = None


@dataclass(frozen=True)
class SamplingOptions:
    """Per-request changes to the checkpoint's own sampling values; None keeps the checkpoint's."""

    top_p: float | None = None
    top_k: int | None = None
    temperature: float | None = None  # None is 1.0; the published sampler has none
    greedy: bool = False


@dataclass(frozen=True)
class PreparedText:
    """A text read, split and encoded.

    head_ids:   text ids up to the end-of-prompt tag, where the text brings one.
    piece_ids:  text ids of each piece that is spoken.
    """

    head_ids: tuple[int, ...]
    piece_ids: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class SynthesisRequest:
    """One request as it leaves the door: everything the engine needs to know, nothing about HTTP.

    text:           what to say. Empty for bi-stream requests, where text arrives later.
    voice:          a registered name, the same with another transcript, a Voice, a recording, or None for the built-in
                    voice of the text's language.
    mode:           None chooses: instruct if there is an instruction, preset for vector-only voices,
                    cross-lingual without a transcript, else zero-shot.
    speed:          0.25 to 4.0; 1.0 unchanged. Resamples the mel in time.
    seed:           None draws one; the same seed gives the same audio whatever else is running.
    flow_steps:     Euler steps of the flow, None for the configured default (10).
    text_frontend:  False passes the text to the tokenizer as written, in one piece.
    language:       hint to the normaliser; "auto" looks at the script.
    timeout_s:      ends the request earlier than the configured limit does; None leaves it at that.
    prepared_text:  `text` where that was prepared already; None has it prepared.
    phrase_cache:   True: a short text in a registered voice may be answered from the cache of phrases, and is kept
                    there; False: never; None: as configured (short_cache_all). A given seed always means never.
    is_probe:       of a health check: served at once, beside the places that others wait for.
    caller:         who asks, where requests are counted by caller; None: not counted.
    """

    text: str
    voice: str | RegisteredVoice | Voice | ReferenceAudio | None = None
    mode: Mode | None = None
    instruction: str | None = None
    stream: bool = True
    speed: float = 1.0
    seed: int | None = None
    flow_steps: int | None = None
    text_frontend: bool = True
    language: str = "auto"
    model: str = "default"
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    timeout_s: float | None = None
    prepared_text: PreparedText | None = None
    phrase_cache: bool | None = None
    is_probe: bool = False
    caller: str | None = None
    request_id: str = ""


@dataclass(frozen=True)
class LLMPrompt:
    """Input of one language-model run (spec: llm, section 4).

    prompt_text_ids:   transcript of the reference, or the instruction.
    text_ids:          what to say; empty for bi-stream runs, whose text arrives later.
    prompt_speech:     speech tokens of the reference.
    num_counted_ids:   ids of `text_ids` that count for the length limits (prefixes do not).
    """

    prompt_text_ids: tuple[int, ...]
    text_ids: tuple[int, ...]
    prompt_speech: tuple[int, ...]
    num_counted_ids: int


@dataclass(frozen=True, eq=False)
class FlowPrompt:
    """What the flow is conditioned on: the voice, as the acoustic model sees it.

    key:      identifies the content; equal keys may share cached states.
    tokens:   [P] int64; P may be 0.   mel: [2P, 80] float32.   speaker: [192] float32.
    """

    key: str
    tokens: torch.Tensor
    mel: torch.Tensor
    speaker: torch.Tensor


@dataclass(frozen=True, eq=False)
class PreparedRequest:
    """A request in the terms of the models: what the frontend hands to the engine."""

    segments: tuple[LLMPrompt, ...]
    flow_prompt: FlowPrompt
    voice_id: str
    mode: Mode


@dataclass(frozen=True, eq=False)
class AudioChunk:
    """A piece of finished audio.

    samples:   [N] float32 at 24 kHz within [-1, 1].
    is_last:   True on the last chunk of the request (which may be empty).
    """

    samples: np.ndarray
    is_last: bool = False


class TokenSink(Protocol):
    """Receives the speech tokens of one language-model run, on the language model's thread; must not block."""

    def put(self, tokens: Sequence[int]) -> None:
        """Speech codes below S that reach the acoustic model, in order."""

    def end(self, reason: FinishReason) -> None:
        """No more tokens will come."""

    def fail(self, error: Exception) -> None:
        """The run ended with an error; no more tokens will come."""


@dataclass
class RequestStats:
    """What one request cost; filled in as it runs, complete when its audio has ended. Times are milliseconds.

    first_chunk_ms:   from submission to the first audio; None until then.
    queue_ms:         waiting for a place before any work.
    llm_ms, flow_ms, vocoder_ms:  this request's share of the time of the stages: a call's time, divided by those it
                      served together.
    prompt_s:         speech of the voice that the models are conditioned on.
    is_voice_cached:  the flow's states of the voice were there already; None until that is known.
    is_phrase_cached: the whole answer was there already; None for requests that were not looked up.
    retries:          times the request was begun again because a stage had died.
    """

    queue_ms: float = 0.0
    prepare_ms: float = 0.0
    first_chunk_ms: float | None = None
    total_ms: float | None = None
    chunks: int = 0
    audio_s: float = 0.0
    segments: int = 0
    text_tokens: int = 0
    speech_tokens: int = 0
    llm_ms: float = 0.0
    flow_ms: float = 0.0
    vocoder_ms: float = 0.0
    prompt_s: float = 0.0
    is_voice_cached: bool | None = None
    is_phrase_cached: bool | None = None
    retries: int = 0
    finish: str = ""  # stop | length | abort | error

    @property
    def rtf(self) -> float | None:
        """Real-time factor: processing time over audio duration; below 1 is faster than speech."""
        if self.total_ms is None or not self.audio_s:
            return None
        return self.total_ms / 1000.0 / self.audio_s
