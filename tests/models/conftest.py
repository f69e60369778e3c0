import shutil
from pathlib import Path

import pytest

from light_tts.assets import builtin_model_dir


@pytest.fixture
def copied_model(tmp_path) -> Path:
    """The built-in model in a directory of its own: small files copied, weights linked, so that a test may spoil it."""
    target = tmp_path / "model"
    for source in builtin_model_dir().rglob("*"):
        if not source.is_file() or source.parent.name == "prompts":
            continue
        place = target / source.relative_to(builtin_model_dir())
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix in (".pt", ".onnx", ".safetensors"):
            place.symlink_to(source)
        else:
            shutil.copyfile(source, place)
    return target
