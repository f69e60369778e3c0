"""Golden checks of the language model: network, sampler, lengths, bi-stream layout, silence filter."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from light_tts.llm.bistream import BiStreamLayout
from light_tts.llm.layout import NOTHING_BLOCKED, Blocked, OneWayLayout, length_limits, one_way_rows
from light_tts.llm.silence import SilenceFilter
from light_tts.models.speech_ids import SpeechIds
from light_tts.types import LLMPrompt
from light_tts.verify.llm_golden import Case, Forward, Golden, read_json, sampling_batch
from light_tts.verify.report import Ledger

PREFILL_TOLERANCE = 2e-4
STEP_TOLERANCE = 5e-4
PROBABILITY_TOLERANCE = 1e-6


def check_llm(ledger: Ledger) -> None:
    """Check every model folder (known by its config.json) and the silence filter of a directory."""
    for path in sorted(ledger.directory.glob("*/config.json")):
        golden = Golden.read(ledger, path.parent.name)
        check_prefill(golden)
        check_greedy(golden)
        check_sampled(golden)
        check_ras(golden)
        check_limits(golden)
        check_bistream(golden)
    check_silence(ledger)
    ledger.opened("made_with.json")


def check_prefill(golden: Golden) -> None:
    """Rows, their embeddings, hidden states and logits; limits of length."""
    filename = f"{golden.name}/prefill.safetensors"
    for name, case in golden.json("prefill").items():
        rows = one_way_rows(golden.prompt(case), golden.ids)
        label = golden.label("prefill", name)
        golden.ledger.exact(f"{label}.feed", golden.names_of(rows), case["feed"])
        limits = length_limits(len(case["text"]))
        golden.ledger.exact(f"{label}.limits", limits, (case["min_len"], case["max_len"]))
        hidden = Forward(golden.lm).hidden(rows)
        embedded = golden.lm.embed(torch.tensor(rows))
        golden.ledger.compare(filename, f"{name}.inputs_embeds", embedded, 0.0)
        golden.ledger.compare(filename, f"{name}.hidden", hidden, PREFILL_TOLERANCE)
        golden.ledger.compare(filename, f"{name}.logits", golden.lm.logits(hidden), PREFILL_TOLERANCE)


def check_greedy(golden: Golden) -> None:
    """Steps in the cache, each fed with the most probable code of the one before."""
    prefill = golden.json("prefill")
    for name, case in golden.json("greedy").items():
        forward = Forward(golden.lm)
        logits = forward.logits(one_way_rows(golden.prompt(prefill[name]), golden.ids))[-1:]
        steps, codes = [logits], [_best_code(logits, golden.ids)]
        while len(codes) < len(case["tokens"]):
            steps.append(forward.logits([golden.ids.speech_row0 + codes[-1]]))
            codes.append(_best_code(steps[-1], golden.ids))
        golden.ledger.exact(golden.label("greedy", f"{name}.tokens"), codes, case["tokens"])
        filename = f"{golden.name}/greedy.safetensors"
        golden.ledger.compare(filename, f"{name}.logits", torch.cat(steps), STEP_TOLERANCE)


def check_sampled(golden: Golden) -> None:
    """Whole generations with scripted uniforms and the reference's masks."""
    prefill = golden.json("prefill")
    for name, case in golden.json("sampled").items():
        outcome = _generate(golden, golden.prompt(prefill[name]), case)
        for key, value in outcome.items():
            golden.ledger.exact(golden.label("sampled", f"{name}.{key}"), value, case[key])


