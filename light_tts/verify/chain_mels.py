"""The mel that our flow makes of every plan of a golden directory: where the vocoder's end-to-end checks start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from light_tts.acoustic.flow import FlowDecoder, FlowHop
from light_tts.models.nets.flow_net import FlowNet, build_dit_flow, build_unet_flow
from light_tts.types import FlowPrompt
from light_tts.verify.report import Ledger

_CHAINS = "token2wav.safetensors"


def chain_mels(ledger: Ledger, config: Mapping[str, Any]) -> dict[str, list[Tensor]]:
    """Per plan of config.json the mels [80, M] of its calls, in order."""
    build = build_unet_flow if str(config["model"]).endswith("2") else build_dit_flow
    net = build(config["flow"], ledger.inputs("flow.safetensors"))
    return {name: _decode(ledger, net, name, plan, config) for name, plan in config["plans"].items()}


def _decode(
    ledger: Ledger, net: FlowNet, name: str, plan: Sequence[Mapping[str, Any]], config: Mapping[str, Any]
) -> list[Tensor]:
    guidance = float(config["flow"]["decoder"]["cfm_params"]["inference_cfg_rate"])
    decoder = FlowDecoder(net, prompt_cache_bytes=0, stream_cache_bytes=0)
    stream = decoder.open(_prompt(ledger, without="noprompt" in name), guidance=guidance)
    tokens = _tokens(ledger, max(int(call["n_tokens"]) for call in plan))
    mels = []
    for call in plan:
        hop = FlowHop(
            stream=stream,
            tokens=tokens[: int(call["n_tokens"])],
            offset_tokens=int(call["token_offset"]),
            is_final=bool(call["finalize"]),
            full_mask=not call["streaming"],
        )
        mels += decoder.decode([hop])
    stream.close()
    return mels


def _tokens(ledger: Ledger, length: int) -> Tensor:
    """The recorded codes a plan speaks: the short sequence where it is long enough, as in the table of the README."""
    short = ledger.input(_CHAINS, "short_token")[0]
    return short if len(short) >= length else ledger.input(_CHAINS, "token")[0]


def _prompt(ledger: Ledger, *, without: bool) -> FlowPrompt:
    tokens, mel = (ledger.input(_CHAINS, name)[0] for name in ("prompt_token", "prompt_feat"))
    speaker = ledger.input(_CHAINS, "embedding")[0]
    return FlowPrompt("golden", tokens[:0] if without else tokens, mel[:0] if without else mel, speaker)
