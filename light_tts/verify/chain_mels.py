"""The mel that our flow makes of every plan of a golden directory: where the vocoder's end-to-end checks start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from light_tts.verify.flow_checks import decode_chain, golden_flow
from light_tts.verify.report import Ledger


def chain_mels(ledger: Ledger, config: Mapping[str, Any]) -> dict[str, list[Tensor]]:
    """Per plan of config.json the mels [80, M] of its calls, in order."""
    net = golden_flow(ledger, config)
    return {name: decode_chain(ledger, net, config, name, cache_bytes=0) for name in config["plans"]}
