"""Checks of the front end: text, tokenizer, acoustic features of reference audio, and what each mode hands on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from light_tts.audio_input import AudioLimits
from light_tts.errors import BadAudio
from light_tts.frontend.features import (
    REFERENCE_RATE_HZ,
    fbank_frames,
    kaldi_fbank,
    log_mel_frames,
    prompt_mel,
    prompt_mel_frames,
    slaney_mel_filters,
    speaker_features,
    speech_token_count,
    whisper_log_mel,
)
from light_tts.frontend.normalize import TextNormalizer
from light_tts.frontend.number_reader import WetextReader
from light_tts.frontend.number_words import spell_out_numbers
from light_tts.frontend.resample import resample, resampled_length
from light_tts.frontend.split import SplitOptions, split
from light_tts.frontend.text_units import (
    contains_chinese,
    is_only_punctuation,
    remove_bracket,
    replace_blank,
    replace_corner_mark,
)
from light_tts.frontend.tokenizer import TextTokenizer
from light_tts.frontend.voice import decode_reference
from light_tts.settings import FrontendSettings
from light_tts.types import FRAMES_PER_TOKEN, SAMPLE_RATE_HZ
from light_tts.verify.mode_checks import check_modes, check_unnormalized
from light_tts.verify.report import Ledger

_GENERATIONS = {"v2": "cosyvoice2", "v3": "cosyvoice3"}
_LOG_MEL_TOLERANCE = 2e-4
_FBANK_TOLERANCE = 2e-3
_MEL_TOLERANCE = 1e-3
_RESAMPLE_TOLERANCE = 2e-6
_FILTER_TOLERANCE = 1e-6
_MEL_FMAX_HZ = {"cosyvoice2": 8000.0, "cosyvoice3": None}

_TEXT_UNITS: dict[str, Callable[[str], Any]] = {
    "replace_blank": replace_blank,
    "replace_corner_mark": replace_corner_mark,
    "remove_bracket": remove_bracket,
    "is_only_punctuation": is_only_punctuation,
    "contains_chinese": contains_chinese,
    "spell_out_number": spell_out_numbers,
}


def check_frontend(ledger: Ledger, tokenizer_dir: Path | None = None) -> None:
    """Check every file and case of a directory of front-end fixtures.

    tokenizer_dir:  holds the published vocabulary; without it the cases on that vocabulary are only noted.
    """
    ledger.opened("made_with.json", "mode_inputs.json", *(f"spk2info_{name}.pt" for name in _GENERATIONS.values()))
    tokenizers = _tiny_tokenizers(ledger)
    _check_tokenization(ledger, "tokenize_tiny.json", tokenizers)
    published = None
    if tokenizer_dir is not None:
        published = {name: TextTokenizer(tokenizer_dir, tiny.special_tokens) for name, tiny in tokenizers.items()}
        _check_tokenization(ledger, "tokenize_qwen2.json", published)
    else:
        ledger.opened("tokenize_qwen2.json")
        ledger.note("tokenize_qwen2", "needs the published vocabulary: give a model directory")
    _check_text_units(ledger)
    _check_splitting(ledger, tokenizers["v2"])
    _check_normalization(ledger, tokenizers["v2"], published["v2"] if published else None)
    _check_lengths(ledger)
    _check_resampling(ledger)
    _check_loading(ledger)
    _check_features(ledger)
    check_modes(ledger, {_GENERATIONS[name]: tokenizer for name, tokenizer in tokenizers.items()})


def check_prompt_mel(ledger: Ledger, fmax_hz: float | None) -> None:
    """Check `prompt_mel.safetensors` of an acoustic directory. fmax_hz: upper edge of the filters, None is Nyquist."""
    name = "prompt_mel.safetensors"
    wave = ledger.input(name, "wav")[0]
    ledger.compare(name, "mel", prompt_mel(wave, fmax_hz).T[None], _MEL_TOLERANCE)
    rows = ledger.input(name, "mel_basis_row_index")
    ledger.compare(name, "mel_basis_rows", slaney_mel_filters(fmax_hz)[rows], _FILTER_TOLERANCE)


def _tiny_tokenizers(ledger: Ledger) -> dict[str, TextTokenizer]:
    directory = ledger.directory / "tiny_tokenizer"
    ledger.opened(*(f"tiny_tokenizer/{name}" for name in ("vocab.json", "merges.txt", "tokenizer_config.json")))
    expected = _read(ledger, "special_ids_tiny.json")
    tokenizers = {}
    for name, generation in _GENERATIONS.items():
        ids = expected[generation]["ids"]
        tokenizer = TextTokenizer(directory, sorted(ids, key=ids.__getitem__))
        ledger.exact(f"special_ids_tiny/{generation}", tokenizer.special_ids, ids)
        ledger.exact(f"special_ids_tiny/{generation}/length", len(tokenizer), expected[generation]["length"])
        tokenizers[name] = tokenizer
    return tokenizers


def _check_tokenization(ledger: Ledger, filename: str, tokenizers: dict[str, TextTokenizer]) -> None:
    for index, case in enumerate(_read(ledger, filename)):
        for name, tokenizer in tokenizers.items():
            label = f"{filename.removesuffix('.json')}/{index}/{name}"
            ledger.exact(label, tokenizer.encode(case["text"]), case[name])
            if f"decode_{name}" in case:
                ledger.exact(f"{label}/decode", tokenizer.decode(case[name]), case[f"decode_{name}"])


def _check_text_units(ledger: Ledger) -> None:
    for index, case in enumerate(_read(ledger, "text_units.json")):
        actual = _TEXT_UNITS[case["fn"]](*case["args"])
        _exact_or_orderly(ledger, f"text_units/{index}/{case['fn']}", actual, case["out"])


def _check_splitting(ledger: Ledger, tokenizer: TextTokenizer) -> None:
    for index, case in enumerate(_read(ledger, "split_paragraph.json")):
        options = {name: case[name] for name in SplitOptions.__dataclass_fields__ if name in case}
        length = len if case["lang"] == "zh" else _counter(tokenizer)
        pieces = split(case["text"], case["lang"], length, SplitOptions(**options))
        _exact_or_orderly(ledger, f"split_paragraph/{index}", pieces, case["out"])


def _check_normalization(ledger: Ledger, tiny: TextTokenizer, published: TextTokenizer | None) -> None:
    plain = TextNormalizer(_counter(tiny), protections=False)
    reading = TextNormalizer(_counter(tiny), reader=WetextReader(), tags=tiny.user_tags)
    cases = _read(ledger, "normalize.json")
    for index, case in enumerate(cases):
        text, label = case["text"], f"normalize/{index}"
        ledger.exact(f"{label}/chinese", contains_chinese(text), case["chinese"])
        ledger.exact(f"{label}/only_punctuation", is_only_punctuation(text), case["only_punctuation"])
        _exact_or_orderly(ledger, f"{label}/plain/split", plain.pieces(text), case["plain"]["split"])
        _exact_or_orderly(ledger, f"{label}/plain/whole", plain.whole(text), case["plain"]["whole"])
        ledger.exact(f"{label}/wetext/split", reading.pieces(text), case["wetext"]["split"], informative=True)
        ledger.exact(f"{label}/wetext/whole", reading.whole(text), case["wetext"]["whole"], informative=True)
        if published is not None:
            pieces = TextNormalizer(_counter(published), protections=False).pieces(text)
            _exact_or_orderly(ledger, f"{label}/plain_split_qwen2", pieces, case["plain_split_qwen2"])
    if published is None:
        ledger.note("normalize/plain_split_qwen2", "needs the published vocabulary: give a model directory")

    check_unnormalized(ledger, tiny, cases)


def _check_lengths(ledger: Ledger) -> None:
    limit_s = FrontendSettings().max_prompt_s
    for case in _read(ledger, "lengths.json"):
        samples = case["samples_16k"]
        samples_24k = resampled_length(samples, REFERENCE_RATE_HZ, SAMPLE_RATE_HZ)
        frames = log_mel_frames(samples)
        tokens, mel_frames = speech_token_count(frames), prompt_mel_frames(samples_24k)
        actual = {
            "samples_16k": samples,
            "seconds": samples / REFERENCE_RATE_HZ,
            "whisper_frames": frames,
            "speech_tokens": tokens,
            "fbank_frames": fbank_frames(samples),
            "samples_24k": samples_24k,
            "mel_24k_frames": mel_frames,
            "accepted": samples / REFERENCE_RATE_HZ <= limit_s,
            "aligned_tokens": min(tokens, mel_frames // FRAMES_PER_TOKEN),
        }
        ledger.exact(f"lengths/{samples}", actual, case)


def _check_resampling(ledger: Ledger) -> None:
    name = "resample.safetensors"
    for key in ledger.tensors(name):
        if key.endswith(".in"):
            rates = key.removesuffix(".in")
            from_hz, to_hz = map(int, rates.split("_to_"))
            ledger.compare(name, f"{rates}.out", resample(ledger.input(name, key), from_hz, to_hz), _RESAMPLE_TOLERANCE)


def _check_loading(ledger: Ledger) -> None:
    name = "load_wav.safetensors"
    for stem in ("stereo", "mono_16k"):
        ledger.opened(f"{stem}.wav")
        mono, from_hz = decode_reference((ledger.directory / f"{stem}.wav").read_bytes(), AudioLimits())
        for to_hz in (REFERENCE_RATE_HZ, SAMPLE_RATE_HZ):
            ledger.compare(name, f"{stem}_{to_hz}", resample(mono, from_hz, to_hz), _RESAMPLE_TOLERANCE)
    ledger.opened("low_rate.wav")
    ledger.exact("low_rate.wav is refused", _is_refused(ledger.directory / "low_rate.wav"), True)


def _is_refused(path: Path) -> bool:
    try:
        decode_reference(path.read_bytes(), AudioLimits())
    except BadAudio:
        return True
    return False


def _check_features(ledger: Ledger) -> None:
    name = "features.safetensors"
    wave, short = ledger.input(name, "wav_16k"), ledger.input(name, "short_wav_16k")
    wave_24k = ledger.input(name, "wav_24k")
    ledger.compare(name, "wav_16k", resample(wave_24k, SAMPLE_RATE_HZ, REFERENCE_RATE_HZ), _RESAMPLE_TOLERANCE)
    ledger.compare(name, "whisper_logmel_128", whisper_log_mel(wave), _LOG_MEL_TOLERANCE)
    ledger.compare(name, "short_whisper_logmel_128", whisper_log_mel(short), _LOG_MEL_TOLERANCE)
    ledger.compare(name, "silence_whisper_logmel_128", whisper_log_mel(torch.zeros(1600)), _LOG_MEL_TOLERANCE)
    ledger.compare(name, "kaldi_fbank_raw", kaldi_fbank(wave), _FBANK_TOLERANCE)
    ledger.compare(name, "campplus_input", speaker_features(wave), _FBANK_TOLERANCE)
    ledger.compare(name, "short_campplus_input", speaker_features(short), _FBANK_TOLERANCE)
    for generation, fmax_hz in _MEL_FMAX_HZ.items():
        ledger.compare(name, f"mel_24k_{generation}", prompt_mel(wave_24k, fmax_hz), _MEL_TOLERANCE)


def _counter(tokenizer: TextTokenizer) -> Callable[[str], int]:
    return lambda text: len(tokenizer.encode(text))


def _exact_or_orderly(ledger: Ledger, name: str, actual: Any, expected: Any) -> None:
    """Where the reference raises, any result is right that speaks what there is and nothing else."""
    if isinstance(expected, dict) and "raises" in expected:
        ledger.exact(f"{name} (the reference raises)", isinstance(actual, str | list), True)
    else:
        ledger.exact(name, actual, expected)


def _read(ledger: Ledger, filename: str) -> Any:
    ledger.opened(filename)
    return json.loads((ledger.directory / filename).read_text("utf-8"))
