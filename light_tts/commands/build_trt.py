"""`light-tts build-trt`: TensorRT engines of the flow for this GPU, made before the first start; or their ONNX graph.

Also `python -m light_tts.utils.build_trt`, the name that guides know.
"""

from __future__ import annotations

import argparse
from importlib import util
from pathlib import Path

from light_tts.compat.flags import OLD_NAMES
from light_tts.errors import ConfigError
from light_tts.settings_spec import SettingSpec, setting_specs
from light_tts.types import FRAMES_PER_TOKEN

MOST_SPEECH_TOKENS = 7500  # the noise of the flow ends there: 300 s of speech

# Flag -> how its word is read, its default, and what it is.
_FLAGS: dict[str, tuple[SettingSpec, str, str]] = {
    "max_batch_size": (setting_specs()["max_batch"], "2", "streams of one call"),
    "max_seq_length": (
        SettingSpec("trt", "max_seq_length", int, (), False, False, 512, "", ge=25, le=MOST_SPEECH_TOKENS), "512",
        "longest speech of a call, prompt included, in speech tokens",
    ),
    "trt_precision": (OLD_NAMES["trt_precision"].spec, "float16", "float16, bfloat16 or float32"),
    "trt_workspace_size": (
        OLD_NAMES["trt_workspace_size"].spec, str(2**30), "scratch memory of the builder in bytes"
    ),
    "trt_cache_dir": (setting_specs()["trt_cache_dir"], "model_cache/trt_engines", "where engines are kept"),
}  # fmt: skip


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "build-trt",
        help="build the flow's TensorRT engines ahead of time, or write their ONNX graph",
        description="Build the flow's TensorRT engines for this GPU ahead of time, or write the ONNX graph of its "
        "estimator, which needs no TensorRT. The server runs the flow on its built-in backend in any case.",
    )
    parser.add_argument("--model-dir", metavar="DIR", type=Path, required=True, help="model directory")
    parser.add_argument(
        "--export-onnx", metavar="FILE", type=Path, help="write the graph with the published inputs here, build nothing"
    )
    for name, (_, default, meaning) in _FLAGS.items():
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, metavar="VALUE", default=default, help=f"{meaning} (default: {default})")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print where the result is. Raises ConfigError when engines cannot be made here."""
    values = {name: spec.parse(getattr(arguments, name), f"--{name}") for name, (spec, _, _) in _FLAGS.items()}
    from light_tts.models.model_dir import ModelDirectory

    directory = ModelDirectory.open(arguments.model_dir)
    if arguments.export_onnx is None:
        _require_tensorrt()
    from light_tts.acoustic.onnx_export import export_estimator

    net = directory.load_flow()
    if arguments.export_onnx is not None:
        export_estimator(net, arguments.export_onnx)
        print(arguments.export_onnx)
        return 0
    from light_tts.acoustic.trt_engine import ensure_engine, key_here

    key = key_here(
        directory.flow_path,
        precision=values["trt_precision"],
        rows=2 * values["max_batch_size"],
        most_frames=FRAMES_PER_TOKEN * values["max_seq_length"],
    )
    path, is_new = ensure_engine(net, key, Path(values["trt_cache_dir"]), workspace_bytes=values["trt_workspace_size"])
    print(f"{path} ({'built' if is_new else 'up to date'})")
    return 0


def _require_tensorrt() -> None:
    if util.find_spec("tensorrt") is None:
        raise ConfigError(
            "TensorRT is not installed (pip install tensorrt), so no engines can be built; the server needs none, it "
            "runs the flow on its built-in backend"
        )
    import torch

    if not torch.cuda.is_available():
        raise ConfigError("torch sees no GPU, and engines are built on the GPU that runs them")
