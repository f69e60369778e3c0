"""Which estimator has which fused version, and when it may be used."""

from __future__ import annotations

from light_tts.kernels.flow_kernels import FlowKernels
from light_tts.models.nets.conformer import ConformerBody, RelativeAttention
from light_tts.models.nets.conformer_fused import FusedConformer
from light_tts.models.nets.dit import DiT
from light_tts.models.nets.dit_fused import FusedDiT
from light_tts.models.nets.flow_net import FlowNet
from light_tts.models.nets.fused import FusedBody, FusedEstimator
from light_tts.models.nets.unet import UNet
from light_tts.models.nets.unet_fused import FusedUNet


def why_not_fused(net: FlowNet) -> str | None:
    """Why the estimator must be computed as it is; None when the kernels take it."""
    if not isinstance(net.estimator, UNet | DiT):
        return f"there are no fused kernels for {type(net.estimator).__name__}"
    for tail in net.estimator_tails:
        if tail.left > net.chunk_frames:
            return f"a convolution sees {tail.left} frames back, more than a chunk of {net.chunk_frames}"
    return None


def fuse(net: FlowNet, kernels: FlowKernels) -> FusedEstimator:
    """The fused version of a network's estimator; it shares the weights."""
    if isinstance(net.estimator, UNet):
        return FusedUNet(net.estimator, kernels)
    assert isinstance(net.estimator, DiT)
    return FusedDiT(net.estimator, kernels)


def why_body_not_fused(net: FlowNet) -> str | None:
    """Why the token-to-mel body must be computed as it is; None when the kernels take it."""
    if not isinstance(net.body, ConformerBody):
        return "it has no attention"
    attention = next(module for module in net.body.modules() if isinstance(module, RelativeAttention))
    head_dim = attention.width // attention.heads
    if head_dim < 16 or head_dim & (head_dim - 1):
        return f"it has heads of {head_dim} numbers, which are not a power of 2 of at least 16"
    return None


def fuse_body(net: FlowNet, kernels: FlowKernels) -> FusedBody:
    """The fused version of a network's token-to-mel body; it shares the weights."""
    assert isinstance(net.body, ConformerBody)
    return FusedConformer(net.body, kernels)