def check_ras(golden: Golden) -> None:
    """Single decisions of the sampler."""
    filename = f"{golden.name}/ras.safetensors"
    for case in golden.json("ras"):
        logits = golden.ledger.input(filename, f"{case['name']}.logits")[None]
        blocked = _reference_blocked(case["masked_by_reference"])
        batch = sampling_batch(golden, case["history"], blocked, case["u"])
        decision = golden.sampler(case["V"]).sample(logits, batch)
        window = case["history"][-golden.config["sampling"]["win_size"] :]
        first = int(decision.first)
        actual = {
            "candidates": decision.candidates[decision.is_candidate].tolist(),
            "first": first,
            "repeats_in_window": window.count(first),
            "second_draw": bool(decision.redrawn),
            "final": int(decision.tokens),
        }
        label = golden.label("ras", case["name"])
        expected = {key: case[key] for key in actual}
        golden.ledger.exact(label, actual, expected)
        chosen = decision.probabilities[decision.is_candidate]
        for key, values in (
            ("candidate_probs", chosen),
            ("candidate_probs_renormalised", chosen / chosen.sum()),
        ):
            close = len(values) == len(case[key]) and torch.allclose(
                values, torch.tensor(case[key]), rtol=0.0, atol=PROBABILITY_TOLERANCE
            )
            golden.ledger.exact(f"{label}.{key}", close, True)


def check_limits(golden: Golden) -> None:
    """Counts of our limits; the reference's masks are shown, not followed (spec: llm, section 5)."""
    for index, case in enumerate(golden.json("limits")):
        label = golden.label("limits", str(index))
        limits = length_limits(len(case["text"]))
        golden.ledger.exact(f"{label}.limits", limits, (case["min_len"], case["max_len"]))
        prompt = LLMPrompt((), tuple(case["text"]), (), len(case["text"]))
        layout = OneWayLayout(prompt, golden.ids, min_codes=limits[0], max_codes=limits[1])
        masks, num_calls = [], 0
        script = dict([case["scripted_stop"]]) if case["scripted_stop"] else {}
        while layout.wants_sample:
            masks.append(_ids_in(layout.blocked))
            token = script.get(num_calls, 0)
            num_calls += 1
            if token in masks[-1]:
                break
            layout.accept(token)
        same = masks[: len(case["masked_ids_per_step"])] == case["masked_ids_per_step"]
        if script:
            # We block every stop id below the minimum, so these scripts cannot happen here.
            golden.ledger.exact(f"{label}.stop_is_blocked", layout.finish_reason, None)
            golden.ledger.note(f"{label}.masks", f"reference masks {case['masked_ids_per_step'][0]}, we all stop ids")
            continue
        golden.ledger.exact(f"{label}.tokens", len(layout.history), case["tokens"])
        golden.ledger.exact(f"{label}.model_calls", num_calls, case["model_calls"])
        golden.ledger.exact(f"{label}.masks", same, True, informative=True)


def check_bistream(golden: Golden) -> None:
    """Rows fed for scripted ids and, where stored, their logits. The reference's own feeds are informative."""
    for name, case in golden.json("bistream").items():
        label = golden.label("bistream", name)
        script = _Script.play(golden, case)
        expected = case["recommended"]
        feeds = [row for feed in expected["feeds"] for row in feed]
        golden.ledger.exact(f"{label}.feeds", golden.names_of(script.rows), feeds)
        golden.ledger.exact(f"{label}.yielded", script.codes, expected["yielded"])
        call_ends = _ends(expected["feeds"])
        # Where a block is full the fixture still makes a call, whose answer nobody reads; we do not.
        golden.ledger.exact(f"{label}.calls", set(script.sampled_at) - set(call_ends), set())
        if "impossible" in expected:
            golden.ledger.exact(f"{label}.impossible", script.impossible, expected["impossible"])
        else:
            used = (script.num_body, script.num_final)
            golden.ledger.exact(f"{label}.used", used, (expected["body_used"], expected["final_used"]))
            golden.ledger.exact(f"{label}.num_calls", len(script.sampled_at), sum(used))
        reference = [row for feed in case["reference"]["feeds"] for row in feed]
        golden.ledger.exact(f"{label}.reference", reference, feeds, informative=True)
        _check_bistream_logits(golden, name, case)


