"""Which hops belong to which lane: a short call for first audio need not wait for the long one that is under way.

A single lane serves everybody. With an express lane beside it, first hops that are short and whose voice is known go
there, and all else is the main lane's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from light_tts.acoustic.candidate import Candidate
from light_tts.acoustic.choice import Share, choose_hops
from light_tts.acoustic.express_sizes import EXPRESS_CHUNKS, EXPRESS_ROWS
from light_tts.acoustic.flow import FlowDecoder
from light_tts.acoustic.flow_cache import PromptKey
from light_tts.acoustic.run import AcousticRun, Work
from light_tts.acoustic.stage_costs import CostTable
from light_tts.models.nets.flow_net import MAX_FRAMES
from light_tts.settings import AcousticSettings


class LaneShare(Share):
    """Everybody, for a single lane. All methods: the lock of the open runs is held.

    costs:  what calls have cost on the lane.
    """

    is_express = False

    def __init__(self, settings: AcousticSettings) -> None:
        super().__init__(settings)
        self.costs = CostTable()

    @property
    def most_frames(self) -> int:
        """Of the longest hop."""
        return MAX_FRAMES

    def choose(self, runs: Mapping[int, AcousticRun], now_s: float, *, is_idle: bool) -> tuple[Work, float | None]:
        """See `choose_hops`."""
        return choose_hops(runs, self.costs, self._settings, now_s, is_idle=is_idle, share=self)

    def begin(self, work: Work) -> None:
        """A call of these hops is about to be launched."""
        for run, _ in work:
            run.hold(self)

    def end(self, work: Work) -> None:
        """All of the oldest call has been computed."""
        for run, _ in work:
            run.let_go()


class MainShare(LaneShare):
    """What an express lane leaves."""

    def __init__(self, settings: AcousticSettings, flow: FlowDecoder) -> None:
        super().__init__(settings)
        self._flow = flow
        self.express_frames = EXPRESS_CHUNKS * flow.net.chunk_frames
        self._filling: deque[set[PromptKey]] = deque()  # voices whose states calls under way compute
        self._num_runs = 0

    def count(self, runs: Mapping[int, AcousticRun]) -> None:
        """See how many are open. One by itself has nothing in its way; among many, small calls cost all too much."""
        self._num_runs = len(runs)

    def choose(self, runs: Mapping[int, AcousticRun], now_s: float, *, is_idle: bool) -> tuple[Work, float | None]:
        """See LaneShare."""
        self.count(runs)
        return super().choose(runs, now_s, is_idle=is_idle)

    @property
    def leaves_any(self) -> bool:
        """False among many runs, and for one by itself."""
        return 1 < self._num_runs <= self._settings.express_streams

    def sees(self, run: AcousticRun) -> bool:
        """See LaneShare."""
        return run.is_free_for(self)

    def takes(self, run: AcousticRun, candidate: Candidate) -> bool:
        """See LaneShare."""
        return not self.leaves(run, candidate)

    def awaits(self, run: AcousticRun) -> bool:
        """Those are in the express lane: its call ends sooner when no other begins beside it."""
        return True

    def leaves(self, run: AcousticRun, candidate: Candidate) -> bool:
        """True for a short first hop among a few other runs, in a voice whose states are there.

        What a changed speed keeps stays on one lane.
        """
        key = run.flow.prompt_key
        return (
            self.leaves_any
            and not candidate.is_started
            and not candidate.is_buffered
            and candidate.frames <= self.express_frames
            and run.resampler is None
            and key in self._flow.prompts
            and not any(key in keys for keys in self._filling)
        )

    def begin(self, work: Work) -> None:
        """See LaneShare."""
        super().begin(work)
        keys = {run.flow.prompt_key for run, hop in work if not hop.full_mask}
        self._filling.append({key for key in keys if key not in self._flow.prompts})

    def end(self, work: Work) -> None:
        """See LaneShare."""
        super().end(work)
        self._filling.popleft()


class ExpressShare(LaneShare):
    """What the main lane leaves."""

    is_express = True

    def __init__(self, settings: AcousticSettings, main: MainShare) -> None:
        super().__init__(settings)
        self._main = main

    @property
    def max_batch(self) -> int:
        """See LaneShare."""
        return min(EXPRESS_ROWS, self._settings.max_batch)

    @property
    def most_frames(self) -> int:
        """See LaneShare."""
        return self._main.express_frames

    def choose(self, runs: Mapping[int, AcousticRun], now_s: float, *, is_idle: bool) -> tuple[Work, float | None]:
        """See LaneShare."""
        self._main.count(runs)
        if not self._main.leaves_any:
            return [], None
        return super().choose(runs, now_s, is_idle=is_idle)

    def sees(self, run: AcousticRun) -> bool:
        """See LaneShare."""
        return run.is_unheard and run.is_free_for(self)

    def awaits(self, run: AcousticRun) -> bool:
        """Nobody: a call for one is over soon, and the next one can begin."""
        return False

    def takes(self, run: AcousticRun, candidate: Candidate) -> bool:
        """See LaneShare."""
        return self._main.leaves(run, candidate)
