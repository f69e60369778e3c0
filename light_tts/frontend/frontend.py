"""prepare(request): text and voice in the terms of the models (spec: pipeline, section 1; frontend)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from light_tts.errors import InvalidRequest, Unsupported
from light_tts.frontend.modes import END_OF_PROMPT, choose_mode, instruction_prompt, split_prompt_head
from light_tts.frontend.normalize import TextNormalizer
from light_tts.frontend.reference_features import OnnxReferenceFeatures
from light_tts.frontend.registry import load_prompts, load_registry
from light_tts.frontend.text import TextFrontend
from light_tts.frontend.tokenizer import TextTokenizer
from light_tts.frontend.voice import VoiceCacheStats, VoiceExtractor
from light_tts.frontend.voice_prompts import PromptAlignment, VoicePrompts
from light_tts.frontend.voice_store import VoiceStore, default_voices_dir
from light_tts.settings import FrontendSettings
from light_tts.types import (
    FlowPrompt,
    LLMPrompt,
    Mode,
    PreparedRequest,
    ReferenceAudio,
    RegisteredVoice,
    SynthesisRequest,
    Voice,
)

if TYPE_CHECKING:
    from light_tts.models.model_dir import ModelDirectory

logger = logging.getLogger(__name__)

_KEPT_TRANSCRIPTS = 1024  # as text ids
_SHORT_TEXT_RATIO = 0.5  # of the transcript's length; shorter texts lose quality


class Extractor(Protocol):
    """Reads recordings; `VoiceExtractor`, or nothing but an error where the model cannot."""

    def extract(self, data: bytes) -> Voice:
        """The voice of a recording."""

    def speech_tokens(self, data: bytes) -> torch.Tensor:
        """[S] speech codes of a recording."""

    def hold(self, voice_id: str) -> Callable[[], None]:
        """Keep a remembered recording until the value is called."""

    def cache_stats(self) -> VoiceCacheStats:
        """How the memory of recordings does."""


class NoExtractor:
    """Stands in where a model directory lacks the models that read recordings."""

    def extract(self, data: bytes) -> Voice:
        """Raises Unsupported."""
        raise Unsupported(
            "This model directory has no speech tokenizer and speaker model, so recordings cannot be used; name a "
            "registered voice.",
            "voice",
        )

    def speech_tokens(self, data: bytes) -> torch.Tensor:
        """Raises Unsupported."""
        self.extract(data)
        raise AssertionError("unreachable")

    def hold(self, voice_id: str) -> Callable[[], None]:
        """Nothing is remembered."""
        return _nothing

    def cache_stats(self) -> VoiceCacheStats:
        """Nothing is remembered."""
        return VoiceCacheStats()


class Frontend:
    """Turns requests into what the models read. Holds no state of requests; safe from many threads.

    tokenizer:              text to ids.
    voices:                 voices by name.
    extractor:              recordings to voices and codes.
    settings:               limits and splitting.
    normalizer:             None makes the one for serving from the settings.
    default_prompt_prefix:  system sentence and end-of-prompt tag, put where a prompt lacks them; empty: none needed.
    needs_end_of_prompt:    True when every prompt must hold the end-of-prompt tag.
    prompt_alignment, chunk_tokens, first_hop_tokens:  see `VoicePrompts`.
    num_codes:              number of speech codes; voices with others belong to another model.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        voices: VoiceStore,
        extractor: Extractor,
        settings: FrontendSettings,
        *,
        normalizer: TextNormalizer | None = None,
        default_prompt_prefix: str = "",
        needs_end_of_prompt: bool = False,
        prompt_alignment: PromptAlignment = "aligned",
        chunk_tokens: int = 25,
        first_hop_tokens: int = 25,
        num_codes: int = 6561,
    ) -> None:
        self.tokenizer = tokenizer
        self.text = TextFrontend(tokenizer, settings, normalizer)
        self.voices = voices
        self._extractor = extractor
        self._default_prefix = default_prompt_prefix if needs_end_of_prompt else ""
        self._default_prefix_ids = self.text.encode(self._default_prefix)
        self._prompts = VoicePrompts(prompt_alignment, chunk_tokens=chunk_tokens, first_hop_tokens=first_hop_tokens)
        self._num_codes = num_codes
        self._transcript_ids = lru_cache(_KEPT_TRANSCRIPTS)(self._encode_transcript)

    def hold_voice(self, voice_id: str) -> Callable[[], None]:
        """Keep the features of a recording while a request speaks with it, until the value is called."""
        return self._extractor.hold(voice_id)

    def voice_cache_stats(self) -> VoiceCacheStats:
        """Of the reference recordings whose features are kept."""
        return self._extractor.cache_stats()

    @classmethod
    def from_model_directory(
        cls,
        directory: ModelDirectory,
        settings: FrontendSettings,
        *,
        prompt_alignment: PromptAlignment = "aligned",
        first_hop_tokens: int = 25,
    ) -> Frontend:
        """Assemble everything from an opened model directory. Raises CheckpointError for files that do not fit."""
        extractor: Extractor = NoExtractor()
        if directory.speech_tokenizer_path is not None and directory.speaker_encoder_path is not None:
            features = OnnxReferenceFeatures(
                directory.speech_tokenizer_path, directory.speaker_encoder_path, directory.prompt_mel_fmax_hz
            )
            extractor = VoiceExtractor(features, settings)
        builtin: dict[str, Voice] = {}
        if directory.speaker_registry_path is not None:
            builtin = load_registry(
                directory.speaker_registry_path, load_prompts(directory.path / "prompts" / "prompts.json")
            )
        voices_dir = settings.voices_dir or default_voices_dir()
        voices = VoiceStore(Path(voices_dir), builtin, extractor.extract, _revision(directory))
        return cls(
            TextTokenizer(directory.tokenizer_dir, directory.family.special_tokens),
            voices,
            extractor,
            settings,
            default_prompt_prefix=directory.family.default_prompt_prefix,
            needs_end_of_prompt=directory.family.needs_end_of_prompt,
            prompt_alignment=prompt_alignment,
            chunk_tokens=directory.chunk_tokens,
            first_hop_tokens=first_hop_tokens,
            num_codes=directory.values.num_codes,
        )

    def prepare(self, request: SynthesisRequest) -> PreparedRequest:
        """Everything the models need for a request whose text is known.

        Raises InvalidRequest (EmptyText, TextTooLong, BadAudio, UnknownVoice, Unsupported) naming what is wrong.
        """
        text = request.prepared_text or self.text.prepare(request)
        voice = self._voice(request)
        mode = _mode(request, voice)
        prompt_ids = self._prompt_text_ids(request, voice, mode)
        head_ids = text.head_ids or self._prefix_ids(mode)
        speech = self._prompt_speech(voice, mode)
        segments = [LLMPrompt(prompt_ids, head_ids + ids, speech, len(ids)) for ids in text.piece_ids]
        if prompt_ids and mode is Mode.ZERO_SHOT and segments[-1].num_counted_ids < _SHORT_TEXT_RATIO * len(prompt_ids):
            logger.debug("%s: the text is much shorter than the transcript, which may sound worse", request.request_id)
        return PreparedRequest(tuple(segments), self.flow_prompt(voice, mode), voice.id, mode)

    def prepare_text_stream(self, request: SynthesisRequest) -> PreparedRequest:
        """The prompt of a request whose text arrives later: one segment without text."""
        self.text.check(request.text, "text")
        voice = self._voice(request)
        mode = _mode(request, voice)
        # There is no separator between prompt and text, so a head for the text may as well end the prompt.
        prompt_ids = self._prompt_text_ids(request, voice, mode) + self._prefix_ids(mode)
        segment = LLMPrompt(prompt_ids, (), self._prompt_speech(voice, mode), 0)
        return PreparedRequest((segment,), self.flow_prompt(voice, mode), voice.id, mode)

    def source_tokens(self, audio: bytes) -> tuple[int, ...]:
        """Speech codes of a recording whose words another voice is to speak. Raises BadAudio, Unsupported."""
        return tuple(self._extractor.speech_tokens(audio).tolist())

    def prepare_voice(self, request: SynthesisRequest) -> FlowPrompt:
        """The flow's prompt alone, for voice conversion: the voice of the request, without any text."""
        voice = self._voice(request)
        return self.flow_prompt(voice, Mode.CROSS_LINGUAL if voice.has_prompt else Mode.PRESET)

    def flow_prompt(self, voice: Voice, mode: Mode) -> FlowPrompt:
        """What the flow is given of a voice; its key follows from the content and the alignment."""
        return self._prompts.flow_prompt(voice, mode)

    def _voice(self, request: SynthesisRequest) -> Voice:
        given = request.voice
        if isinstance(given, ReferenceAudio):
            voice = self._extractor.extract(given.data)
            words = given.prompt_text.strip() if given.prompt_text else None
            return voice if not words else _with_transcript(voice, words)
        if given is None:
            given = self.voices.default_for(request.text, request.language)
        if isinstance(given, RegisteredVoice):
            voice = _with_transcript(self.voices.get(given.name), given.prompt_text)
        else:
            voice = self.voices.get(given) if isinstance(given, str) else given
        self._check_voice(voice)
        return voice

    def _check_voice(self, voice: Voice) -> None:
        ids = voice.prompt_text_ids or ()
        highest = max(self._prompts.codes(voice), default=0)
        if highest >= self._num_codes or max(ids, default=0) >= len(self.tokenizer):
            raise InvalidRequest(
                f"The voice {voice.id!r} was made for another model; add it again from its recording.", "voice"
            )

    def _prompt_text_ids(self, request: SynthesisRequest, voice: Voice, mode: Mode) -> tuple[int, ...]:
        if mode is Mode.INSTRUCT:
            instruction = request.instruction or ""
            self.text.check(instruction, "instruction")
            return self.text.encode(instruction_prompt(instruction, self._default_prefix))
        if mode is not Mode.ZERO_SHOT:
            return ()
        if voice.prompt_text_ids is not None:
            ids = voice.prompt_text_ids
            if self._default_prefix and self.tokenizer.end_of_prompt_id not in ids:
                self._say_prefix_was_added(request)
                return self._default_prefix_ids + ids
            return ids
        transcript = voice.prompt_text or ""
        self.text.check(transcript, "prompt_text")
        if self._default_prefix and END_OF_PROMPT not in transcript:
            self._say_prefix_was_added(request)
        return self._transcript_ids(transcript, request.text_frontend)

    def _encode_transcript(self, transcript: str, is_read: bool) -> tuple[int, ...]:
        head, words = split_prompt_head(transcript)
        if is_read:
            words = self.text.read_transcript(words)
        return self.text.encode((head or self._default_prefix) + words)

    def _say_prefix_was_added(self, request: SynthesisRequest) -> None:
        logger.info(
            "%s: the transcript lacks the end-of-prompt tag; %r was put in front of it",
            request.request_id,
            self._default_prefix,
        )

    def _prefix_ids(self, mode: Mode) -> tuple[int, ...]:
        """Ids in front of every piece: the model's prefix, where no prompt has the tag."""
        return self._default_prefix_ids if mode in (Mode.CROSS_LINGUAL, Mode.PRESET) else ()

    def _prompt_speech(self, voice: Voice, mode: Mode) -> tuple[int, ...]:
        return self._prompts.codes(voice) if mode is Mode.ZERO_SHOT else ()


def _nothing() -> None:
    pass


def _mode(request: SynthesisRequest, voice: Voice) -> Mode:
    mode = choose_mode(request, voice)
    if mode is Mode.CROSS_LINGUAL and request.mode is None:
        logger.info("%s: without a transcript the voice only colours the speech (cross-lingual)", request.request_id)
    return mode


def _with_transcript(voice: Voice, words: str) -> Voice:
    return Voice(voice.id, voice.speaker, voice.tokens, voice.mel, prompt_text=words, language=voice.language)


def _revision(directory: ModelDirectory) -> str:
    """Identifies the models that read recordings, without reading them whole."""
    paths = (directory.speech_tokenizer_path, directory.speaker_encoder_path)
    sizes = [f"{path.name}={path.stat().st_size}" if path is not None else "none" for path in paths]
    return " ".join([directory.family.name, f"fmax={directory.prompt_mel_fmax_hz}", *sizes])
