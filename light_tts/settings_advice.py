"""Settings that are allowed and still likely to be a mistake: one sentence each, for the log of the start."""

from __future__ import annotations

from light_tts.cpu_affinity import usable_cpus
from light_tts.settings import LLMSettings, Settings

FEWEST_GOOD_FLOW_STEPS = 4
MOST_STEPS_BETWEEN_ADMISSIONS = 32
LEAST_GOOD_LEAD_S = 4.0  # half of it is left when a stream goes on, and a chunk of the flow takes 1.1 s of it
STEP_MS = 10.0  # a decoding step of a busy GPU, for an estimate
BUILT_IN_ONLY = (
    "block_tokens", "kv_watermark", "expected_output_tokens", "steps_between_admissions", "graph_max_batch_size",
    "graph_warmup_iterations", "max_lead_s",
)  # fmt: skip
FLOW_CHUNK_TOKENS = 25  # the grid of the flow's attention


def advice(settings: Settings) -> list[str]:
    """What should be looked at again."""
    found = []
    steps = settings.acoustic.flow_steps
    if steps < FEWEST_GOOD_FLOW_STEPS:
        found.append(f"flow_steps {steps}: below {FEWEST_GOOD_FLOW_STEPS} the speech suffers")
    waited = settings.llm.steps_between_admissions
    if waited > MOST_STEPS_BETWEEN_ADMISSIONS:
        found.append(
            f"steps_between_admissions {waited}: a new request may wait {waited} decoding steps, about "
            f"{waited * STEP_MS / 1000.0:.1f} s at {STEP_MS:g} ms each, before it begins"
        )
    lead_s = settings.llm.max_lead_s
    if 0.0 < lead_s < LEAST_GOOD_LEAD_S:
        found.append(
            f"max_lead_s {lead_s:g}: below {LEAST_GOOD_LEAD_S:g} a stream that has rested may lack codes for its next "
            "chunk, and its listener hears a gap"
        )
    hop = settings.acoustic.token_hop_len
    if hop is not None and hop % FLOW_CHUNK_TOKENS:
        found.append(
            f"token_hop_len {hop}: chunks end on the flow's grid of {FLOW_CHUNK_TOKENS}; only their mean is {hop}"
        )
    if settings.llm.greedy:
        found.append("greedy: always the most probable speech token, which sounds monotonous and may repeat itself")
    if settings.llm.llm_backend == "vllm":
        idle = [name for name in BUILT_IN_ONLY if getattr(settings.llm, name) != getattr(LLMSettings, name)]
        if idle:
            found.append(f"{', '.join(idle)}: no effect with llm_backend vllm, which schedules in its own way")
    cores = usable_cpus()
    if settings.server.http_workers > cores:
        found.append(f"http_workers {settings.server.http_workers}: this machine has {cores} processors")
    return found
