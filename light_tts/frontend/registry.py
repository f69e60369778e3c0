"""Voices published with a model: `spk2info.pt`, and the list of built-in prompts (spec: frontend, section 3.7)."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from light_tts.errors import CheckpointError
from light_tts.frontend.voice import align
from light_tts.types import MEL_BINS, SPEAKER_DIM, Voice

logger = logging.getLogger(__name__)

_LANGUAGE_PREFIXES = ("zh", "en", "ja", "ko", "yue", "de", "fr", "es", "it", "ru")


def load_registry(path: Path, prompts: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Voice]:
    """All usable voices of a published registry, in file order; others are skipped with a warning.

    prompts:  name -> {"text", "language"} where known; the language otherwise comes from a name like "en_female".

    Read without running any code in it. Raises CheckpointError when the file is no registry.
    """
    try:
        entries = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on junk the unpickler raises whatever its first bytes happen to mean
        raise CheckpointError(f"The voice registry {path} cannot be read ({str(error)[:160]}).") from error
    if not isinstance(entries, dict):
        raise CheckpointError(
            f"The voice registry {path} holds a {type(entries).__name__}, expected a table of voices."
        )
    voices: dict[str, Voice] = {}
    for name, entry in entries.items():
        try:
            voices[_checked_name(name)] = _read_entry(name, entry, (prompts or {}).get(str(name), {}))
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            logger.warning("skipped voice %r of %s: %s", name, path, error)
    return voices


def load_prompts(path: Path) -> dict[str, dict[str, Any]]:
    """Transcripts and languages of built-in voices from `prompts.json`; empty when it is absent or unreadable."""
    if not path.is_file():
        return {}
    try:
        prompts = json.loads(path.read_text("utf-8"))
        return {str(name): dict(entry) for name, entry in prompts.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        logger.warning("ignored %s: %s", path, error)
        return {}


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise ValueError("its name is empty or no text")
    return name


def _read_entry(name: str, entry: Any, prompt: Mapping[str, Any]) -> Voice:
    if not isinstance(entry, dict):
        raise TypeError(f"the entry is a {type(entry).__name__}, expected a table")
    language = prompt.get("language") or _language_of_name(name)
    if "flow_prompt_speech_token" not in entry:
        if "embedding" not in entry:
            raise ValueError(f"unknown kind of entry (keys: {', '.join(map(str, list(entry)[:8]))})")
        nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(0, MEL_BINS)
        return Voice(name, _vector(entry["embedding"]), *nothing, language=language)
    tokens = _ids(entry["flow_prompt_speech_token"], entry.get("flow_prompt_speech_token_len"))
    mel = entry["prompt_speech_feat"].float().reshape(-1, MEL_BINS)
    if "prompt_speech_feat_len" in entry:
        mel = mel[: int(entry["prompt_speech_feat_len"].reshape(-1)[0])]
    tokens, mel = align(tokens, mel)
    if not tokens.shape[0] or not bool(torch.isfinite(mel).all()) or int(tokens.min()) < 0:
        raise ValueError("its prompt is empty or holds impossible values")
    text_ids = _ids(entry["prompt_text"], entry.get("prompt_text_len"))
    return Voice(
        id=name,
        speaker=_vector(entry["flow_embedding"]),
        tokens=tokens,
        mel=mel,
        prompt_text=prompt.get("text"),
        prompt_text_ids=tuple(text_ids.tolist()),
        language=language,
    )


def _ids(values: torch.Tensor, length: torch.Tensor | None) -> torch.Tensor:
    flat = values.reshape(-1).to(torch.int64)
    return flat if length is None else flat[: int(length.reshape(-1)[0])]


def _vector(values: torch.Tensor) -> torch.Tensor:
    vector = values.reshape(-1).float().clone()
    if vector.shape[0] != SPEAKER_DIM or not bool(torch.isfinite(vector).all()):
        raise ValueError(f"its speaker vector has {vector.shape[0]} numbers, expected {SPEAKER_DIM} finite ones")
    return vector


def _language_of_name(name: str) -> str | None:
    prefix = name.lower().replace("-", "_").split("_")[0]
    return prefix if prefix in _LANGUAGE_PREFIXES and prefix != name.lower() else None
