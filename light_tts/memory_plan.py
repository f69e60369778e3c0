"""What of a GPU's memory goes where, decided before anything is loaded: weights, recorded steps, caches, what is left.

Pure arithmetic over the sizes of a model (`model_sizes.py`), the settings and a number of bytes. With
`gpu_memory_utilization` the caches shrink until everything fits under that share (spec: server, 1.5); without it the KV
cache has the size that was asked for or the plan is refused, and only the flow's caches, which save computing, shrink.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from light_tts.acoustic.express_sizes import EXPRESS_ROWS, express_vocoder_frames
from light_tts.errors import ConfigError
from light_tts.model_sizes import ModelSizes
from light_tts.settings import EngineSettings, Settings
from light_tts.types import FRAMES_PER_TOKEN, TOKEN_RATE_HZ

MB = 2**20
MOST_UTILIZATION = 0.9

# What CUDA takes outside of torch's allocator: its context, loaded kernels, the recorded graphs themselves.
CONTEXT_BYTES = 800 * MB
# What torch's allocator cannot use because of how its blocks are cut.
_LOST_SHARE = 0.02
# Of what is left, how much is for the states of streams: a second of one takes about 100 MB, and what is not kept is
# computed again. The rest is for what is only estimated here.
_SPARE_FOR_STREAMS = 0.6

# Bounds that the stages keep: `llm/padded_steps.py`, `acoustic/flow_sizes.py`, `acoustic/vocoder_sizes.py`.
_MOST_PACKED_ROWS = 2048
_MOST_FLOW_FRAMES = 12_800
_MOST_VOCODER_FRAMES = 4096
_MOST_VOCODER_ROWS = 64
_MOST_VOCODER_SLOTS = 512
_FRAME_RATE_HZ = FRAMES_PER_TOKEN * TOKEN_RATE_HZ  # of mel
_RUNS_OF_REQUEST = 3  # segments that are spoken and prepared at once: `narration.py`

KV_CACHE, VOICE_STATES, STREAM_STATES = "KV cache", "flow states of voices", "flow states of streams"


class MemoryPart(NamedTuple):
    """One line of the budget."""

    name: str
    num_bytes: int


@dataclass(frozen=True)
class MemoryPlan:
    """A budget that fits.

    total_bytes:  of the GPU.
    cap_bytes:    most that this process may take, what CUDA itself takes included.
    parts:        where it goes; their sum is at most `cap_bytes`.
    max_total_tokens, prompt_cache_mb, stream_cache_mb:  the settings of these names as they fit.
    changes:      one sentence for each of them that is smaller than it was asked for.
    """

    total_bytes: int
    cap_bytes: int
    parts: tuple[MemoryPart, ...]
    max_total_tokens: int
    prompt_cache_mb: int
    stream_cache_mb: int
    changes: tuple[str, ...]

    @property
    def free_bytes(self) -> int:
        """Under the cap and not planned for."""
        return self.cap_bytes - sum(part.num_bytes for part in self.parts)

    @property
    def allocator_fraction(self) -> float:
        """Share of the GPU that torch's allocator may take, so that the process stays under the cap."""
        return max(0.0, (self.cap_bytes - CONTEXT_BYTES) / self.total_bytes)

    def apply(self, settings: Settings) -> Settings:
        """The settings with caches that fit."""
        return replace(
            settings,
            llm=replace(settings.llm, max_total_tokens=self.max_total_tokens),
            acoustic=replace(
                settings.acoustic, prompt_cache_mb=self.prompt_cache_mb, stream_cache_mb=self.stream_cache_mb
            ),
        )

    def describe(self) -> dict[str, Any]:
        """For health pages, in bytes."""
        return {
            "total_bytes": self.total_bytes,
            "cap_bytes": self.cap_bytes,
            "free_bytes": self.free_bytes,
            "parts": {part.name: part.num_bytes for part in self.parts},
            "max_total_tokens": self.max_total_tokens,
            "prompt_cache_mb": self.prompt_cache_mb,
            "stream_cache_mb": self.stream_cache_mb,
        }


