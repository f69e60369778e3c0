"""A model directory of the published sizes with random weights: for load tests and benchmarks. It does not speak."""

from __future__ import annotations

import json
import math
import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from light_tts.assets import builtin_model_dir
from light_tts.errors import CheckpointError
from light_tts.models.family import Component, ModelFamily, family_named
from light_tts.models.manifests import published_shapes
from light_tts.models.model_dir import SPEAKER_REGISTRY_FILENAME, TOKENIZER_DIRNAME
from light_tts.models.vocabulary import END_OF_PROMPT, TOKENIZER_FILES, read_json, special_token_ids
from light_tts.types import FRAMES_PER_TOKEN, MEL_BINS, SPEAKER_DIM

if TYPE_CHECKING:
    import torch

VOICE_NAME = "random"
DiskDType = Literal["float32", "float16", "bfloat16"]
_PROMPT_TOKENS = 75  # 3 s, on the chunk grid
_TEXT_TABLE, _TEXT_HEAD = "llm.model.model.embed_tokens.weight", "llm.model.lm_head.weight"
_PITCH_BIAS = "f0_predictor.classifier.bias"
_PITCH_HZ = 120.0
PUBLISHED_BACKBONE = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "hidden_act": "silu",
    "attention_dropout": 0.0,
    "use_sliding_window": False,
    "tie_word_embeddings": True,
}
_README = """# Random weights

This directory has the layout, keys and sizes of {name}, with random numbers for weights (seed {seed}).
It is for load tests and benchmarks: what it says is noise. Its vocabulary is that of the built-in model.
"""


def make_random(
    directory: Path | str,
    family_name: str,
    *,
    seed: int = 0,
    dtype: DiskDType = "float32",
    progress: Callable[[str], object] | None = None,
) -> None:
    """Write a full-size model directory with random weights and one voice, "random".

    directory:  new or empty.
    dtype:      of the weights on disk; the published files are float32 (2.6 to 3.5 GB).
    progress:   called with one line per file.
    The same seed gives the same numbers. Raises CheckpointError for an unknown family or a directory that holds files.
    """
    directory, family, say = Path(directory), family_named(family_name), progress or (lambda line: None)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise CheckpointError(f"{directory} is not an empty directory; give a new one for the random model.")
    directory.mkdir(parents=True, exist_ok=True)
    _write_small_files(directory, family, seed)
    components: tuple[Component, ...] = ("llm", "flow", "hift")
    for component in components:
        path = directory / f"{component}.pt"
        write_weights(path, random_state(published_shapes(family.name, component), seed=seed, dtype=dtype))
        say(f"{path.name}: {path.stat().st_size / 1e6:.0f} MB of random {dtype}")
    _write_voice(directory, family, seed)
    say(f"{SPEAKER_REGISTRY_FILENAME}: the voice {VOICE_NAME!r}")


def random_state(
    shapes: Mapping[str, tuple[int, ...]], *, seed: int = 0, dtype: DiskDType = "float32"
) -> dict[str, torch.Tensor]:
    """Random tensors for these keys, scaled by key and shape so that activations stay of order one.

    The text head shares its storage with the text table, as it does in published files.
    """
    import torch

    kind = getattr(torch, dtype)
    keys = [key for key in shapes if key != _TEXT_HEAD]
    # Each tensor has a generator of its own, and drawing lets other threads run.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        tensors = pool.map(lambda key: _tensor(key, shapes[key], seed).to(kind), keys)
        state = dict(zip(keys, tensors, strict=True))
    return {key: state[_TEXT_TABLE if key == _TEXT_HEAD else key] for key in shapes}


def write_weights(path: Path, state: dict[str, torch.Tensor]) -> None:
    """Save as the published files are: a flat dictionary, torch's archive form."""
    import torch

    torch.save(state, path)


def _tensor(key: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """One tensor; its numbers depend on its key and the seed only. Kept: what a network cannot be random in."""
    import torch

    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {key}".encode()))
    if key.endswith("inv_freq"):
        return 10000.0 ** (-torch.arange(shape[0]) / shape[0])
    if key == _PITCH_BIAS:
        return torch.full(shape, _PITCH_HZ)
    if key.endswith((".alpha", ".original0")):
        return torch.ones(shape)
    if len(shape) == 1:
        # One-dimensional weights are those of normalisations.
        centre = 1.0 if key.endswith(".weight") else 0.0
        return centre + 0.02 * torch.randn(shape, generator=generator)
    is_table = key.endswith("embedding.weight") or key == _TEXT_TABLE
    scale = 1.0 if is_table else 1.0 / math.sqrt(math.prod(shape[1:]))
    return torch.randn(shape, generator=generator).mul_(scale)


def _write_small_files(directory: Path, family: ModelFamily, seed: int) -> None:
    config = resources.files("light_tts.models.manifests").joinpath(family.config_filename).read_text(encoding="utf-8")
    (directory / family.config_filename).write_text(config, encoding="utf-8")
    tokenizer_dir = directory / TOKENIZER_DIRNAME
    tokenizer_dir.mkdir()
    for name in TOKENIZER_FILES:
        if name != "config.json":
            shutil.copyfile(builtin_model_dir() / TOKENIZER_DIRNAME / name, tokenizer_dir / name)
    (tokenizer_dir / "config.json").write_text(json.dumps(PUBLISHED_BACKBONE, indent=2) + "\n", encoding="utf-8")
    (directory / "README.md").write_text(_README.format(name=family.published_name, seed=seed), encoding="utf-8")


def _write_voice(directory: Path, family: ModelFamily, seed: int) -> None:
    import torch

    generator = torch.Generator().manual_seed(seed)
    vocabulary = read_json(directory / TOKENIZER_DIRNAME / "vocab.json")
    ids = special_token_ids(directory / TOKENIZER_DIRNAME, family.special_tokens)
    text = torch.randint(len(vocabulary), (1, 16), generator=generator, dtype=torch.int32)
    if family.needs_end_of_prompt:
        text[0, 0] = ids[END_OF_PROMPT]
    speech = torch.randint(6561, (1, _PROMPT_TOKENS), generator=generator, dtype=torch.int32)
    mel = torch.randn(1, FRAMES_PER_TOKEN * _PROMPT_TOKENS, MEL_BINS, generator=generator) * 2.0 - 5.0
    speaker = torch.randn(1, SPEAKER_DIM, generator=generator)
    entry = {
        "prompt_text": text,
        "llm_prompt_speech_token": speech,
        "flow_prompt_speech_token": speech,
        "prompt_speech_feat": mel,
    }
    lengths = {f"{key}_len": torch.tensor([value.shape[1]], dtype=torch.int32) for key, value in entry.items()}
    speakers = {"embedding": speaker, "llm_embedding": speaker, "flow_embedding": speaker}
    torch.save({VOICE_NAME: entry | lengths | speakers}, directory / SPEAKER_REGISTRY_FILENAME)
