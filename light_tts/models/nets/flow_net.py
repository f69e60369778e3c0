"""The flow as one object: speech tokens, voice and noise to mel velocities; and its builders.

Knows the order of computation inside one evaluation, nothing of hops, streams or caches.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from light_tts.errors import CheckpointError
from light_tts.models.nets.conformer import ConformerBody, UpsampleConformer
from light_tts.models.nets.context import SequenceContext
from light_tts.models.nets.dense import prepare_all, tails_of
from light_tts.models.nets.dit import DiT
from light_tts.models.nets.euler_time import cosine_schedule
from light_tts.models.nets.lookahead import BodyContexts, BodyShape, LookaheadUpsampler
from light_tts.models.nets.unet import UNet
from light_tts.models.strict import load_strict
from light_tts.types import FRAMES_PER_TOKEN, MEL_BINS, SPEAKER_DIM

MAX_FRAMES = 15_000  # 300 s, the prompt included: the length of the noise table
State = Mapping[str, Tensor]


class Estimator(Protocol):
    """The velocity network."""

    num_attention_layers: int
    attention_heads: int
    attention_width: int

    def condition_time(self, times: Tensor) -> Tensor:
        """[n] -> [n, K, D] float32: everything that depends on time only."""

    def static_inputs(self, mu: Tensor, speaker: Tensor, cond: Tensor) -> Tensor:
        """The inputs that do not change from step to step: [B, T, 240] of mu, cond [B, T, 80], speaker [B, 80]."""

    def __call__(self, x: Tensor, static: Tensor, time: Tensor, context: SequenceContext) -> Tensor:
        """x [B, T, 80], time [B or 1, K, D] -> velocity [B, T, 80] float32."""


class Body(Protocol):
    """The token-to-mel network."""

    shape: BodyShape

    def __call__(self, embedded: Tensor, valid: Tensor | None, contexts: BodyContexts) -> Tensor:
        """embedded [B, T + L, C], valid [B, T + L, 1] -> mu [B, 2T, 80] float32."""


@functools.cache
def noise_table() -> Tensor:
    """[15000, 80] float32: where every utterance starts, by frame from the first prompt frame on.

    One draw of shape [1, 80, 15000] from a CPU generator seeded with 0 (spec: flow, section 6).
    """
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randn(1, MEL_BINS, MAX_FRAMES, generator=generator)[0].T.contiguous()


class FlowNet:
    """Networks and constants of one loaded flow.

    chunk_tokens:      tokens per chunk of the streaming mask; a chunk has `chunk_frames` frames.
    lookahead_tokens:  tokens beyond the last one spoken that a call must see unless it is the final one.
    vocabulary:        number of speech codes.
    dtype, device:     of matrices, keys and values.
    """

    def __init__(
        self,
        modules: nn.Module,
        body: Body,
        estimator: Estimator,
        *,
        chunk_tokens: int,
        lookahead_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.body = body
        self.estimator = estimator
        self.chunk_tokens = chunk_tokens
        self.chunk_frames = FRAMES_PER_TOKEN * chunk_tokens
        self.lookahead_tokens = lookahead_tokens
        self.dtype = dtype
        self.device = device
        self._embedding = cast(nn.Embedding, modules.get_submodule("input_embedding")).weight
        self._speaker = cast(nn.Linear, modules.get_submodule("spk_embed_affine_layer"))
        self.vocabulary = self._embedding.shape[0]
        self.estimator_tails = tails_of(cast(nn.Module, estimator))
        self._time_tables: dict[int, Tensor] = {}

    @functools.cached_property
    def noise(self) -> Tensor:
        """[15000, 80] float32 on the device; see `noise_table`."""
        return noise_table().to(self.device)

    def time_table(self, steps: int) -> Tensor:
        """[steps, K, D] float32: the time conditioning of every Euler step; made on first use, then kept."""
        if steps not in self._time_tables:
            with torch.inference_mode():
                table = self.estimator.condition_time(cosine_schedule(steps)[:steps])
            self._time_tables[steps] = table.to(self.device)
        return self._time_tables[steps]

    def speaker_vector(self, speaker: Tensor) -> Tensor:
        """[B, 192] speaker embeddings -> [B, 80] float32."""
        return cast(Tensor, self._speaker(F.normalize(speaker.to(self.device, torch.float32), dim=-1)))

    def embed(self, tokens: Tensor) -> Tensor:
        """[B, T] int64 codes (negative ones count as 0) -> [B, T, C] float32."""
        return F.embedding(tokens.to(self.device).clamp_min(0), self._embedding)


def build_unet_flow(
    config: Mapping[str, Any], state: State, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> FlowNet:
    """The flow with conformer body and UNet estimator from a published state dict.

    config:  the `flow` mapping of the checkpoint's YAML as plain data.
    state:   exactly the published keys. Raises CheckpointError when they do not fit.
    """
    encoder, estimator = config["encoder"], config["decoder"]["estimator"]
    if len(estimator["channels"]) != 1:
        raise CheckpointError(f"flow estimator with channels {estimator['channels']}: one resolution is expected.")
    width, in_channels = _shape(state, "encoder.embed.out.0.weight")
    with torch.device("meta"):
        conformer = UpsampleConformer(
            in_channels,
            width,
            int(encoder["attention_heads"]),
            _shape(state, "encoder.encoders.0.feed_forward.w_1.weight")[0],
            _count(state, "encoder.encoders."),
            _count(state, "encoder.up_encoders."),
            int(config["pre_lookahead_len"]),
            (
                _shape(state, "encoder.pre_lookahead_layer.conv2.weight")[2],
                _shape(state, "encoder.up_layer.conv.weight")[2],
            ),
            FRAMES_PER_TOKEN,
        )
        body = ConformerBody(conformer, MEL_BINS)
        unet = _unet(estimator, state, "decoder.estimator.")
        root = _root(state, unet)
        root.add_module("encoder", conformer)
        root.add_module("encoder_proj", body.encoder_proj)
    load_strict(root, state, "flow.pt")
    root.add_module("body", body)
    chunk = int(encoder["static_chunk_size"])
    return _finish(root, config, body, unet, chunk, dtype, torch.device(device))


def build_dit_flow(
    config: Mapping[str, Any], state: State, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> FlowNet:
    """The flow with lookahead body and DiT estimator from a published state dict; see `build_unet_flow`."""
    hidden, channels, _ = _shape(state, "pre_lookahead_layer.conv1.weight")
    kernel = _shape(state, "pre_lookahead_layer.conv2.weight")[2]
    with torch.device("meta"):
        body = LookaheadUpsampler(channels, hidden, int(config["pre_lookahead_len"]), kernel, FRAMES_PER_TOKEN)
        dit = _dit(config["decoder"]["estimator"], state, "decoder.estimator.")
        root = _root(state, dit)
        root.add_module("pre_lookahead_layer", body.pre_lookahead_layer)
    load_strict(root, state, "flow.pt")
    chunk = int(config["decoder"]["estimator"]["static_chunk_size"]) // FRAMES_PER_TOKEN
    return _finish(root, config, body, dit, chunk, dtype, torch.device(device))


def _unet(config: Mapping[str, Any], state: State, prefix: str) -> UNet:
    channels, in_channels, kernel = _shape(state, prefix + "down_blocks.0.0.block1.block.0.weight")
    return UNet(
        in_channels=in_channels,
        channels=channels,
        mel_bins=MEL_BINS,
        heads=int(config["num_heads"]),
        head_width=int(config["attention_head_dim"]),
        hidden=_shape(state, prefix + "down_blocks.0.1.0.ff.net.2.weight")[1],
        time_width=_shape(state, prefix + "time_mlp.linear_1.weight")[0],
        kernel=kernel,
        num_blocks=_count(state, prefix + "down_blocks.0.1."),
        num_mid=_count(state, prefix + "mid_blocks."),
    )


def _dit(config: Mapping[str, Any], state: State, prefix: str) -> DiT:
    width, in_channels = _shape(state, prefix + "input_embed.proj.weight")
    _, group_width, kernel = _shape(state, prefix + "input_embed.conv_pos_embed.conv1.0.weight")
    head_width = 2 * _shape(state, prefix + "rotary_embed.inv_freq")[0]
    return DiT(
        in_channels=in_channels,
        width=width,
        mel_bins=MEL_BINS,
        heads=int(config["heads"]),
        head_width=head_width,
        hidden=_shape(state, prefix + "transformer_blocks.0.ff.ff.0.0.weight")[0],
        time_width=_shape(state, prefix + "time_embed.time_mlp.0.weight")[1],
        kernel=kernel,
        groups=width // group_width,
        depth=_count(state, prefix + "transformer_blocks."),
    )


def _root(state: State, estimator: nn.Module) -> nn.Module:
    """The published tree above both bodies."""
    root, decoder = nn.Module(), nn.Module()
    codes, width = _shape(state, "input_embedding.weight")
    # One that draws its own first would have torch import its compilers, for seconds.
    root.add_module("input_embedding", nn.Embedding.from_pretrained(torch.empty(codes, width)))
    root.add_module("spk_embed_affine_layer", nn.Linear(SPEAKER_DIM, MEL_BINS))
    decoder.add_module("estimator", estimator)
    root.add_module("decoder", decoder)
    return root


def _finish(
    root: nn.Module,
    config: Mapping[str, Any],
    body: nn.Module,
    estimator: nn.Module,
    chunk_tokens: int,
    dtype: torch.dtype,
    device: torch.device,
) -> FlowNet:
    frames = int(config["decoder"]["estimator"]["static_chunk_size"])
    if chunk_tokens <= 0 or frames != FRAMES_PER_TOKEN * chunk_tokens:
        raise CheckpointError(
            f"flow chunk sizes of {chunk_tokens} tokens and {frames} frames do not go together: "
            f"a token has {FRAMES_PER_TOKEN} frames."
        )
    if int(config.get("token_mel_ratio", FRAMES_PER_TOKEN)) != FRAMES_PER_TOKEN:
        raise CheckpointError(f"flow with token_mel_ratio {config['token_mel_ratio']}: {FRAMES_PER_TOKEN} is expected.")
    prepare_all(root, dtype, device)
    for name in ("input_embedding", "spk_embed_affine_layer"):
        root.get_submodule(name).to(device)
    return FlowNet(
        root,
        cast(Body, body),
        cast(Estimator, estimator),
        chunk_tokens=chunk_tokens,
        lookahead_tokens=int(config["pre_lookahead_len"]),
        dtype=dtype,
        device=device,
    )


def _shape(state: State, key: str) -> tuple[int, ...]:
    if key not in state:
        raise CheckpointError(f"flow.pt has no {key}; it does not belong to this model.")
    return tuple(state[key].shape)


def _count(state: State, prefix: str) -> int:
    """Number of consecutive entries in a numbered list of the state dict."""
    indices = {int(key[len(prefix) :].split(".", 1)[0]) for key in state if key.startswith(prefix)}
    return len(indices)
