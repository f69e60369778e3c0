from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from light_tts.verify.flow_checks import check_flow
from light_tts.verify.report import Ledger

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
FILES = ["encoder", "estimator", "ode", "flow_inference", "token2wav"]
layouts = pytest.mark.parametrize("layout", ["cosyvoice2_tiny", "cosyvoice3_tiny"])


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def checked(layout: str, spoil: str | None = None) -> Ledger:
    ledger = Ledger(GOLDEN / layout)
    if spoil is not None:
        weight = ledger.tensors("flow.safetensors")[spoil]
        weight.mul_(1.02)
    check_flow(ledger, json.loads((GOLDEN / layout / "config.json").read_text()))
    return ledger


@layouts
def test_every_golden_tensor_of_the_flow_is_met(layout: str) -> None:
    ledger = checked(layout)
    assert [row for row in ledger.rows if not row.ok] == []
    names = {row.name for row in ledger.rows}
    for plan in ("offline", "offline_noprompt", "stream_upstream", "stream_constant_hop"):
        assert f"token2wav/{plan}.mel" in names
    # What is left unchecked is the vocoder's.
    left = {row.name for row in ledger.finish() if not row.ok}
    ours = {name for name in left if name.startswith(tuple(f"{file}.safetensors/" for file in FILES))}
    assert all(name.endswith((".wav", "/noise_table")) for name in ours)


@layouts
@pytest.mark.parametrize("weight", ["input_embedding.weight", "spk_embed_affine_layer.bias"])
def test_weights_that_are_slightly_wrong_are_noticed(layout: str, weight: str) -> None:
    failed = {row.name.split("/")[0] for row in checked(layout, spoil=weight).rows if not row.ok}
    assert {"flow_inference", "token2wav"} <= failed
