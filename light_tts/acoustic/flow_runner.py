"""Who computes the rows of a flow call, and what keeps their states: the interface, and the plain version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from light_tts.acoustic.flow_batch import FlowRow, run_rows
from light_tts.acoustic.flow_script import scripted
from light_tts.acoustic.flow_states import FlowStates, KeptStates, allocate_states, states_bytes
from light_tts.events import NO_PROGRESS, StartProgress
from light_tts.models.nets.flow_net import FlowNet

# Rows of one run are padded to the longest. More padding than this, and they run apart.
_MAX_PADDED_CPU = 1.25
_MAX_PADDED_GPU = 2.0


class FlowRunner(Protocol):
    """Computes rows together. States given to it are those it allocated."""

    def states_bytes(self, num_tokens: int, steps: int) -> int:
        """Bytes of the states of so many tokens, whole chunks."""

    def allocate(self, num_tokens: int, steps: int) -> KeptStates | None:
        """Empty states, to be filled by one run; None when there is no room, and they are to be computed again."""

    def groups(self, rows: Sequence[FlowRow]) -> list[list[int]]:
        """Indices of the rows that had better run together, each in one group. One mask for all of them."""

    def warm_up(self, max_rows: int, progress: StartProgress = NO_PROGRESS) -> None:
        """Get ready for the hops of up to so many streams. On the thread that calls `run`, or before there is one."""

    def run(self, rows: Sequence[FlowRow], *, steps: int, is_chunked: bool) -> list[Tensor]:
        """Mel of each row's new tokens, [2 * num_tokens, 80] float32; see `flow_batch.run_rows`."""


class PlainRunner:
    """Every operation by itself, states in tensors of their own: any device, any size."""

    def __init__(self, net: FlowNet) -> None:
        self._net, self._estimator = net, scripted(net)

    def states_bytes(self, num_tokens: int, steps: int) -> int:
        """See FlowRunner."""
        return states_bytes(self._net, num_tokens, steps)

    def allocate(self, num_tokens: int, steps: int) -> FlowStates:
        """See FlowRunner."""
        return allocate_states(self._net, num_tokens, steps)

    def groups(self, rows: Sequence[FlowRow]) -> list[list[int]]:
        """See FlowRunner; rows of similar lengths."""
        most_padded = _MAX_PADDED_GPU if self._net.device.type == "cuda" else _MAX_PADDED_CPU
        lengths = [row.num_tokens for row in rows]
        groups: list[list[int]] = []
        for index in sorted(range(len(rows)), key=lambda index: -lengths[index]):
            if groups:
                joined = [*groups[-1], index]
                if len(joined) * lengths[joined[0]] <= most_padded * sum(lengths[member] for member in joined):
                    groups[-1] = joined
                    continue
            groups.append([index])
        return groups

    def warm_up(self, max_rows: int, progress: StartProgress = NO_PROGRESS) -> None:
        """See FlowRunner; nothing to do."""

    def run(self, rows: Sequence[FlowRow], *, steps: int, is_chunked: bool) -> list[Tensor]:
        """See FlowRunner."""
        return run_rows(self._net, rows, steps=steps, is_chunked=is_chunked, estimator=self._estimator)
