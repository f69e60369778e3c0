"""One named voice on disk: `<name>.safetensors` with the tensors and `<name>.json` with the rest. No pickle."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from light_tts.types import FRAMES_PER_TOKEN, MEL_BINS, SPEAKER_DIM, Voice

_FORMAT = 1
Signature = tuple[int, int]


class UnreadableVoice(Exception):
    """The files of a voice are incomplete, damaged, or made for another model; the text says which."""


def write_voice(directory: Path, name: str, voice: Voice, revision: str, consent: str | None = None) -> None:
    """Write both files, each complete or not at all; the JSON last, so that it vouches for the tensors.

    revision:  identifies the models that read the recording; another model cannot use what they found.
    consent:   what was said about the speaker's consent; kept for people to read.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {"speaker": voice.speaker, "tokens": voice.tokens, "mel": voice.mel}
    blob = save({key: value.contiguous() for key, value in tensors.items()})
    described: dict[str, Any] = {
        "format": _FORMAT,
        "revision": revision,
        "sha256": hashlib.sha256(blob).hexdigest(),
        "prompt_text": voice.prompt_text,
        "prompt_text_ids": voice.prompt_text_ids,
        "language": voice.language,
        "consent": consent,
    }
    _write_atomically(tensor_path(directory, name), blob)
    text = json.dumps(described, ensure_ascii=False, indent=1)
    _write_atomically(description_path(directory, name), text.encode("utf-8"))


def read_voice(directory: Path, name: str, revision: str) -> Voice:
    """Read a voice back. Raises UnreadableVoice."""
    try:
        described = json.loads(description_path(directory, name).read_text("utf-8"))
        blob = tensor_path(directory, name).read_bytes()
        if described["format"] != _FORMAT:
            raise UnreadableVoice(f"format {described['format']!r} is not known, expected {_FORMAT}")
        if described["sha256"] != hashlib.sha256(blob).hexdigest():
            raise UnreadableVoice("the tensors are not those the description was written for")
        if described["revision"] != revision:
            raise UnreadableVoice("it was made with another model; add it again with this one")
        tensors = load(blob)
        ids = described["prompt_text_ids"]
        voice = Voice(
            id=name,
            speaker=tensors["speaker"].float(),
            tokens=tensors["tokens"].to(torch.int64),
            mel=tensors["mel"].float(),
            prompt_text=described["prompt_text"],
            prompt_text_ids=None if ids is None else tuple(int(value) for value in ids),
            language=described["language"],
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UnreadableVoice(f"{type(error).__name__}: {str(error)[:160]}") from error
    _check(voice)
    return voice


def delete_voice(directory: Path, name: str) -> None:
    """Remove both files, the description first; files that are gone already are fine."""
    description_path(directory, name).unlink(missing_ok=True)
    tensor_path(directory, name).unlink(missing_ok=True)


def names_on_disk(directory: Path) -> set[str]:
    """Names with at least one of their two files, so that half a voice is noticed too."""
    try:
        files = list(directory.iterdir())
    except OSError:
        return set()
    return {path.name.rsplit(".", 1)[0] for path in files if path.suffix in (".json", ".safetensors")}


def file_signature(directory: Path, name: str) -> Signature:
    """Changes whenever one of the two files does."""
    return _modified_ns(description_path(directory, name)), _modified_ns(tensor_path(directory, name))


def description_path(directory: Path, name: str) -> Path:
    """Of the JSON."""
    return directory / f"{name}.json"


def tensor_path(directory: Path, name: str) -> Path:
    """Of the safetensors."""
    return directory / f"{name}.safetensors"


def _modified_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _check(voice: Voice) -> None:
    count = voice.tokens.shape[0]
    shapes = tuple(voice.speaker.shape), tuple(voice.tokens.shape), tuple(voice.mel.shape)
    if shapes != ((SPEAKER_DIM,), (count,), (FRAMES_PER_TOKEN * count, MEL_BINS)):
        raise UnreadableVoice(f"tensors of shapes {shapes} are no voice")
    if not all(bool(torch.isfinite(values).all()) for values in (voice.speaker, voice.mel)):
        raise UnreadableVoice("it holds numbers that are not finite")
    if count and int(voice.tokens.min()) < 0:
        raise UnreadableVoice("it holds negative speech tokens")


def _write_atomically(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
