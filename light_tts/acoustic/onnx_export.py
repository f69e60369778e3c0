"""The flow's estimator as an ONNX graph with the interface of the published one (spec: flow, section 13).

Inputs `x` [B, 80, T], `mask` [B, 1, T], `mu` [B, 80, T], `t` [B], `spks` [B, 80] and `cond` [B, 80, T], output
`estimator_out` [B, 80, T], all float32; T is free, B is fixed, 2 for one stream with guidance. The attention is the
whole one, as in the published graph, or that of streams, in chunks.

Importing this loads no exporter; exporting needs the packages `onnx` and `onnxscript`.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from light_tts.errors import ConfigError
from light_tts.models.nets.context import SequenceContext
from light_tts.models.nets.dense import Activation, CausalConv, Conv, Dense, activate
from light_tts.models.nets.flow_net import MAX_FRAMES, Estimator, FlowNet
from light_tts.types import MEL_BINS

INPUT_NAMES = ("x", "mask", "mu", "t", "spks", "cond")
OUTPUT_NAME = "estimator_out"
OPSET = 18
_EXAMPLE_FRAMES = 96


class PublishedEstimator(nn.Module):
    """An estimator behind the published interface. Frames where the mask is 0 are nobody's keys, and zero.

    net:           its matrices must be in float32.
    chunk_frames:  of the attention of streams; 0: every frame sees all.
    """

    def __init__(self, net: FlowNet, *, chunk_frames: int = 0) -> None:
        super().__init__()
        assert net.dtype == torch.float32, "the published interface is float32"
        self.estimator = _plain_copy(cast(nn.Module, net.estimator))
        self.chunk_frames = chunk_frames

    def forward(self, x: Tensor, mask: Tensor, mu: Tensor, t: Tensor, spks: Tensor, cond: Tensor) -> Tensor:
        """See the module; returns [B, 80, T]."""
        estimator = cast(Estimator, self.estimator)
        static = estimator.static_inputs(mu.mT, spks, cond.mT)
        context = _MaskContext(mask, self.chunk_frames)
        velocity = estimator(x.mT, static, estimator.condition_time(t), context)
        return velocity.mT * mask


class _MaskContext:
    """A `SequenceContext` of whole sequences whose lengths a mask tells, so that nothing depends on values."""

    def __init__(self, mask: Tensor, chunk_frames: int) -> None:
        self._mask = mask
        self._frames = torch.arange(mask.shape[-1], device=mask.device)
        visible = mask[:, None] > 0.5
        if chunk_frames:
            ends = (self._frames // chunk_frames + 1) * chunk_frames
            visible = visible & (self._frames < ends[:, None])
        self._visible = visible  # [B, 1, 1 or T, T]

    @property
    def num_keys(self) -> int:
        """See SequenceContext."""
        return self._mask.shape[-1]

    def attend(self, layer: int, qkv: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
        """See SequenceContext."""
        by_head = qkv.unflatten(-1, (3, heads, -1)).transpose(1, 3)  # [B, heads, 3, T, D]
        query, key, value = by_head.unbind(2)
        mask = torch.where(self._visible, 0.0, -torch.inf)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask if bias is None else mask + bias)
        return out.transpose(1, 2).flatten(2)

    def extend(self, tail: int, x: Tensor, left: int) -> Tensor:
        """See SequenceContext."""
        return F.pad(x, (0, 0, left, 0))

    def positions(self) -> Tensor:
        """See SequenceContext."""
        return self._frames[None]

    def clear_padding(self, x: Tensor) -> Tensor:
        """See SequenceContext."""
        return x * self._mask.mT


def export_estimator(net: FlowNet, path: Path, *, batch: int = 2, chunk_frames: int = 0) -> None:
    """Write the graph. Raises ConfigError when the exporter is not installed or the file cannot be written.

    batch:         rows of a call.
    chunk_frames:  see `PublishedEstimator`.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"the package '{error.name}' is needed to write ONNX: pip install 'light-tts[onnx]'"
        ) from None
    module = PublishedEstimator(net, chunk_frames=chunk_frames).eval()
    # One tensor for several inputs would make them one input.
    x, mu, cond = (torch.zeros(batch, MEL_BINS, _EXAMPLE_FRAMES) for _ in range(3))
    example = x, torch.ones(batch, 1, _EXAMPLE_FRAMES), mu, torch.zeros(batch), torch.zeros(batch, MEL_BINS), cond
    free = {2: torch.export.Dim("seq_len", min=4, max=MAX_FRAMES)}
    shapes = {"x": free, "mask": free, "mu": free, "t": None, "spks": None, "cond": free}
    with torch.no_grad(), warnings.catch_warnings(), _quiet("torch.onnx", "onnxscript", "onnx_ir"):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module, example, dynamo=True, opset_version=OPSET, dynamic_shapes=shapes, verbose=False,
            input_names=list(INPUT_NAMES), output_names=[OUTPUT_NAME],
        )  # fmt: skip
    assert program is not None
    try:
        program.save(str(path))
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from None


class _PlainDense(nn.Module):
    """What a `Dense` computes, without packed matrices."""

    def __init__(self, dense: Dense) -> None:
        super().__init__()
        self.weight = nn.Parameter(dense.matrix.detach().cpu(), requires_grad=False)
        self.bias = None if dense.bias is None else nn.Parameter(dense.bias, requires_grad=False)
        self.activation: Activation = dense.activation

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return activate(F.linear(x, self.weight, self.bias), self.activation)


class _PlainConv(nn.Module):
    """What a `Conv` or a `CausalConv` computes, as one convolution."""

    def __init__(self, conv: Conv) -> None:
        super().__init__()
        taps = conv.taps.matrix.detach().cpu()
        by_tap = taps.unflatten(1, (conv.kernel, -1)).transpose(1, 2).contiguous()
        self.weight = nn.Parameter(by_tap, requires_grad=False)
        self.bias = None if conv.taps.bias is None else nn.Parameter(conv.taps.bias, requires_grad=False)
        self.activation: Activation = conv.activation
        self.kernel = conv.kernel
        self.tail = conv.tail if isinstance(conv, CausalConv) else None

    def forward(self, x: Tensor, context: SequenceContext | None = None) -> Tensor:
        """[B, T, in] -> [B, T, out], or from k - 1 frames more where there is no tail."""
        if self.tail is not None:
            assert context is not None
            x = context.extend(self.tail, x, self.kernel - 1)
        return activate(F.conv1d(x.mT, self.weight, self.bias).mT, self.activation)


def _plain_copy(network: nn.Module) -> nn.Module:
    """A copy of a prepared network on the CPU, of operations that exist everywhere."""
    replaced: dict[int, nn.Module] = {}
    for module in network.modules():
        if isinstance(module, Conv):
            replaced[id(module)] = _PlainConv(module)
        elif isinstance(module, Dense):
            replaced.setdefault(id(module), _PlainDense(module))
    return copy.deepcopy(network, dict(replaced)).cpu()


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Loggers that tell of their progress, silent for a while."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
