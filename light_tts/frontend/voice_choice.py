"""Which voice is meant, by names and languages alone. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from light_tts.errors import UnknownVoice
from light_tts.frontend.text_units import language_of_script

_LISTED = 30  # names in an error message
_FALLBACK_LANGUAGE = "en"


def default_voice_name(builtin: Mapping[str, str | None], text: str, language: str = "auto") -> str | None:
    """The built-in voice to use when none is asked for: the first of the text's language; None when there are none.

    builtin:   name -> language, in order.
    language:  "auto" looks at the script. Languages without a voice get the first English one, else the first.
    """
    wanted = language_of_script(text) if language == "auto" else language
    for candidate in ({"yue": "zh"}.get(wanted, wanted), _FALLBACK_LANGUAGE):
        for name, spoken in builtin.items():
            if spoken == candidate:
                return name
    return next(iter(builtin), None)


def no_builtin_voice(names: Sequence[str]) -> UnknownVoice:
    """What to raise when a voice has to be chosen and the model has none of its own."""
    return UnknownVoice(
        f"This model has no voices of its own; name a voice or send a recording. Voices: {listed(names)}.", "voice"
    )


def unknown_voice(name: str, names: Sequence[str]) -> UnknownVoice:
    """What to raise for a name that is not among those there are."""
    return UnknownVoice(f"Unknown voice {name[:80]!r}. Voices: {listed(names)}.", "voice")


def listed(names: Sequence[str]) -> str:
    """Names for a message."""
    return (", ".join(names[:_LISTED]) or "none is registered") + (", ..." if len(names) > _LISTED else "")