def plan_memory(
    sizes: ModelSizes, settings: Settings, *, total_bytes: int, available_bytes: int | None = None
) -> MemoryPlan:
    """Share out the memory of a GPU.

    total_bytes:      of the GPU.
    available_bytes:  of it that is not taken by others, what CUDA takes for this process included; None: all.
    Raises ConfigError, with what would fit, when the weights and the least of everything else do not fit, and where no
    share is set also when the KV cache does not.
    """
    available = total_bytes if available_bytes is None else min(available_bytes, total_bytes)
    share = settings.engine.gpu_memory_utilization
    cap = available if share is None else min(available, math.floor(share * total_bytes))
    fixed = _fixed_parts(sizes, settings)
    block = settings.llm.block_tokens
    wanted_tokens = settings.llm.max_total_tokens // block * block
    least_tokens = min(wanted_tokens, -(-settings.llm.max_request_tokens // block) * block)
    room = cap - sum(part.num_bytes for part in fixed) - least_tokens * sizes.kv_token
    if room < 0:
        raise _too_small(settings.engine, total_bytes, available, cap, needed_bytes=cap - room)
    more_tokens = wanted_tokens - least_tokens
    if share is None and more_tokens * sizes.kv_token > room:
        most = (least_tokens + room // sizes.kv_token) // block * block
        raise ConfigError(
            f"max_total_tokens {settings.llm.max_total_tokens} takes {_mb(wanted_tokens * sizes.kv_token)} of GPU "
            f"memory, but beside the rest of the model there is room for at most {most} of {_mb(cap)}; lower it to that"
        )
    acoustic = settings.acoustic
    wanted_voices, wanted_streams = (mb * MB for mb in (acoustic.prompt_cache_mb, acoustic.least_stream_cache_mb))
    if share is None:
        least_tokens, room, more_tokens = wanted_tokens, room - more_tokens * sizes.kv_token, 0
    wanted = more_tokens * sizes.kv_token + wanted_voices + wanted_streams
    scale = min(1.0, room / wanted) if wanted else 1.0
    tokens = least_tokens + math.floor(scale * more_tokens) // block * block
    voices_mb, streams_mb = (math.floor(scale * mb / MB) for mb in (wanted_voices, wanted_streams))
    if acoustic.stream_cache_mb is None and room > wanted:
        streams_mb += math.floor(_SPARE_FOR_STREAMS * (room - wanted) / MB)
    plan = MemoryPlan(
        total_bytes=total_bytes,
        cap_bytes=cap,
        parts=(
            *fixed,
            MemoryPart(KV_CACHE, tokens * sizes.kv_token),
            MemoryPart(VOICE_STATES, voices_mb * MB),
            MemoryPart(STREAM_STATES, streams_mb * MB),
        ),
        max_total_tokens=tokens,
        prompt_cache_mb=voices_mb,
        stream_cache_mb=streams_mb,
        changes=(),
    )
    return replace(plan, changes=_changes(plan, settings))


def vocoder_slots(settings: Settings) -> int:
    """Streams whose vocoder states stay on the GPU at the same place: all that the requests served at once can have."""
    runs = _RUNS_OF_REQUEST * settings.engine.max_concurrent_requests
    return min(max(runs, _MOST_VOCODER_ROWS), _MOST_VOCODER_SLOTS) if runs else _MOST_VOCODER_SLOTS


def _fixed_parts(sizes: ModelSizes, settings: Settings) -> list[MemoryPart]:
    """What has the same size whatever there is."""
    llm, acoustic = settings.llm, settings.acoustic
    records = not llm.disable_cudagraph
    # Intermediate results of the largest calls. Recorded ones have memory of their own, which they share.
    packed_rows = min(llm.prefill_budget_tokens, _MOST_PACKED_ROWS)
    llm_recorded = packed_rows * sizes.llm_row + min(llm.graph_max_batch_size, llm.max_running) * sizes.llm_logits
    llm_work = llm.prefill_budget_tokens * sizes.llm_row + llm.max_running * sizes.llm_logits
    flow = _MOST_FLOW_FRAMES * sizes.flow_frame
    vocoder = _MOST_VOCODER_FRAMES * sizes.vocoder_frame
    express_frames = EXPRESS_ROWS * express_vocoder_frames(round(sizes.flow_page_s * _FRAME_RATE_HZ))
    express = express_frames * (sizes.flow_frame + sizes.vocoder_frame) if acoustic.express_streams else 0
    acoustic_recorded = vocoder + (flow + express if acoustic.flow_graphs else 0)
    recorded = records * (sizes.num_llms * llm_recorded + acoustic_recorded)
    work = sizes.num_llms * llm_work + max(flow, vocoder)
    weights = sizes.llm_weights + sizes.flow_weights + sizes.vocoder_weights
    lost = round(_LOST_SHARE * (weights + recorded + work))
    return [
        MemoryPart("CUDA context and kernels", CONTEXT_BYTES),
        MemoryPart("weights of the language model", sizes.llm_weights),
        MemoryPart("weights of the flow", sizes.flow_weights),
        MemoryPart("weights of the vocoder", sizes.vocoder_weights),
        MemoryPart("vocoder states of streams", (vocoder_slots(settings) + 1) * sizes.vocoder_stream),
        MemoryPart("recorded steps (CUDA graphs)", recorded),
        MemoryPart("intermediate results", work + lost),
    ]


def _too_small(
    engine: EngineSettings, total_bytes: int, available_bytes: int, cap_bytes: int, *, needed_bytes: int
) -> ConfigError:
    needs = f"the weights and the least of everything else take {_mb(needed_bytes)}"
    share, least_share = engine.gpu_memory_utilization, math.ceil(100 * needed_bytes / total_bytes) / 100
    if share is not None and cap_bytes < available_bytes and needed_bytes <= available_bytes:
        if least_share <= MOST_UTILIZATION:
            return ConfigError(
                f"gpu_memory_utilization {share:g} of this GPU is {_mb(cap_bytes)}, but {needs}; use at least "
                f"{least_share:g}"
            )
    else:
        taken_bytes = total_bytes - available_bytes
        if taken_bytes and needed_bytes <= MOST_UTILIZATION * total_bytes:
            return ConfigError(
                f"{needs} of GPU memory, but only {_mb(available_bytes)} of {_mb(total_bytes)} are free; end what "
                "else runs on this GPU, or use another one"
            )
    needed_mb = math.ceil(needed_bytes / MOST_UTILIZATION / MB)
    return ConfigError(
        f"{needs}, which does not fit into {MOST_UTILIZATION:g} of this GPU's {_mb(total_bytes)}; use a GPU with "
        f"{needed_mb} MB or more, quantise the language model (quant_type), or use --device cpu"
    )


def _changes(plan: MemoryPlan, settings: Settings) -> tuple[str, ...]:
    asked: Mapping[str, int] = {
        "max_total_tokens": settings.llm.max_total_tokens // settings.llm.block_tokens * settings.llm.block_tokens,
        "prompt_cache_mb": settings.acoustic.prompt_cache_mb,
        "stream_cache_mb": settings.acoustic.least_stream_cache_mb,
    }
    return tuple(
        f"{name} is {getattr(plan, name)} instead of {value}: more does not fit into {_mb(plan.cap_bytes)}"
        for name, value in asked.items()
        if getattr(plan, name) < value
    )


def _mb(num_bytes: int) -> str:
    return f"{num_bytes / MB:.0f} MB"
