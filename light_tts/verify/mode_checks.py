"""Checks of what each mode hands to the models, through the real front end with a scripted reading of recordings."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from light_tts.errors import EmptyText
from light_tts.frontend.frontend import Frontend
from light_tts.frontend.modes import END_OF_PROMPT
from light_tts.frontend.normalize import TextNormalizer
from light_tts.frontend.registry import load_registry
from light_tts.frontend.tokenizer import TextTokenizer
from light_tts.frontend.voice import VoiceExtractor
from light_tts.frontend.voice_store import VoiceStore
from light_tts.settings import FrontendSettings
from light_tts.types import Mode, PreparedRequest, ReferenceAudio, SynthesisRequest, Voice
from light_tts.verify.report import Ledger

_SETTINGS = FrontendSettings(min_prompt_s=0.1)  # the fixtures' recordings are short
_SUM_TOLERANCE = 1e-3
_REGISTERED = "zs"
_PRESET = "sft"
_REFERENCE_FAULT = "instruct2_registered"  # the reference ignores the instruction of a registered voice


def check_modes(ledger: Ledger, tokenizers: Mapping[str, TextTokenizer]) -> None:
    """`mode_inputs.json` and the registries beside it. tokenizers: by the generation's name in the file."""
    expected = json.loads((ledger.directory / "mode_inputs.json").read_text("utf-8"))
    for generation, tokenizer in tokenizers.items():
        inputs = expected[f"{generation}.inputs"]
        voices = load_registry(ledger.directory / f"spk2info_{generation}.pt")
        ledger.exact(f"spk2info_{generation}/names", list(voices), [_REGISTERED, _PRESET])
        head, _, words = inputs["prompt_text"].rpartition(END_OF_PROMPT)
        frontend = _scripted_frontend(ledger, tokenizer, voices, inputs, f"{head}{END_OF_PROMPT}" if head else "")
        requests = _requests(ledger, inputs, words)
        for name, case in expected.items():
            model, _, mode = name.partition(".")
            if model == generation and mode in requests:
                _check_mode(ledger, name, frontend.prepare(requests[mode]), case)
        conversion = f"{generation}.vc"
        _check_conversion(ledger, frontend, inputs, f"mode_inputs/{conversion}", expected[conversion])


def check_unnormalized(ledger: Ledger, tokenizer: TextTokenizer, cases: Sequence[Mapping[str, Any]]) -> None:
    """Texts with `text_frontend` off: as written, in one piece; those without a word are refused."""
    voice = Voice("v", torch.zeros(192), torch.zeros(1, dtype=torch.int64), torch.zeros(2, 80))
    frontend = _frontend(tokenizer, {}, VoiceExtractor(_ScriptedFeatures((), voice, 0), _SETTINGS), "")
    for index, case in enumerate(cases):
        request = SynthesisRequest(case["text"], voice=voice, text_frontend=False)
        try:
            actual = [list(segment.text_ids) for segment in frontend.prepare(request).segments]
        except EmptyText:
            actual = []
        speakable = any(char.isalnum() for char in case["text"])
        wanted = [tokenizer.encode(text) for text in case["off"]] if speakable else []
        ledger.exact(f"normalize/{index}/off", actual, wanted)


def _requests(ledger: Ledger, inputs: Mapping[str, Any], words: str) -> dict[str, SynthesisRequest]:
    recording = ReferenceAudio((ledger.directory / "stereo.wav").read_bytes())
    text, instruction = inputs["tts_text"], inputs["instruct_text"]
    heard = SynthesisRequest(text, voice=recording)
    registered = SynthesisRequest(text, voice=_REGISTERED)
    # The transcript goes without the model's prefix, which the front end is to add.
    return {
        "zero_shot": replace(heard, voice=replace(recording, prompt_text=words)),
        "zero_shot_registered": registered,
        "cross_lingual": heard,
        "cross_lingual_registered": replace(registered, mode=Mode.CROSS_LINGUAL),
        "instruct2": replace(heard, instruction=instruction),
        "instruct2_registered": replace(registered, instruction=instruction),
        "sft": SynthesisRequest(text, voice=_PRESET),
    }


