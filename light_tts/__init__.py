"""Light TTS: text to speech for many listeners at once.

Importing this package loads no torch; the heavy parts come with the names that need them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from light_tts.engine import TTSEngine
    from light_tts.settings import Settings
    from light_tts.types import AudioChunk, Mode, SynthesisRequest, Voice

__all__ = ["AudioChunk", "Mode", "Settings", "SynthesisRequest", "TTSEngine", "Voice", "__version__"]

_HOME = {
    "TTSEngine": "light_tts.engine",
    "Settings": "light_tts.settings",
    "AudioChunk": "light_tts.types",
    "Mode": "light_tts.types",
    "SynthesisRequest": "light_tts.types",
    "Voice": "light_tts.types",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'light_tts' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
