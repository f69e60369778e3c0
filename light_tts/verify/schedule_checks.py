"""The chunk grid against recorded schedules: which tokens go to the acoustic model, and when."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from light_tts.acoustic.chunking import Hop, HopPlan
from light_tts.verify.report import Ledger

Case = dict[str, Any]


def check_schedule(ledger: Ledger) -> None:
    """Every case of a directory with stream, offline, voice-conversion, constant-hop and leaked-state schedules."""
    ledger.opened("made_with.json")
    for filename, plan in (
        ("stream.json", lambda case: _streamed(case, "generated_tokens")),
        ("vc_stream.json", lambda case: _streamed(case, "source_tokens")),
        (
            "offline.json",
            lambda case: _run(HopPlan.offline(case["prompt_tokens"]), case["generated_tokens"], ended=True),
        ),
    ):
        _check_file(ledger, filename, plan)
    _check_constant_hop(ledger)
    _check_no_leak(ledger)


def _check_file(ledger: Ledger, filename: str, plan: Callable[[Case], list[Hop]]) -> None:
    for case in _cases(ledger, filename):
        ledger.exact(_label(filename, case), _as_chunks(plan(case)), case["chunks"])


def _check_constant_hop(ledger: Ledger) -> None:
    """A fork's schedule; where it counts the stop token as a speech token and loses two frames, it is wrong."""
    filename = "fork_stream.json"
    for case in _cases(ledger, filename):
        hops = _streamed(case, "generated_tokens", growth=1, final_full_mask=False)
        has_fault = sum(chunk["mel_frames"] for chunk in case["chunks"]) < 2 * case["generated_tokens"]
        ledger.exact(_label(filename, case), _as_chunks(hops), case["chunks"], informative=has_fault)
        if has_fault:
            num_frames = sum(hop.num_frames for hop in hops)
            ledger.exact(f"{_label(filename, case)} no frame lost", num_frames, 2 * case["generated_tokens"])


def _check_no_leak(ledger: Ledger) -> None:
    """Requests in a row on one reference object, whose hop keeps growing; each of ours starts afresh."""
    filename = "reference_state_leak.json"
    for index, case in enumerate(_cases(ledger, filename)):
        hops = _streamed(case, "generated_tokens")
        # Only the first of them met an object in its original state.
        label = _label(filename, case) + (" (fresh)" if index == 0 else " (leaked state, not inherited)")
        ledger.exact(label, _as_chunks(hops), case["chunks"], informative=index > 0)
        fresh_tokens = 25 + -case["prompt_tokens"] % 25 + 3
        ledger.exact(f"{label} first hop", hops[0].visible_tokens, min(fresh_tokens, case["generated_tokens"]))


def _streamed(case: Case, count_key: str, *, growth: int = 2, final_full_mask: bool = True) -> list[Hop]:
    """Hops of a stream whose tokens arrive one by one."""
    plan = HopPlan.streaming(case["prompt_tokens"], growth=growth, final_full_mask=final_full_mask)
    hops: list[Hop] = []
    for available in range(case[count_key] + 1):
        hops += _run(plan, available, ended=False)
    return hops + _run(plan, case[count_key], ended=True)


def _run(plan: HopPlan, available_tokens: int, *, ended: bool) -> list[Hop]:
    hops = []
    while (hop := plan.next_hop(available_tokens, ended)) is not None:
        plan.advance(hop)
        hops.append(hop)
    return hops


def _as_chunks(hops: list[Hop]) -> list[Case]:
    return [
        {
            "tokens": hop.visible_tokens,
            "token_offset": hop.offset_tokens,
            "finalize": hop.is_final,
            "streaming_mask": not hop.full_mask,
            "mel_frames": hop.num_frames,
        }
        for hop in hops
    ]


def _cases(ledger: Ledger, filename: str) -> list[Case]:
    ledger.opened(filename)
    cases: list[Case] = json.loads((ledger.directory / filename).read_text(encoding="utf-8"))
    return cases


def _label(filename: str, case: Case) -> str:
    counts = " ".join(f"{key.removesuffix('_tokens')}={value}" for key, value in case.items() if key != "chunks")
    return f"{filename.removesuffix('.json')} {counts}"
