"""The flow against golden tensors: token-to-mel body, estimator, solver, and whole hop plans through the decoder.

The directory's `config.json` says which layout the weights have, all sizes, and the hop plans; nothing here depends on
particular sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from light_tts.acoustic.flow import FlowDecoder, FlowHop
from light_tts.acoustic.flow_batch import solve
from light_tts.acoustic.flow_context import KeptContext
from light_tts.models.nets.conformer import ConformerBody, distance_vectors
from light_tts.models.nets.context import PlainContext
from light_tts.models.nets.dit import DiT
from light_tts.models.nets.euler_time import cosine_schedule, sinusoid
from light_tts.models.nets.flow_net import FlowNet, build_dit_flow, build_unet_flow
from light_tts.models.nets.lookahead import BodyContexts, LookaheadUpsampler
from light_tts.models.nets.unet import UNet
from light_tts.types import FRAMES_PER_TOKEN, FlowPrompt
from light_tts.verify.report import Ledger

NETWORK_TOLERANCE = 5e-5
MEL_TOLERANCE = 1e-4
EXACT_TOLERANCE = 1e-6  # schedules, sinusoids, the noise table: nothing but float32 rounding
_CACHE_BYTES = 1 << 30

_ENCODER, _ESTIMATOR, _ODE = "encoder.safetensors", "estimator.safetensors", "ode.safetensors"
_INFERENCE, _CHAINS = "flow_inference.safetensors", "token2wav.safetensors"
Outputs = dict[str, Tensor]


def check_flow(ledger: Ledger, config: dict[str, Any]) -> None:
    """Add one row per golden tensor of the flow.

    config:  the directory's config.json; "model" chooses the layout. The waveforms of token2wav.safetensors are left
             to the vocoder's checks.
    """
    net = golden_flow(ledger, config)
    with torch.inference_mode():
        check_body(ledger, net)
        check_estimator(ledger, net)
        check_solver(ledger, net, config)
    check_inference(ledger, net, config)
    check_plans(ledger, net, config)


def golden_flow(ledger: Ledger, config: Mapping[str, Any]) -> FlowNet:
    """The flow of a golden directory."""
    build = build_dit_flow if config["model"] == "cosyvoice3" else build_unet_flow
    return build(config["flow"], ledger.inputs("flow.safetensors"))


def check_body(ledger: Ledger, net: FlowNet) -> None:
    """encoder.safetensors: tokens to mu, with every intermediate it names."""
    tokens = ledger.input(_ENCODER, "token")
    ledger.compare(_ENCODER, "embedded", net.embed(tokens), EXACT_TOLERANCE)
    names = ledger.tensors(_ENCODER)
    for case in sorted({name.rsplit(".mu", 1)[0] for name in names if name.endswith(".mu")}):
        is_final, is_chunked = case.startswith("final"), case.endswith("stream")
        recorded: Outputs = {}
        with recording(_body_modules(cast(nn.Module, net.body)), recorded):
            mu = _mu(net, tokens, is_final=is_final, is_chunked=is_chunked)
        ledger.compare(_ENCODER, f"{case}.mu", mu.mT, NETWORK_TOLERANCE)
        length = mu.shape[1] // FRAMES_PER_TOKEN
        if f"{case}.encoder_out" in names:
            ledger.compare(_ENCODER, f"{case}.encoder_out", recorded["encoder_out"], NETWORK_TOLERANCE)
        if f"{case}.pre_lookahead" in names:
            ledger.compare(_ENCODER, f"{case}.pre_lookahead", recorded["pre_lookahead"], NETWORK_TOLERANCE)
        if any(name.startswith("partial_stream.mid.") for name in names) and case == "partial_stream":
            _compare_body_mids(ledger, recorded, length)


def check_estimator(ledger: Ledger, net: FlowNet) -> None:
    """estimator.safetensors: one evaluation, whole and in chunks, even and padded, with its intermediates."""
    x, mu, cond = (ledger.input(_ESTIMATOR, name).mT for name in ("x", "mu", "cond"))
    static = net.estimator.static_inputs(mu, ledger.input(_ESTIMATOR, "spks"), cond)
    times = ledger.input(_ESTIMATOR, "t")
    padded = ledger.input(_ESTIMATOR, "mask_padded").sum(dim=(1, 2)).int().tolist()
    even = [x.shape[1]] * x.shape[0]
    recorded: Outputs = {}
    estimator = cast(nn.Module, net.estimator)
    for name, lengths, chunk in (
        ("out_full", even, 0),
        ("out_stream", even, net.chunk_frames),
        ("padded_out_full", padded, 0),
        ("padded_out_stream", padded, net.chunk_frames),
    ):
        modules = _estimator_modules(estimator) if name == "out_stream" else {}
        with recording(modules, recorded):
            time = net.estimator.condition_time(times)
            velocity = net.estimator(x, static, time, PlainContext(lengths, chunk=chunk)).mT
        expected = ledger.input(_ESTIMATOR, name)
        for row, length in enumerate(lengths):
            # Frames beyond a row's length mean nothing.
            velocity[row, :, length:] = expected[row, :, length:]
        ledger.compare(_ESTIMATOR, name, velocity, NETWORK_TOLERANCE)
    _compare_estimator_mids(ledger, estimator, recorded, times)


def check_solver(ledger: Ledger, net: FlowNet, config: Mapping[str, Any]) -> None:
    """ode.safetensors: noise, schedule, states of every step, results."""
    noise, mu, cond = (ledger.input(_ODE, name).mT for name in ("noise", "mu", "cond"))
    frames = noise.shape[1]
    ledger.compare(_ODE, "noise", net.noise[None, :frames].mT, EXACT_TOLERANCE)
    names = ledger.tensors(_ODE)
    for name in [name for name in names if name.startswith("t_span_")]:
        steps = int(name.removeprefix("t_span_"))
        ledger.compare(_ODE, name, cosine_schedule(steps), EXACT_TOLERANCE)
        if f"times_{steps}" in names:
            ledger.compare(_ODE, f"times_{steps}", cosine_schedule(steps)[:steps], EXACT_TOLERANCE)
    guidance = float(config["flow"]["decoder"]["cfm_params"]["inference_cfg_rate"])
    for name in [name for name in names if name.startswith("out_")]:
        _, steps_text, mask = name.split("_")
        steps = int(steps_text)
        states: list[Tensor] = []
        result = solve(
            net,
            noise,
            mu=mu,
            speaker=ledger.input(_ODE, "spks"),
            cond=cond,
            guidance=torch.full((1, 1, 1), guidance),
            steps=steps,
            context=_fresh_context(net, frames, net.chunk_frames if mask == "stream" else 0),
            on_step=lambda _, x, states=states: states.append(x),  # type: ignore[misc]
        )
        ledger.compare(_ODE, name, result.mT, MEL_TOLERANCE)
        if f"states_{steps}_{mask}" in names:
            ledger.compare(_ODE, f"states_{steps}_{mask}", torch.cat(states).mT, MEL_TOLERANCE)


def check_inference(ledger: Ledger, net: FlowNet, config: Mapping[str, Any]) -> None:
    """flow_inference.safetensors: single calls of the decoder, with and without prompt."""
    embedding = ledger.input(_INFERENCE, "embedding")
    with torch.inference_mode():
        ledger.compare(_INFERENCE, "spk_normalised", F.normalize(embedding, dim=-1), EXACT_TOLERANCE)
        ledger.compare(_INFERENCE, "spks", net.speaker_vector(embedding), NETWORK_TOLERANCE)
    ledger.input(_INFERENCE, "token")  # the longer sequence of the chains, stored here as well
    tokens = ledger.input(_INFERENCE, "short_token")[0]
    for name in [name for name in ledger.tensors(_INFERENCE) if name.startswith("mel_")]:
        words = name.split(".")
        prompt = _prompt(ledger, _INFERENCE, without="noprompt" in words)
        call = {
            "n_tokens": len(tokens),
            "token_offset": 0,
            "streaming": "stream" in words,
            "finalize": "final" in words,
        }
        (mel,) = decode_plan(net, prompt, tokens, [call], config, cache_bytes=0)
        ledger.compare(_INFERENCE, name, mel[None], MEL_TOLERANCE)


def check_plans(ledger: Ledger, net: FlowNet, config: Mapping[str, Any]) -> None:
    """token2wav.safetensors, mels: every plan of config.json, hop by hop; with caches it must be the same mel."""
    for name in config["plans"]:
        if f"{name}.mel" not in ledger.tensors(_CHAINS):
            continue
        for cache_bytes in (0, _CACHE_BYTES):
            mels = decode_chain(ledger, net, config, name, cache_bytes=cache_bytes)
            ledger.compare(_CHAINS, f"{name}.mel", torch.cat(mels, dim=1)[None], MEL_TOLERANCE)


def decode_chain(
    ledger: Ledger, net: FlowNet, config: Mapping[str, Any], name: str, *, cache_bytes: int
) -> list[Tensor]:
    """The mels [80, M] of the calls of one plan of config.json, in order.

    A plan speaks the short sequence of codes where that is long enough, as in the table of the README.
    """
    plan = config["plans"][name]
    longest = max(int(call["n_tokens"]) for call in plan)
    source = "token" if ledger.input(_CHAINS, "short_token").shape[1] < longest else "short_token"
    prompt = _prompt(ledger, _CHAINS, without="noprompt" in name)
    return decode_plan(net, prompt, ledger.input(_CHAINS, source)[0], plan, config, cache_bytes=cache_bytes)


def decode_plan(
    net: FlowNet,
    prompt: FlowPrompt,
    tokens: Tensor,
    plan: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    *,
    cache_bytes: int,
) -> list[Tensor]:
    """Run the calls of a plan through a fresh decoder. tokens: [n] -> mel [80, frames] of each call."""
    guidance = float(config["flow"]["decoder"]["cfm_params"]["inference_cfg_rate"])
    decoder = FlowDecoder(net, prompt_cache_bytes=cache_bytes, stream_cache_bytes=cache_bytes)
    stream = decoder.open(prompt, guidance=guidance)
    mels: list[Tensor] = []
    for call in plan:
        hop = FlowHop(
            stream=stream,
            tokens=tokens[: int(call["n_tokens"])],
            offset_tokens=int(call["token_offset"]),
            is_final=bool(call["finalize"]),
            full_mask=not call["streaming"],
        )
        mels.extend(decoder.decode([hop]))
    stream.close()
    return mels


@contextmanager
def recording(modules: Mapping[str, nn.Module], outputs: Outputs) -> Iterator[None]:
    """Store the output of each module's last call under its name."""

    def store(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            outputs[name] = output

        return hook

    handles = [module.register_forward_hook(store(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _mu(net: FlowNet, tokens: Tensor, *, is_final: bool, is_chunked: bool) -> Tensor:
    """mu of one whole sequence, [1, 2T, 80]."""
    embedded, valid = net.embed(tokens), None
    length = tokens.shape[1] - (0 if is_final else net.lookahead_tokens)
    if is_final:
        embedded = F.pad(embedded, (0, 0, 0, net.lookahead_tokens))
        valid = (torch.arange(embedded.shape[1]) < length)[None, :, None].float()
    contexts = BodyContexts(
        PlainContext([length], chunk=net.chunk_tokens if is_chunked else 0),
        PlainContext([FRAMES_PER_TOKEN * length], chunk=net.chunk_frames if is_chunked else 0),
    )
    return net.body(embedded, valid, contexts)


def _body_modules(body: nn.Module) -> dict[str, nn.Module]:
    if isinstance(body, ConformerBody):
        encoder = body.encoder
        return {
            "encoder_out": encoder,
            "embed": encoder.embed,
            "pre_lookahead": encoder.pre_lookahead_layer,
            "encoders.0.self_attn": cast(nn.Module, encoder.encoders[0].self_attn),
            "encoders.0": encoder.encoders[0],
            "encoders.last": encoder.encoders[-1],
            "up_layer": encoder.up_layer,
            "up_embed": encoder.up_embed,
            "up_encoders.0": encoder.up_encoders[0],
            "up_encoders.last": encoder.up_encoders[-1],
        }
    return {"pre_lookahead": cast(LookaheadUpsampler, body).pre_lookahead_layer}


def _compare_body_mids(ledger: Ledger, recorded: Outputs, length: int) -> None:
    embedded = recorded.pop("embed")
    mids = {key: value for key, value in recorded.items() if key != "encoder_out"}
    mids["embed"], mids["embed_context"] = embedded[:, :length], embedded[:, length:]
    mids["up_layer"] = mids["up_layer"].mT
    width = embedded.shape[2]
    mids["pos_emb"] = distance_vectors(torch.arange(length - 1, -length, -1), width)[None]
    for key, value in mids.items():
        ledger.compare(_ENCODER, f"partial_stream.mid.{key}", value, NETWORK_TOLERANCE)


def _estimator_modules(estimator: nn.Module) -> dict[str, nn.Module]:
    if isinstance(estimator, DiT):
        first, last = estimator.transformer_blocks[0], estimator.transformer_blocks[-1]
        return {
            "time_embed": estimator.time_embed,
            "input_proj": estimator.input_embed.proj,
            "conv_pos_embed": estimator.input_embed.conv_pos_embed,
            "input_embed": estimator.input_embed,
            "block.0.attn": cast(nn.Module, first.attn),
            "block.0": first,
            "block.last": last,
            "norm_out": estimator.norm_out,
        }
    unet = cast(UNet, estimator)
    down, up = (cast(nn.ModuleList, blocks[0]) for blocks in (unet.down_blocks, unet.up_blocks))
    first_mid, last_mid = cast(nn.ModuleList, unet.mid_blocks[0]), cast(nn.ModuleList, unet.mid_blocks[-1])
    transformer = cast(nn.ModuleList, down[1])[0]
    return {
        "time_mlp": unet.time_mlp,
        "down.resnet.block1": cast(nn.Module, down[0].block1),
        "down.resnet": down[0],
        "down.transformer.0.attn1": cast(nn.Module, transformer.attn1),
        "down.transformer.0": transformer,
        "down.conv": down[2],
        "mid.0.resnet": first_mid[0],
        "mid.last.transformer.last": cast(nn.ModuleList, last_mid[1])[-1],
        "up.resnet": up[0],
        "up.conv": up[2],
        "final_block": unet.final_block,
    }


def _compare_estimator_mids(ledger: Ledger, estimator: nn.Module, recorded: Outputs, times: Tensor) -> None:
    if isinstance(estimator, DiT):
        recorded["time_embed.sinusoid"] = sinusoid(times, estimator.time_embed.in_width)
        channel_first: tuple[str, ...] = ()
    else:
        recorded["time_embeddings"] = sinusoid(times, cast(UNet, estimator).in_channels)
        channel_first = ("block1", "resnet", "conv", "final_block")
    for key, value in recorded.items():
        name = f"stream.mid.{key}"
        value = value.mT if key.endswith(channel_first) and channel_first else value
        ledger.compare(_ESTIMATOR, name, value[:1], NETWORK_TOLERANCE)


def _fresh_context(net: FlowNet, frames: int, chunk: int) -> KeptContext:
    """A whole sequence without past, conditional and unconditional row."""
    return KeptContext(
        [frames],
        [[]],
        [[]],
        layers=net.estimator.num_attention_layers,
        width=net.estimator.attention_width,
        guidance_rows=2,
        chunk=chunk,
        dtype=net.dtype,
        device=net.device,
    )


def _prompt(ledger: Ledger, filename: str, *, without: bool) -> FlowPrompt:
    tokens, mel = ledger.input(filename, "prompt_token")[0], ledger.input(filename, "prompt_feat")[0]
    if without:
        tokens, mel = tokens[:0], mel[:0]
    return FlowPrompt(f"golden:{len(tokens)}", tokens, mel, ledger.input(filename, "embedding")[0])
