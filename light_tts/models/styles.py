"""`style_config.json`: several language models in one directory (spec: model_dir, section 4)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from light_tts.errors import CheckpointError, UnknownModel
from light_tts.models.checkpoint import find_weights
from light_tts.models.vocabulary import read_json

STYLE_FILENAME = "style_config.json"
SINGLE_STYLE = "cosyvoice"
DEFAULT_STYLE = "default"  # as a request says it


def read_styles(model_dir: Path) -> dict[str, Path]:
    """Name of each style -> its weight file, the default first; nothing is said about whether the files exist.

    Without the file there is one style, with `llm.pt`. Raises CheckpointError for a malformed list.
    """
    path = model_dir / STYLE_FILENAME
    if path.is_file():
        return parse_styles(path, model_dir)
    return {SINGLE_STYLE: find_weights(model_dir, "llm") or model_dir / "llm.pt"}


def parse_styles(path: Path, model_dir: Path) -> dict[str, Path]:
    """The styles of a `style_config.json`; relative paths belong to the model directory. Raises CheckpointError."""
    entries = read_json(path).get("lora_info")
    if not isinstance(entries, list) or not entries:
        raise CheckpointError(
            f"{path} has no list 'lora_info'; expected an entry with style_name and llm_path per style."
        )
    styles: dict[str, Path] = {}
    for entry in entries:
        name, weights = _entry(entry, path)
        if name in styles:
            raise CheckpointError(f"{path} names the style {name!r} twice; give each its own name.")
        styles[name] = model_dir / weights  # an absolute path stays itself
    return styles


def check_styles_inside(styles: dict[str, Path], model_dir: Path) -> None:
    """Raises CheckpointError for a style whose weights lie outside the model directory.

    Judged by the path as it is written: links inside the directory, as hub caches have them, may lead anywhere.
    """
    root = os.path.abspath(model_dir)
    for name, weights in styles.items():
        if os.path.commonpath([root, os.path.abspath(weights)]) != root:
            raise CheckpointError(
                f"{model_dir / STYLE_FILENAME} names {weights} for the style {name!r}, which is outside the model "
                "directory; move it inside, or allow it with styles_outside_model_dir."
            )


def choose_style(styles: dict[str, Path], name: str) -> str:
    """The style a request means; "default" and "" are the first. Raises UnknownModel listing the names there are."""
    if name in styles:
        return name
    if name in (DEFAULT_STYLE, ""):
        return next(iter(styles))
    raise UnknownModel(f"There is no model {name!r} here; available: {', '.join(styles)}.", field="model")


def _entry(entry: Any, path: Path) -> tuple[str, str]:
    if isinstance(entry, dict):
        name, weights = entry.get("style_name"), entry.get("llm_path", entry.get("gpt_model_path"))
        if isinstance(name, str) and name and isinstance(weights, str) and weights:
            return name, weights
    raise CheckpointError(f"{path} has an entry {str(entry)[:100]}; expected style_name and llm_path, both texts.")
