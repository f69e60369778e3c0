"""`python -m light_tts.utils.build_trt`: TensorRT engines of the flow for this GPU, made before the first start."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata, util

from light_tts.cli import run_command
from light_tts.commands.arguments import CommandParser, with_dashes
from light_tts.compat.flags import OLD_NAMES
from light_tts.errors import ConfigError
from light_tts.models.model_dir import ModelDirectory
from light_tts.settings_spec import SettingSpec, setting_specs

MOST_SPEECH_TOKENS = 7500  # the noise of the flow ends there: 300 s of speech

# Flag -> how its word is read, and its default.
_FLAGS: dict[str, tuple[SettingSpec, str]] = {
    "max_batch_size": (setting_specs()["max_batch"], "2"),
    "max_seq_length": (
        SettingSpec("trt", "max_seq_length", int, (), False, False, 512, "", ge=25, le=MOST_SPEECH_TOKENS), "512",
    ),
    "trt_precision": (OLD_NAMES["trt_precision"].spec, "float16"),
    "trt_workspace_size": (OLD_NAMES["trt_workspace_size"].spec, str(2**30)),
    "trt_cache_dir": (setting_specs()["trt_cache_dir"], "model_cache/trt_engines"),
}  # fmt: skip
_HELP = {
    "max_batch_size": "streams of one call",
    "max_seq_length": "longest speech of a call, prompt included, in speech tokens",
    "trt_precision": "float16, bfloat16 or float32",
    "trt_workspace_size": "scratch memory of the builder in bytes",
    "trt_cache_dir": "where engines are kept",
}


def main(words: Sequence[str] | None = None) -> int:
    """The exit status: 0 when the engines are there, 2 with one sentence when they cannot be made."""
    parser = CommandParser(
        prog="light_tts.utils.build_trt", description="Build the flow's TensorRT engines for this GPU ahead of time."
    )
    parser.add_argument("--model-dir", metavar="DIR", required=True, help="model directory in the published layout")
    for name, (_, default) in _FLAGS.items():
        parser.add_argument(
            "--" + name.replace("_", "-"), metavar="VALUE", default=default, help=f"{_HELP[name]} (default: {default})"
        )
    parsed = parser.parse_args(with_dashes(list(sys.argv[1:] if words is None else words)))

    def command() -> int:
        for name, (spec, _) in _FLAGS.items():
            spec.parse(getattr(parsed, name), f"--{name}")
        ModelDirectory.open(parsed.model_dir)
        _require_tensorrt()
        return 0

    return run_command(command)


def _require_tensorrt() -> None:
    """Raises ConfigError: engines cannot be made here, and why."""
    if util.find_spec("tensorrt") is None:
        raise ConfigError(
            "TensorRT is not installed (pip install tensorrt), so no engines can be built; the server needs none, it "
            "runs the flow on its built-in backend"
        )
    raise ConfigError(
        f"TensorRT {metadata.version('tensorrt')} is installed, but this version of Light TTS builds no engines; "
        "the server runs the flow on its built-in backend"
    )


if __name__ == "__main__":
    sys.exit(main())
