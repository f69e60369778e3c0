"""TensorRT engines of the flow's estimator: under which name they are kept, how they are built and checked.

Only the names are covered by tests: TensorRT has no CPU version, and no machine with it has built an engine yet.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from light_tts.acoustic.onnx_export import INPUT_NAMES, OUTPUT_NAME, PublishedEstimator, export_estimator
from light_tts.errors import ConfigError, EngineFailure
from light_tts.models.nets.flow_net import FlowNet
from light_tts.types import MEL_BINS

logger = logging.getLogger(__name__)

LEAST_FRAMES, USUAL_FRAMES = 4, 500
# Share of the reference's velocity that an engine may be off, by its precision.
_TOLERANCES = {"float32": 1e-2, "bfloat16": 5e-2, "float16": 5e-2}


@dataclass(frozen=True)
class EngineKey:
    """What an engine depends on; another value of any of these is another engine.

    model:        digest of the weights (`digest_of`).
    gpu:          name and compute capability.
    tensorrt:     version.
    precision:    float32, bfloat16 or float16.
    rows:         of a call, two for each stream with guidance.
    most_frames:  of a call, prompt included.
    """

    model: str
    gpu: str
    tensorrt: str
    precision: str
    rows: int
    most_frames: int

    def path_in(self, directory: Path) -> Path:
        """Where the engine is kept; one that no longer fits has another name, so that it is never loaded."""
        digest = hashlib.blake2b(json.dumps(asdict(self), sort_keys=True).encode(), digest_size=8).hexdigest()
        return directory / f"flow.estimator.{self.precision}.{digest}.plan"


def digest_of(weights: Path) -> str:
    """Digest of a file of weights."""
    with weights.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def key_here(weights: Path, *, precision: str, rows: int, most_frames: int) -> EngineKey:
    """The key of an engine for this GPU and this TensorRT."""
    major, minor = torch.cuda.get_device_capability()
    gpu = f"{torch.cuda.get_device_name()} {major}.{minor}"
    return EngineKey(digest_of(weights), gpu, metadata.version("tensorrt"), precision, rows, most_frames)


def ensure_engine(net: FlowNet, key: EngineKey, directory: Path, *, workspace_bytes: int) -> tuple[Path, bool]:
    """The engine of a key, built unless it is there; returns its path and whether it was built.

    net:  on the CPU, in float32.

    Raises ConfigError when TensorRT cannot build it, EngineFailure when what it built computes something else.
    """
    path = key.path_in(directory)
    if path.is_file():
        return path, False
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        graph = Path(scratch) / "estimator.onnx"
        export_estimator(net, graph, batch=key.rows)
        plan = _build(graph, key, workspace_bytes)
    _check(plan, net, key)
    # Whoever looks meanwhile sees no engine or a whole one.
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    unfinished.write_bytes(plan)
    unfinished.replace(path)
    return path, True


def _build(graph: Path, key: EngineKey, workspace_bytes: int) -> bytes:
    import tensorrt as trt

    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        raise ConfigError(f"TensorRT {key.tensorrt} cannot read the estimator's graph: {parser.get_error(0)}")
    profile = builder.create_optimization_profile()
    usual = min(USUAL_FRAMES, key.most_frames)
    for name, channels in (("x", MEL_BINS), ("mask", 1), ("mu", MEL_BINS), ("cond", MEL_BINS)):
        profile.set_shape(name, *((key.rows, channels, frames) for frames in (LEAST_FRAMES, usual, key.most_frames)))
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    config.add_optimization_profile(profile)
    if key.precision != "float32":
        config.set_flag(trt.BuilderFlag.FP16 if key.precision == "float16" else trt.BuilderFlag.BF16)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ConfigError(f"TensorRT {key.tensorrt} cannot build the estimator with {workspace_bytes} bytes of scratch")
    return bytes(plan)


def _check(plan: bytes, net: FlowNet, key: EngineKey) -> None:
    """Compare one call with the reference's. Raises EngineFailure."""
    generator = torch.Generator().manual_seed(0)
    frames = min(USUAL_FRAMES, key.most_frames)
    x, mu, cond = (torch.randn(key.rows, MEL_BINS, frames, generator=generator) for _ in range(3))
    t, spks = torch.rand(key.rows, generator=generator), torch.randn(key.rows, MEL_BINS, generator=generator)
    inputs = (x, torch.ones(key.rows, 1, frames), mu, t, spks, cond)
    with torch.inference_mode():
        expected = PublishedEstimator(net)(*inputs)
    found = _run(plan, inputs)
    error = float((found - expected).norm() / expected.norm())
    if not error < _TOLERANCES[key.precision]:  # nor for what is no number
        raise EngineFailure(
            f"TensorRT's {key.precision} engine is off by {error:.3g} of the velocity (allowed: "
            f"{_TOLERANCES[key.precision]:g}), so it is not kept; build it with --trt-precision float32."
        )
    logger.info("the engine is within %.2g of the reference", error)


def _run(plan: bytes, inputs: tuple[Tensor, ...]) -> Tensor:
    import tensorrt as trt

    engine: Any = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(plan)
    context = engine.create_execution_context()
    tensors = dict(zip(INPUT_NAMES, (tensor.cuda().contiguous() for tensor in inputs), strict=True))
    out = torch.empty_like(tensors["x"])
    for name, tensor in tensors.items():
        context.set_input_shape(name, tuple(tensor.shape))
        context.set_tensor_address(name, tensor.data_ptr())
    context.set_tensor_address(OUTPUT_NAME, out.data_ptr())
    context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
    torch.cuda.synchronize()
    return out.cpu()
