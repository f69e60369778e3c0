"""The model that comes with the package, so that the first sentence needs no download."""

from __future__ import annotations

from pathlib import Path


def builtin_model_dir() -> Path:
    """Directory of the built-in model, in the published layout; an ordinary model directory like any other."""
    return Path(__file__).parent / "builtin"