def _check_bistream_logits(golden: Golden, name: str, case: Case) -> None:
    filename = f"{golden.name}/bistream.safetensors"
    stored = golden.ledger.tensors(filename)
    for kind in ("recommended", "reference"):
        key = f"{name}.{kind}_last_logits"
        if key not in stored:
            continue
        feeds = case[kind]["feeds"]
        rows = golden.rows_of(row for feed in feeds for row in feed)
        last_logits = Forward(golden.lm).logits(rows)[torch.tensor(_ends(feeds)) - 1]
        is_informative = kind == "reference"
        golden.ledger.compare(filename, key, last_logits, STEP_TOLERANCE, informative=is_informative)


def check_silence(ledger: Ledger) -> None:
    """Codes in, codes that are heard."""
    if not (ledger.directory / "silent_tokens.json").is_file():
        return
    for index, case in enumerate(read_json(ledger, "silent_tokens.json")):
        silence = SilenceFilter(frozenset(case["silent_tokens"]))
        kept = [code for code in case["tokens"] if silence.keeps(code)]
        ledger.exact(f"silent_tokens/{index}", kept, case["kept"])


@dataclass
class _Script:
    """A bi-stream run whose samples were written down beforehand."""

    rows: list[int]
    codes: list[int] = field(default_factory=list)
    sampled_at: list[int] = field(default_factory=list)  # number of rows at each sample
    num_body: int = 0
    num_final: int = 0
    impossible: int | None = None  # a scripted id that our masks exclude

    @classmethod
    def play(cls, golden: Golden, case: Case) -> _Script:
        """Feed the case's text, answer each sample from its script."""
        layout = BiStreamLayout(
            tuple(case["prompt_text"]),
            tuple(case["prompt_speech"]),
            golden.ids,
            mix_ratio=tuple(golden.config["mix_ratio"]),
            max_rows=1 << 30,
        )
        script = cls(layout.rows)
        layout.append(case["text"])
        layout.finish()
        while layout.wants_sample:
            script.sampled_at.append(len(layout.rows))
            is_final = golden.ids.task_row in layout.rows
            token = case["final"][script.num_final] if is_final else case["body"][script.num_body]
            if token in _ids_in(layout.blocked):
                script.impossible = token
                break
            script.num_final += is_final
            script.num_body += not is_final
            code = layout.accept(token)
            script.codes += [] if code is None else [code]
        return script


def _generate(golden: Golden, prompt: LLMPrompt, case: Case) -> Case:
    fewest, most = length_limits(len(prompt.text_ids), *case["ratios"])
    layout = OneWayLayout(prompt, golden.ids, min_codes=0, max_codes=most)
    forward, sampler = Forward(golden.lm), golden.sampler()
    draws, draws_per_step = iter(case["u"]), []
    unused: list[float] = []
    logits = forward.logits(list(layout.rows))[-1:]
    while True:
        # The reference blocks the first stop id alone.
        blocked = ((golden.ids.num_codes, golden.ids.num_codes + 1), (0, 0)) if len(layout.history) < fewest else None
        while len(unused) < 2 and (u := next(draws, None)) is not None:
            unused.append(u)
        decision = sampler.sample(logits, sampling_batch(golden, layout.history, blocked, unused))
        num_draws = 1 + bool(decision.redrawn)
        del unused[:num_draws]
        draws_per_step.append(num_draws)
        layout.accept(int(decision.tokens))
        if layout.finish_reason is not None:
            return {
                "tokens": layout.history,
                "ended": layout.finish_reason.value,
                "draws_per_step": draws_per_step,
                "model_calls": len(draws_per_step),
                "min_len": fewest,
                "max_len": most,
            }
        logits = forward.logits(layout.rows[-1:])


def _reference_blocked(masked: list[int]) -> Blocked:
    assert len(masked) <= 1, "the reference masks one id at most"
    return ((masked[0], masked[0] + 1), (0, 0)) if masked else NOTHING_BLOCKED


def _ids_in(blocked: Blocked) -> list[int]:
    return [token for start, stop in blocked for token in range(start, stop)]


def _best_code(logits: Tensor, ids: SpeechIds) -> int:
    return int(logits[0, : ids.num_codes].argmax())


def _ends(feeds: list[list[str]]) -> list[int]:
    ends, total = [], 0
    for feed in feeds:
        total += len(feed)
        ends.append(total)
    return ends
