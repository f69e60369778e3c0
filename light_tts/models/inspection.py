"""What is in a model directory, file by file: does each file fit, are its numbers finite, and what is it all together.

Goes on after a problem, so that one look shows all of them. Knows nothing of how the findings are shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from light_tts.errors import CheckpointError
from light_tts.models.checkpoint import first_not_finite, load_weights, read_torch_file, require_content
from light_tts.models.family import Component
from light_tts.models.manifests import published_shapes
from light_tts.models.model_dir import (
    SPEAKER_ENCODER_FILENAME,
    SPEAKER_REGISTRY_FILENAME,
    TOKENIZER_DIRNAME,
    ModelDirectory,
)
from light_tts.models.vocabulary import END_OF_PROMPT

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. A summary states a fact; anything else is right or wrong.

    size:  of what was looked at, in words: "295 tensors", "28 MB".
    """

    name: str
    size: str
    ok: bool
    note: str = ""
    is_summary: bool = False


def inspect_model_dir(path: Path | str) -> list[Finding]:
    """Look at everything in a model directory. Loads each network once, on the CPU, one at a time.

    Never raises for what is wrong with the directory: that is a finding.
    """
    try:
        directory = ModelDirectory.open(path, styles_outside=True)
    except CheckpointError as error:
        return [Finding("directory", "-", ok=False, note=str(error))]
    findings = [
        Finding("family", directory.family.name, ok=True, note=f"in {directory.path}", is_summary=True),
        Finding(directory.family.config_filename, f"{len(directory.config)} keys", ok=True),
        _tokenizer(directory),
    ]
    for style, weights in directory.styles.items():
        findings += _weights(directory, "llm", weights, partial(directory.load_llm, style), f"style {style!r}")
    findings += _weights(directory, "flow", directory.flow_path, directory.load_flow)
    findings += _weights(directory, "hift", directory.hift_path, directory.load_vocoder)
    return [*findings, *_optional_files(directory)]


def _tokenizer(directory: ModelDirectory) -> Finding:
    try:
        ids = directory.special_token_ids
    except CheckpointError as error:
        return Finding(TOKENIZER_DIRNAME, "-", ok=False, note=str(error))
    return Finding(
        TOKENIZER_DIRNAME,
        f"{directory.backbone['vocab_size']} text rows",
        ok=True,
        note=f"{len(ids)} special tokens, {END_OF_PROMPT} is {ids[END_OF_PROMPT]}",
    )


def _weights(
    directory: ModelDirectory, component: Component, path: Path, load: Callable[[], object], what: str = ""
) -> Iterator[Finding]:
    """Rows for one weight file: what it holds, whether its numbers are finite, whether the network takes it."""
    try:
        state = load_weights(path)
    except CheckpointError as error:
        yield Finding(path.name, "-", ok=False, note=str(error))
        return
    size, description = f"{len(state)} tensors", _describe(directory, component, state, what)
    yield Finding(path.name, size, ok=True, note=description, is_summary=True)
    bad_key = first_not_finite(state)
    note = "all numbers finite" if bad_key is None else f"numbers that are not finite, first in {bad_key}"
    yield Finding(f"{path.name} finite", size, ok=bad_key is None, note=note)
    if bad_key is not None:
        return
    try:
        load()
    except CheckpointError as error:
        yield Finding(f"{path.name} keys and shapes", size, ok=False, note=str(error))
    else:
        yield Finding(f"{path.name} keys and shapes", size, ok=True, note="fits the network")


def _describe(directory: ModelDirectory, component: Component, state: dict[str, torch.Tensor], what: str) -> str:
    stored = {(tensor.data_ptr(), tensor.numel()): tensor for tensor in state.values()}
    num_values = sum(tensor.numel() for tensor in stored.values())
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in stored.values())
    published = published_shapes(directory.family.name, component)
    same = {key: tuple(tensor.shape) for key, tensor in state.items()} == published
    sizes = f"the sizes of {directory.family.published_name}" if same else "sizes of its own"
    return ", ".join(filter(None, [what, f"{num_values / 1e6:.1f} M numbers", "/".join(dtypes), sizes]))


def _optional_files(directory: ModelDirectory) -> Iterator[Finding]:
    for name, path, without in (
        (directory.family.speech_tokenizer_filename, directory.speech_tokenizer_path, "no prompt audio, only voices"),
        (SPEAKER_ENCODER_FILENAME, directory.speaker_encoder_path, "no prompt audio, only voices"),
    ):
        if path is None:
            yield Finding(name, "-", ok=True, note=f"not there: {without}", is_summary=True)
            continue
        try:
            require_content(path)
        except CheckpointError as error:
            yield Finding(name, "-", ok=False, note=str(error))
        else:
            yield Finding(name, f"{path.stat().st_size / 1e6:.1f} MB", ok=True)
    yield _voices(directory)


def _voices(directory: ModelDirectory) -> Finding:
    path = directory.speaker_registry_path
    if path is None:
        return Finding(SPEAKER_REGISTRY_FILENAME, "-", ok=True, note="not there: no registered voices", is_summary=True)
    try:
        require_content(path)
        registry = read_torch_file(path)
    except CheckpointError as error:
        return Finding(path.name, "-", ok=False, note=str(error))
    if not isinstance(registry, dict):
        return Finding(path.name, "-", ok=False, note=f"holds a {type(registry).__name__}, expected entries by name")
    names = sorted(str(name) for name in registry)
    return Finding(path.name, f"{len(names)} voices", ok=True, note=", ".join(names[:20]))
