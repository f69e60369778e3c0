"""Keys and shapes of the published weight files, written compactly as data (spec: llm 2, flow 10, vocoder 2)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from typing import Any

from light_tts.models.family import Component, family_named


def published_shapes(family_name: str, component: Component) -> dict[str, tuple[int, ...]]:
    """Key -> shape of every tensor of a published weight file, in the published order.

    Raises CheckpointError for an unknown family.
    """
    family_named(family_name)
    text = resources.files(__name__).joinpath(f"{family_name}.json").read_text(encoding="utf-8")
    return {key: tuple(shape) for key, shape in _expand("", json.loads(text)[component])}


def _expand(prefix: str, block: dict[str, Any]) -> Iterator[tuple[str, list[int]]]:
    """`{0..3}` counts, `{a,b}` lists; a nested block belongs under each of its names in turn."""
    for pattern, content in block.items():
        for name in _names(pattern):
            if isinstance(content, dict):
                yield from _expand(f"{prefix}{name}.", content)
            else:
                yield prefix + name, content


def _names(pattern: str) -> list[str]:
    before, opening, after = pattern.partition("{")
    if not opening:
        return [pattern]
    inside, _, rest = after.partition("}")
    first, counted, last = inside.partition("..")
    choices = [str(number) for number in range(int(first), int(last) + 1)] if counted else inside.split(",")
    return [before + choice + name for choice in choices for name in _names(rest)]
