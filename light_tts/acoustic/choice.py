"""What a lane does next, given all open runs: the planner's questions put together, its answer read.

Reads no clock, so that a simulation can ask the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from light_tts.acoustic.candidate import Candidate
from light_tts.acoustic.chunking import HopPlan
from light_tts.acoustic.planner import first_hop_under_load, plan
from light_tts.acoustic.run import AcousticJob, AcousticRun, Work
from light_tts.acoustic.stage_costs import CostTable
from light_tts.settings import AcousticSettings


def hop_plan_for(
    job: AcousticJob,
    settings: AcousticSettings,
    costs: CostTable,
    *,
    num_streams: int,
    chunk_tokens: int,
    lookahead_tokens: int,
) -> HopPlan:
    """The hops of a new run; the first one is longer when the system is near its capacity.

    num_streams: open runs, this one included.
    """
    prompt_tokens = int(job.prompt.tokens.shape[0])
    if not job.stream:
        return HopPlan.offline(prompt_tokens, full_mask=settings.whole_answer_mask == "full")
    first_hop_tokens = settings.first_hop
    if settings.prompt_alignment == "exact":
        # The reference's first hop is a whole chunk and what the prompt's last one lacks.
        first_hop_tokens = max(first_hop_tokens, chunk_tokens)
    has_full_mask = settings.final_hop_mask == "full"
    if not has_full_mask:  # with it, how the audio sounds depends on where hops end
        first_hop_tokens = first_hop_under_load(
            costs,
            num_streams,
            least_tokens=first_hop_tokens,
            chunk_tokens=chunk_tokens,
            max_tokens=settings.max_hop_tokens,
            max_batch=settings.max_batch,
        )
    return HopPlan.streaming(
        prompt_tokens,
        chunk_tokens=chunk_tokens,
        lookahead_tokens=lookahead_tokens,
        first_hop_tokens=first_hop_tokens,
        max_hop_tokens=settings.max_hop_tokens,
        even_hop_tokens=settings.token_hop_len,
        final_full_mask=has_full_mask,
    )


class Share:
    """Which hops are chosen among: all of them. Where several serve, each has a part of it; see `LaneShare`."""

    def __init__(self, settings: AcousticSettings) -> None:
        self._settings = settings

    @property
    def max_batch(self) -> int:
        """Most hops of one call."""
        return self._settings.max_batch

    def sees(self, run: AcousticRun) -> bool:
        """False for runs to leave alone."""
        return True

    def takes(self, run: AcousticRun, candidate: Candidate) -> bool:
        """False for hops that somebody else serves."""
        return True

    def awaits(self, run: AcousticRun) -> bool:
        """Others had better wait for a run that is not chosen among, and whose first audio somebody waits for."""
        return run.is_unheard


def choose_hops(
    runs: Mapping[int, AcousticRun],
    costs: CostTable,
    settings: AcousticSettings,
    now_s: float,
    *,
    is_idle: bool = True,
    share: Share | None = None,
) -> tuple[Work, float | None]:
    """(the hops to run now in one call, when to look again if nothing happens before).

    runs:     by key, in the order in which they were opened. Call with their tokens at rest.
    is_idle:  nothing is being computed; otherwise first chunks have waited for each other long enough.
    share:    None: all of them.
    """
    share = Share(settings) if share is None else share
    wait_s = settings.boundary_wait_ms / 1000.0
    is_crowded = len(runs) > 1
    candidates: list[Candidate] = []
    num_unheard, num_playing, next_dry_s = 0, 0, math.inf
    for run in runs.values():
        if not share.sees(run):
            num_unheard += share.awaits(run)
            continue
        candidate = run.offer(now_s, is_crowded=is_crowded, boundary_wait_s=wait_s)
        if candidate is not None and share.takes(run, candidate):
            candidates.append(candidate)
            num_unheard += candidate.unplayed_s is None and not candidate.is_buffered
        elif run.is_unheard:
            num_unheard += share.awaits(run)
        elif (dry_s := run.dry_s(now_s)) is not None:
            next_dry_s = min(next_dry_s, dry_s)
            num_playing += 1
    choice = plan(
        candidates,
        costs,
        max_batch=share.max_batch,
        num_unheard=num_unheard,
        num_playing=num_playing,
        next_dry_s=next_dry_s,
        is_idle=is_idle,
    )
    return [(runs[pick.key], runs[pick.key].hop_with(pick.more_chunks)) for pick in choice.picks], choice.recheck_s