def _check_mode(ledger: Ledger, name: str, prepared: PreparedRequest, case: Mapping[str, Any]) -> None:
    informative = name.endswith(_REFERENCE_FAULT)
    ledger.exact(f"mode_inputs/{name}/segments", len(prepared.segments), 1)
    segment, flow = prepared.segments[0], prepared.flow_prompt
    text_ids = segment.text_ids
    if prepared.mode is Mode.PRESET:
        # The reference hands on the bare text, which a model that needs a prefix then refuses; ours has the prefix.
        text_ids = text_ids[-segment.num_counted_ids :]
    for field, actual in (
        ("text", text_ids),
        ("prompt_text", segment.prompt_text_ids),
        ("llm_prompt_speech_token", segment.prompt_speech),
        ("flow_prompt_speech_token", tuple(flow.tokens.tolist())),
    ):
        expected = tuple(case[field]["values"]) if field in case else ()
        is_fault = informative and field == "prompt_text"
        ledger.exact(f"mode_inputs/{name}/{field}", actual, expected, informative=is_fault)
    frames = case["prompt_speech_feat"]["shape"][1] if "prompt_speech_feat" in case else 0
    ledger.exact(f"mode_inputs/{name}/mel_frames", flow.mel.shape[0], frames)
    _check_sum(ledger, f"mode_inputs/{name}/mel", flow.mel, case.get("prompt_speech_feat"))
    _check_sum(ledger, f"mode_inputs/{name}/speaker", flow.speaker, case["flow_embedding"])


def _check_conversion(
    ledger: Ledger, frontend: Frontend, inputs: Mapping[str, Any], name: str, case: Mapping[str, Any]
) -> None:
    prompt = frontend.prepare_voice(SynthesisRequest("", voice=_REGISTERED))
    ledger.exact(f"{name}/prompt", prompt.tokens.tolist(), case["flow_prompt_speech_token"]["values"])
    frames = case["prompt_speech_feat"]["shape"][1]
    ledger.exact(f"{name}/mel_frames", prompt.mel.shape[0], frames, informative=True)
    _check_sum(ledger, f"{name}/speaker", prompt.speaker, case["flow_embedding"])
    voice = frontend.voices.get(_REGISTERED)
    source = _ScriptedFeatures(inputs["source_speech_tokens"], voice, inputs["extracted_mel_frames"])
    reader = _frontend(frontend.tokenizer, {}, VoiceExtractor(source, _SETTINGS), "")
    codes = list(reader.source_tokens((ledger.directory / "mono_16k.wav").read_bytes()))
    ledger.exact(f"{name}/source", codes, case["source_speech_token"]["values"])


def _check_sum(ledger: Ledger, name: str, values: torch.Tensor, case: Mapping[str, Any] | None) -> None:
    expected = case["sum"] if case is not None else 0.0
    ledger.exact(f"{name}/sum", abs(float(values.double().sum()) - expected) < _SUM_TOLERANCE, True)


class _ScriptedFeatures:
    """Says what the fixtures say was read of the recording, whatever it holds."""

    def __init__(self, tokens: Sequence[int], voice: Voice, num_mel_frames: int) -> None:
        self._tokens = torch.tensor(list(tokens), dtype=torch.int64)
        self._voice = voice
        self._num_mel_frames = num_mel_frames

    def speech_tokens(self, wave_16k: torch.Tensor) -> torch.Tensor:
        """The scripted codes."""
        return self._tokens

    def speaker(self, wave_16k: torch.Tensor) -> torch.Tensor:
        """That of the registered voice."""
        return self._voice.speaker

    def mel(self, wave_24k: torch.Tensor) -> torch.Tensor:
        """That of the registered voice, with the surplus frames that were read."""
        surplus = torch.full((self._num_mel_frames - self._voice.mel.shape[0], 80), 1e3)
        return torch.cat((self._voice.mel, surplus))


def _scripted_frontend(
    ledger: Ledger, tokenizer: TextTokenizer, voices: Mapping[str, Voice], inputs: Mapping[str, Any], prefix: str
) -> Frontend:
    features = _ScriptedFeatures(inputs["extracted_speech_tokens"], voices[_REGISTERED], inputs["extracted_mel_frames"])
    return _frontend(tokenizer, voices, VoiceExtractor(features, _SETTINGS), prefix)


def _frontend(
    tokenizer: TextTokenizer, voices: Mapping[str, Voice], extractor: VoiceExtractor, prefix: str
) -> Frontend:
    nowhere = Path(tempfile.gettempdir()) / "light-tts-verify-has-no-voices"
    return Frontend(
        tokenizer,
        VoiceStore(nowhere, voices, extractor.extract),
        extractor,
        _SETTINGS,
        normalizer=TextNormalizer(lambda text: len(tokenizer.encode(text)), protections=False),
        default_prompt_prefix=prefix,
        needs_end_of_prompt=bool(prefix),
        prompt_alignment="exact",
    )
