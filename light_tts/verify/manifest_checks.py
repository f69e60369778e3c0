"""Published key lists against ours: `manifest_<family>_<component>.json`, key to [shape, dtype]."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from light_tts.errors import InvalidRequest
from light_tts.models.manifests import published_shapes
from light_tts.verify.report import Row


def check_manifest(path: Path) -> list[Row]:
    """One row for the keys and one for the shapes of a published weight file.

    Raises InvalidRequest when the file's name says no family and component, CheckpointError for an unknown family.
    """
    parts = path.stem.split("_")
    if len(parts) != 3 or parts[2] not in ("llm", "flow", "hift"):
        raise InvalidRequest(f"{path.name} must be called manifest_<family>_<llm|flow|hift>.json", "golden")
    recorded = {key: tuple(shape) for key, (shape, _) in json.loads(path.read_text("utf-8")).items()}
    ours = {key: tuple(shape) for key, shape in published_shapes(parts[1], parts[2]).items()}  # type: ignore[arg-type]
    missing, surplus = recorded.keys() - ours.keys(), ours.keys() - recorded.keys()
    differing = [key for key in recorded.keys() & ours.keys() if recorded[key] != ours[key]]
    notes = [_list("we lack", missing), _list("only we have", surplus)]
    size = f"{len(recorded)} keys"
    return [
        Row(f"{path.stem} keys", size, None, None, not missing and not surplus, note="; ".join(filter(None, notes))),
        Row(f"{path.stem} shapes", size, None, None, not differing, note=_list("differ", differing)),
    ]


def _list(what: str, keys: Iterable[str]) -> str:
    found = sorted(keys)
    return f"{what} {len(found)}: {', '.join(found[:3])}" if found else ""
